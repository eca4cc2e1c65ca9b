//! A host port has one pod.

use crate::cluster::NodeInfo;
use crate::framework::{Change, Filter, Rejection};
use crate::pod::{HostPort, PodInfo};

pub struct NodePorts;

const ANY: &str = "0.0.0.0";

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let taken = |wanted: &HostPort| node.host_ports.keys().any(|held| clash(wanted, held));
        if pod.host_ports.iter().any(taken) {
            return Err(Rejection {
                reason: "node(s) didn't have free ports for the requested pod ports".to_owned(),
                plugin: self.name(),
            });
        }
        Ok(())
    }

    fn hint(&self, _pod: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::NodeAdded(_) | Change::PodGone(_))
    }
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    one.1 == other.1 && one.2 == other.2 && (one.0 == other.0 || one.0 == ANY || other.0 == ANY)
}
