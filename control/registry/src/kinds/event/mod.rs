//! Events: what happened to an object, for people to read.
//!
//! Source: `pkg/apis/core/validation/events.go`. The `events.k8s.io` view of the same objects is in [`newer`].

pub mod newer;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::Event;

use super::name;
use crate::checks;
use crate::strategy::{Column, Strategy, age};

#[derive(Debug)]
pub struct Events;

const REPORTING_INSTANCE_MAX: usize = 128;
const ACTION_MAX: usize = 128;
const REASON_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

impl Strategy for Events {
    type Object = Event;

    fn validate(&self, event: &Event) -> Errors {
        let mut errors = validate_namespace(event);
        // Only events of the newer shape carry `eventTime`, and are held to more.
        if event.event_time.is_some() {
            errors.extend(validate_newer(event));
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        wharf_machinery::names::dns1123_subdomain(name)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn fields(&self, event: &Event) -> Vec<(&'static str, String)> {
        let object = &event.involved_object;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let component =
            event.source.as_ref().and_then(|source| source.component.clone()).filter(|name| !name.is_empty());
        vec![
            ("involvedObject.kind", own(&object.kind)),
            ("involvedObject.namespace", own(&object.namespace)),
            ("involvedObject.name", own(&object.name)),
            ("involvedObject.uid", own(&object.uid)),
            ("involvedObject.apiVersion", own(&object.api_version)),
            ("involvedObject.resourceVersion", own(&object.resource_version)),
            ("involvedObject.fieldPath", own(&object.field_path)),
            ("reason", own(&event.reason)),
            ("reportingComponent", own(&event.reporting_component)),
            ("source", component.unwrap_or_else(|| own(&event.reporting_component))),
            ("type", own(&event.type_)),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::new(
                "Last Seen",
                "string",
                "The time at which the most recent occurrence of this event was recorded.",
            ),
            Column::new(
                "Type",
                "string",
                "Type of this event (Normal, Warning), new types could be added in the future",
            ),
            Column::new(
                "Reason",
                "string",
                "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
            ),
            Column::new("Object", "string", "The object that this event is about."),
            Column::wide(
                "Subobject",
                "string",
                "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2]. For example, if the object reference is to a container within a pod, this would take on a value like: \"spec.containers{name}\" (where \"name\" refers to the name of the container that triggered the event) or if no container name is specified \"spec.containers[2]\" (container with index 2 in this pod). This syntax is chosen only to have some well-defined way of referencing a part of an object.",
            ),
            Column::wide(
                "Source",
                "string",
                "The component reporting this event. Should be a short machine understandable string.",
            ),
            Column::new("Message", "string", "A human-readable description of the status of this operation."),
            Column::wide(
                "First Seen",
                "string",
                "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
            ),
            Column::wide("Count", "string", "The number of times this event has occurred."),
            Column { format: "name", ..Column::wide("Name", "string", crate::strategy::NAME.description) },
        ];
        COLUMNS
    }

    fn cells(&self, event: &Event, now: Timestamp) -> Vec<Value> {
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let happened = event.event_time.as_ref().map(|time| time.0);
        let first = event.first_timestamp.as_ref().map(|time| time.0).or(happened);
        let series_last = event.series.as_ref().map(|series| series.last_observed_time.as_ref().map(|time| time.0));
        let last = series_last.unwrap_or_else(|| event.last_timestamp.as_ref().map(|time| time.0).or(first));
        let count = match &event.series {
            Some(series) => series.count.unwrap_or_default(),
            // An event that happened once need not say so.
            None => event.count.filter(|count| *count != 0).unwrap_or(1),
        };
        vec![
            age(last, now).into(),
            own(&event.type_).into(),
            own(&event.reason).into(),
            target(event).into(),
            own(&event.involved_object.field_path).into(),
            source(event).into(),
            own(&event.message).trim().into(),
            age(first, now).into(),
            count.into(),
            name(&event.metadata),
        ]
    }
}

fn validate_namespace(event: &Event) -> Errors {
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let about = event.involved_object.namespace.as_deref().unwrap_or_default();
    let matches = if about.is_empty() { own.is_empty() || own == "default" } else { own == about };
    if matches {
        return Vec::new();
    }
    let path = Path::new("involvedObject").child("namespace");
    vec![Error::invalid(&path, about, "does not match event.namespace")]
}

fn validate_newer(event: &Event) -> Errors {
    let mut errors = Vec::new();
    let reporter = Path::new("reportingController");
    match event.reporting_component.as_deref().unwrap_or_default() {
        "" => errors.push(Error::required(&reporter, "")),
        name => errors.extend(checks::qualified_name(name, &reporter)),
    }
    for (field, value, max) in [
        ("reportingInstance", &event.reporting_instance, REPORTING_INSTANCE_MAX),
        ("action", &event.action, ACTION_MAX),
        ("reason", &event.reason, REASON_MAX),
    ] {
        let (path, value) = (Path::new(field), value.as_deref().unwrap_or_default());
        if value.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if value.len() > max {
            errors.push(Error::invalid(&path, "", format!("can have at most {max} characters")));
        }
    }
    if event.message.as_ref().is_some_and(|message| message.len() > NOTE_MAX) {
        errors.push(Error::invalid(&Path::new("message"), "", format!("can have at most {NOTE_MAX} characters")));
    }
    errors
}

/// `pod/web`
fn target(event: &Event) -> String {
    let kind = event.involved_object.kind.as_deref().unwrap_or_default().to_lowercase();
    match event.involved_object.name.as_deref().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

/// `kubelet, node-1`
fn source(event: &Event) -> String {
    let filled = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
    let source = event.source.as_ref();
    let component = filled(source.and_then(|source| source.component.as_ref()));
    let host = filled(source.and_then(|source| source.host.as_ref()));
    let component = component.or_else(|| event.reporting_component.clone()).unwrap_or_default();
    match host.or_else(|| filled(event.reporting_instance.as_ref())) {
        Some(instance) => format!("{component}, {instance}"),
        None => component,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn an_event_lives_beside_its_object() {
        check(&Events, "{metadata: {namespace: a}, involvedObject: {namespace: a}}", &[]);
        check(&Events, "{metadata: {namespace: default}, involvedObject: {kind: Node}}", &[]);
        check(
            &Events,
            "{metadata: {namespace: a}, involvedObject: {namespace: b}}",
            &["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"],
        );
        check(
            &Events,
            "{metadata: {namespace: a}, involvedObject: {namespace: a}, eventTime: '2024-05-01T11:00:00.000000Z'}",
            &[
                "reportingController: Required value",
                "reportingInstance: Required value",
                "action: Required value",
                "reason: Required value",
            ],
        );
    }

    #[test]
    fn events_show_their_last_time_and_source() {
        check_cells(
            &Events,
            "{metadata: {name: e}, involvedObject: {kind: Pod, name: web}, type: Normal, reason: Pulled, message: ' done ',
              source: {component: kubelet, host: n1}, firstTimestamp: '2024-05-01T11:00:00Z', lastTimestamp: '2024-05-01T11:58:00Z', count: 3}",
            "2m | Normal | Pulled | pod/web |  | kubelet, n1 | done | 60m | 3 | e",
        );
        check_cells(
            &Events,
            "{metadata: {name: e}, involvedObject: {kind: Pod}, eventTime: '2024-05-01T11:59:00.000000Z', reportingComponent: c}",
            "60s |  |  | pod |  | c |  | 60s | 1 | e",
        );
    }
}
