//! A pod that names a node goes nowhere else.

use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection};
use crate::pod::PodInfo;

pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let wanted = pod.node_name();
        if wanted.is_empty() || wanted == &*node.name {
            return Ok(());
        }
        Err(Rejection { reason: "node(s) didn't match the requested node name".to_owned(), plugin: self.name() })
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::NodeAdded(node) if node.metadata.name.as_deref() == Some(pod.node_name()))
    }
}
