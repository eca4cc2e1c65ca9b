//! CSINodes: which CSI drivers a node has, and how many volumes each can attach there.
//!
//! Source: `pkg/apis/storage/validation`, `pkg/registry/storage/csinode`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::storage::v1::{CSINode, CSINodeDriver};

use super::storageclass::validate_driver_name;
use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct CSINodes;

/// Longest name that a driver has for a node, in bytes.
const NODE_ID_MAX: usize = 256;

impl Strategy for CSINodes {
    type Object = CSINode;

    fn validate(&self, node: &CSINode) -> Errors {
        let path = Path::new("spec").child("drivers");
        let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
        for (index, driver) in node.spec.drivers.iter().enumerate() {
            let path = path.index(index);
            errors.extend(validate_driver(driver, &path));
            if !seen.insert(&driver.name) {
                errors.push(Error::duplicate(&path.child("name"), &driver.name));
            }
            errors.extend(validate_topology_keys(driver, &path));
        }
        errors
    }

    /// A driver that is there stays as it is, but for the number of volumes it can attach.
    fn validate_update(&self, new: &CSINode, old: &CSINode) -> Errors {
        let path = Path::new("spec").child("drivers");
        let mut errors = Vec::new();
        for held in &old.spec.drivers {
            for driver in new.spec.drivers.iter().filter(|driver| driver.name == held.name) {
                let uncounted = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
                errors.extend(checks::immutable(&uncounted(driver), &uncounted(held), &path));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, node: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![name(&node.metadata), node.spec.drivers.len().into(), created(&node.metadata, now)]
    }
}

fn validate_driver(driver: &CSINodeDriver, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&driver.name, &path.child("name"));
    let at = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    if driver.node_id.len() > NODE_ID_MAX {
        errors.push(Error::invalid(&at, &driver.node_id, format!("must be {NODE_ID_MAX} characters or less")));
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|resources| resources.count) {
        errors.extend(checks::non_negative(count, &path.child("allocatable").child("count")));
    }
    errors
}

/// Upstream blames the driver for its keys.
fn validate_topology_keys(driver: &CSINodeDriver, path: &Path) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.push(Error::required(path, ""));
        }
        if !seen.insert(key) {
            errors.push(Error::duplicate(path, key));
        }
        errors.extend(checks::qualified_name(key, path));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const NODE: &str = "{metadata: {name: n}, spec: {drivers: [{name: csi.example.com, nodeID: n1, topologyKeys: [zone], allocatable: {count: 5}}]}}";

    #[test]
    fn a_driver_is_there_once() {
        check(&CSINodes, NODE, &[]);
        check(
            &CSINodes,
            "{spec: {drivers: [{name: a, nodeID: '', allocatable: {count: -1}}, {name: a, nodeID: x, topologyKeys: [k, k]}]}}",
            &[
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "spec.drivers[1].name: Duplicate value: \"a\"",
                "spec.drivers[1]: Duplicate value: \"k\"",
            ],
        );
    }

    #[test]
    fn only_the_count_of_a_driver_changes() {
        check_update(&CSINodes, NODE, &NODE.replace("count: 5", "count: 9"), &[]);
        check_update(&CSINodes, NODE, "{spec: {drivers: []}}", &[]);
        check_update(
            &CSINodes,
            NODE,
            &NODE.replace("n1", "n2"),
            &[
                "spec.drivers: Invalid value: {\"name\":\"csi.example.com\",\"nodeID\":\"n2\",\"topologyKeys\":[\"zone\"]}: field is immutable",
            ],
        );
    }

    #[test]
    fn drivers_are_counted() {
        check_cells(&CSINodes, NODE, "n | 1 | <unknown>");
    }
}
