//! ComponentStatuses: whether the parts of the control plane are well. Asked, not stored; deprecated since v1.19.
//!
//! Source: `printComponentStatus` in `pkg/printers/internalversion`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::k8s::api::core::v1::ComponentStatus;

use super::name;
use crate::strategy::{Column, NAME, Strategy};

#[derive(Debug)]
pub struct ComponentStatuses;

impl Strategy for ComponentStatuses {
    type Object = ComponentStatus;

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Status", "string", "Status of the component conditions"),
            Column::new("Message", "string", "Message of the component conditions"),
            Column::new("Error", "string", "Error of the component conditions"),
        ];
        COLUMNS
    }

    fn cells(&self, component: &ComponentStatus, _now: Timestamp) -> Vec<Value> {
        let healthy = component.conditions.iter().flatten().find(|condition| condition.type_ == "Healthy");
        let status = match healthy.map(|condition| condition.status.as_str()) {
            None => "Unknown",
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
        };
        let text = |text: Option<&String>| Value::from(text.cloned().unwrap_or_default());
        vec![
            name(&component.metadata),
            status.into(),
            text(healthy.and_then(|condition| condition.message.as_ref())),
            text(healthy.and_then(|condition| condition.error.as_ref())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check_cells;

    #[test]
    fn a_component_is_healthy_or_says_why_not() {
        check_cells(
            &ComponentStatuses,
            "{metadata: {name: etcd-0}, conditions: [{type: Healthy, status: 'True', message: ok}]}",
            "etcd-0 | Healthy | ok | ",
        );
        check_cells(
            &ComponentStatuses,
            "{metadata: {name: scheduler}, conditions: [{type: Healthy, status: 'False', error: it has ended}]}",
            "scheduler | Unhealthy |  | it has ended",
        );
        check_cells(&ComponentStatuses, "{metadata: {name: a}}", "a | Unknown |  | ");
    }
}
