//! Gives each node a range of pod addresses of its own (`spec.podCIDR`).
//!
//! The lowest free block is taken. Blocks are those that nodes in the view hold, and those given out that the view does not show
//! yet. One worker, so no two nodes are given the same.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/nodeipam` (range allocator).

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use async_trait::async_trait;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use wharf_client::{Action, Error, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger};
use wharf_types::k8s::api::core::v1::Node;

use crate::call::{During as _, gone_is_fine};

/// The cluster's pod addresses, and how they are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange {
    pub base: Ipv4Addr,
    /// Length of the cluster's prefix.
    pub prefix: u8,
    /// Length of each node's prefix; at least `prefix`, and 32 at most.
    pub node_prefix: u8,
}

impl PodRange {
    fn blocks(self) -> u64 {
        1 << u32::from(self.node_prefix.clamp(self.prefix, 32) - self.prefix)
    }

    /// The block with this number, such as `10.244.3.0/24`.
    fn block(self, number: u64) -> String {
        let size = 1_u64 << (32 - u32::from(self.node_prefix));
        let address = u64::from(u32::from(self.base)) + number * size;
        // The number is below `blocks`, so the address is in the range.
        let address = Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX));
        format!("{address}/{}", self.node_prefix)
    }

    fn first_free(self, taken: &HashSet<String>) -> Option<String> {
        (0..self.blocks()).map(|number| self.block(number)).find(|block| !taken.contains(block))
    }
}

pub struct NodeIpam {
    client: Client,
    nodes: Lister<Node>,
    range: PodRange,
    /// Given out, until the view shows it.
    given: Mutex<HashMap<ObjectKey, String>>,
    recorder: Recorder,
}

impl NodeIpam {
    pub fn new(informers: &Informers, range: PodRange, recorder: Recorder) -> Self {
        Self { client: informers.client().clone(), nodes: informers.of(), range, given: Mutex::default(), recorder }
    }
}

#[async_trait]
impl Reconcile for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.nodes)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let node = self.nodes.get(key);
        let Some(node) = node.filter(|node| held(node).is_none() && node.metadata.deletion_timestamp.is_none()) else {
            self.given.lock().remove(key);
            return Ok(Action::done());
        };
        let block = {
            let mut given = self.given.lock();
            let mut taken: HashSet<String> = self.nodes.list().iter().filter_map(|node| held(node)).collect();
            taken.extend(given.iter().filter(|(other, _)| *other != key).map(|(_, block)| block.clone()));
            let block = given.get(key).cloned().or_else(|| self.range.first_free(&taken));
            block.inspect(|block| drop(given.insert(key.clone(), block.clone())))
        };
        let Some(block) = block else {
            let message = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.normal(&*node, "CIDRNotAvailable", message);
            return Err("no pod addresses are left for this node".into());
        };
        let patch = Patch::Merge(json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": block, "podCIDRs": [block]},
        }));
        let api = Api::<Node>::all(self.client.clone());
        gone_is_fine(api.patch(&key.name, &PatchParams::default(), &patch).await)
            .during("give addresses to node", key)?;
        Ok(Action::done())
    }
}

fn held(node: &Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone().filter(|cidr| !cidr.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: (&str, u8, u8), taken: &[&str], expected: Option<&str>) {
        let range = PodRange { base: range.0.parse().expect("an address"), prefix: range.1, node_prefix: range.2 };
        let taken = taken.iter().map(|block| (*block).to_owned()).collect();
        assert_eq!(range.first_free(&taken).as_deref(), expected);
    }

    #[test]
    fn nodes_get_the_lowest_free_block() {
        check(("127.64.0.0", 12, 20), &[], Some("127.64.0.0/20"));
        check(("127.64.0.0", 12, 20), &["127.64.0.0/20", "127.64.32.0/20"], Some("127.64.16.0/20"));
        check(("10.0.0.0", 23, 24), &["10.0.0.0/24", "10.0.1.0/24"], None);
        check(("10.0.0.0", 24, 24), &[], Some("10.0.0.0/24"));
    }
}
