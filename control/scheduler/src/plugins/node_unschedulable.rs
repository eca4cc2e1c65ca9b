//! Cordoned nodes take no pods but those that tolerate it.

use k8s_openapi::api::core::v1::Taint;
use wharf_machinery::placement::tolerated;

use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection};
use crate::pod::PodInfo;

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if !node.unschedulable() {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if tolerated(&taint, pod.tolerations()) {
            return Ok(());
        }
        Err(Rejection { reason: "node(s) were unschedulable".to_owned(), plugin: self.name() })
    }

    fn hint(&self, _pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => {
                let cordoned = |node: &k8s_openapi::api::core::v1::Node| {
                    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
                };
                cordoned(old) && !cordoned(new)
            }
            Change::PodGone(_) => false,
        }
    }
}
