//! CSIStorageCapacities: how much a driver can still provide, and where.
//!
//! Source: `pkg/apis/storage/validation`, `pkg/registry/storage/csistoragecapacity`, `pkg/api/storage`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::storage::v1::CSIStorageCapacity;

use super::name;
use super::storageclass::old_label;
use crate::checks;
use crate::quantity;
use crate::strategy::{Column, NAME, Strategy};

#[derive(Debug)]
pub struct CSIStorageCapacities;

impl Strategy for CSIStorageCapacities {
    type Object = CSIStorageCapacity;

    fn validate(&self, capacity: &CSIStorageCapacity) -> Errors {
        let mut errors = Vec::new();
        if let Some(topology) = &capacity.node_topology {
            errors.extend(selector::validate(topology, &Path::new("nodeTopology")));
        }
        errors.extend(checks::dns1123_subdomain(&capacity.storage_class_name, &Path::new("storageClassName")));
        if let Some(amount) = &capacity.capacity
            && quantity::amount(amount).is_none_or(|amount| amount.is_negative())
        {
            errors.push(Error::invalid(&Path::new("capacity"), &amount.0, checks::NOT_NEGATIVE));
        }
        errors
    }

    /// What the driver was asked is fixed; what it answered may change.
    fn validate_update(&self, new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Errors {
        let mut errors = checks::immutable(&new.node_topology, &old.node_topology, &Path::new("nodeTopology"));
        let path = Path::new("storageClassName");
        errors.extend(checks::immutable(&new.storage_class_name, &old.storage_class_name, &path));
        errors
    }

    fn warnings(&self, capacity: &CSIStorageCapacity, _old: Option<&CSIStorageCapacity>) -> Vec<String> {
        let Some(topology) = &capacity.node_topology else { return Vec::new() };
        let path = Path::new("nodeTopology");
        let mut warnings = Vec::new();
        for (index, requirement) in topology.match_expressions.iter().flatten().enumerate() {
            if let Some(why) = old_label(&requirement.key) {
                let at = path.child("matchExpressions").index(index).child("key");
                warnings.push(format!("{at}: {} is {why}", requirement.key));
            }
        }
        for label in topology.match_labels.iter().flatten().map(|(label, _)| label) {
            if let Some(why) = old_label(label) {
                warnings.push(format!("{}: {why}", path.child("matchLabels").child(label)));
            }
        }
        warnings
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "StorageClassName",
                "string",
                "storageClassName represents the name of the StorageClass that the reported capacity applies to. It must meet the same requirements as the name of a StorageClass object (non-empty, DNS subdomain). If that object no longer exists, the CSIStorageCapacity object is obsolete and should be removed by its creator. This field is immutable.",
            ),
            Column::new(
                "Capacity",
                "string",
                "capacity is the value reported by the CSI driver in its GetCapacityResponse for a GetCapacityRequest with topology and parameters that match the previous fields.\n\nThe semantic is currently (CSI spec 1.2) defined as: The available capacity, in bytes, of the storage that can be used to provision volumes. If not set, that information is currently unavailable.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, capacity: &CSIStorageCapacity, _now: Timestamp) -> Vec<Value> {
        let amount = capacity.capacity.as_ref().map_or_else(|| "<unset>".to_owned(), |amount| amount.0.clone());
        vec![name(&capacity.metadata), capacity.storage_class_name.clone().into(), amount.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update, object};

    const CAPACITY: &str =
        "{metadata: {name: c}, storageClassName: fast, capacity: 5Gi, nodeTopology: {matchLabels: {zone: a}}}";

    #[test]
    fn a_capacity_is_of_a_class() {
        check(&CSIStorageCapacities, CAPACITY, &[]);
        check_starts(
            &CSIStorageCapacities,
            "{storageClassName: '', capacity: -1}",
            &[
                "storageClassName: Invalid value: \"\": a lowercase RFC 1123 subdomain",
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn only_the_answer_changes() {
        check_update(&CSIStorageCapacities, CAPACITY, &CAPACITY.replace("5Gi", "1Gi"), &[]);
        check_update(
            &CSIStorageCapacities,
            CAPACITY,
            "{storageClassName: slow}",
            &[
                "nodeTopology: Invalid value: null: field is immutable",
                "storageClassName: Invalid value: \"slow\": field is immutable",
            ],
        );
    }

    #[test]
    fn old_labels_are_told() {
        let old = CAPACITY.replace("{zone: a}", "{beta.kubernetes.io/os: linux}");
        assert_eq!(
            CSIStorageCapacities.warnings(&object(&CSIStorageCapacities, &old), None),
            [
                "nodeTopology.matchLabels.beta.kubernetes.io/os: deprecated since v1.14; use \"kubernetes.io/os\" instead"
            ]
        );
    }

    #[test]
    fn the_amount_is_shown() {
        check_cells(&CSIStorageCapacities, CAPACITY, "c | fast | 5Gi");
        check_cells(&CSIStorageCapacities, "{metadata: {name: c}, storageClassName: fast}", "c | fast | <unset>");
    }
}
