//! PriorityClasses: names for how much a pod matters.
//!
//! Source: `pkg/apis/scheduling`, `pkg/registry/scheduling/priorityclass`. The two system classes are made when the server
//! starts; that only one class is the default is the Priority plugin's to see to.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::scheduling::v1::PriorityClass;

use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PriorityClasses;

/// A class that every cluster has.
#[derive(Clone, Copy, Debug)]
pub struct SystemClass {
    pub name: &'static str,
    pub value: i32,
    pub description: &'static str,
}

pub const SYSTEM_CLASSES: &[SystemClass] = &[
    SystemClass {
        name: "system-node-critical",
        value: 2_000_001_000,
        description: "Used for system critical pods that must not be moved from their current node.",
    },
    SystemClass {
        name: "system-cluster-critical",
        value: 2_000_000_000,
        description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    },
];
const SYSTEM_PREFIX: &str = "system-";
const USER_MAX: i32 = 1_000_000_000;

impl Strategy for PriorityClasses {
    type Object = PriorityClass;

    fn default(&self, class: &mut PriorityClass) {
        class.value.get_or_insert(0);
        class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        // An empty description is none.
        class.description.take_if(|description| description.is_empty());
    }

    fn prepare_for_create(&self, class: &mut PriorityClass) {
        class.metadata.generation = Some(1);
    }

    fn validate(&self, class: &PriorityClass) -> Errors {
        let mut errors = Vec::new();
        let (name, value) = (class.metadata.name.as_deref().unwrap_or_default(), class.value.unwrap_or_default());
        if name.starts_with(SYSTEM_PREFIX) {
            errors.extend(not_of_the_system(class).map(|why| {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                Error::forbidden(&Path::new("metadata").child("name"), why)
            }));
        } else if value > USER_MAX {
            let why = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            errors.push(Error::forbidden(&Path::new("value"), why));
        }
        if let Some(policy) = &class.preemption_policy {
            let policies = &["PreemptLowerPriority", "Never"];
            errors.extend(checks::required_one_of(policy, policies, &Path::new("preemptionPolicy")));
        }
        errors
    }

    fn validate_update(&self, new: &PriorityClass, old: &PriorityClass) -> Errors {
        let mut errors = Vec::new();
        if new.value != old.value {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let (policy, old_policy) = (&new.preemption_policy, &old.preemption_policy);
        errors.extend(checks::immutable(policy, old_policy, &Path::new("preemptionPolicy")));
        errors
    }

    fn refuse_delete(&self, name: &str) -> Option<&'static str> {
        let system = SYSTEM_CLASSES.iter().any(|class| class.name == name);
        system.then_some("this is a system priority class and cannot be deleted")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Value",
                "integer",
                "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
            ),
            Column::new(
                "Global-Default",
                "boolean",
                "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
            ),
            AGE,
            Column::new(
                "PreemptionPolicy",
                "string",
                "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            name(&class.metadata),
            class.value.unwrap_or_default().into(),
            class.global_default.unwrap_or_default().into(),
            created(&class.metadata, now),
            class.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }
}

/// Why a class with a reserved name is not the one that every cluster has.
fn not_of_the_system(class: &PriorityClass) -> Option<String> {
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let Some(system) = SYSTEM_CLASSES.iter().find(|system| system.name == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if class.value.unwrap_or_default() != system.value {
        return Some(format!("value of {name} PriorityClass must be {}", system.value));
    }
    class.global_default.unwrap_or_default().then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    #[test]
    fn system_names_are_reserved() {
        check(&PriorityClasses, "{metadata: {name: system-node-critical}, value: 2000001000}", &[]);
        let reserved = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error:";
        for (yaml, why) in [
            ("{metadata: {name: system-a}, value: 1}", "system-a is not a known system priority class"),
            (
                "{metadata: {name: system-node-critical}, value: 1}",
                "value of system-node-critical PriorityClass must be 2000001000",
            ),
            (
                "{metadata: {name: system-node-critical}, value: 2000001000, globalDefault: true}",
                "globalDefault of system-node-critical PriorityClass must be false",
            ),
        ] {
            check(&PriorityClasses, yaml, &[&format!("{reserved} {why}")]);
        }
    }

    #[test]
    fn values_have_a_limit_and_stay() {
        check(
            &PriorityClasses,
            "{metadata: {name: a}, value: 1000000001, preemptionPolicy: Maybe}",
            &[
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
                "preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ],
        );
        check_update(
            &PriorityClasses,
            "{metadata: {name: a}, value: 1}",
            "{metadata: {name: a}, value: 2, preemptionPolicy: Never}",
            &[
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ],
        );
    }

    #[test]
    fn system_classes_cannot_be_deleted() {
        assert!(PriorityClasses.refuse_delete("system-cluster-critical").is_some());
        assert_eq!(PriorityClasses.refuse_delete("a"), None);
    }

    #[test]
    fn cells_show_the_value() {
        check_cells(
            &PriorityClasses,
            "{metadata: {name: a}, value: 7, globalDefault: true}",
            "a | 7 | true | <unknown> | PreemptLowerPriority",
        );
    }
}
