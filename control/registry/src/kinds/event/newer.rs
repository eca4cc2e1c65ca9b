//! `events.k8s.io/v1` over the events of the core group.
//!
//! Source: `pkg/apis/events/v1/conversion.go`, `ValidateEventCreate` and `ValidateEventUpdate` of `pkg/apis/core/validation`.
//! Both versions name the same fields in their own way; what is written through this one is held to more.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1 as core;
use wharf_types::k8s::api::events::v1::Event;

use super::Events;
use crate::checks;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct NewerEvents;

/// What each field is called here, and where it is stored.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];
/// What may be selected by, and what it is called where it is stored.
const FIELDS: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reason", "reason"),
    ("reportingController", "reportingComponent"),
    ("type", "type"),
];
const TYPES: &[&str] = &["Normal", "Warning"];
const UNSET: &str = "needs to be unset";

impl Strategy for NewerEvents {
    type Object = Event;

    fn validate(&self, event: &Event) -> Errors {
        Events.validate(&stored(event))
    }

    fn validate_new(&self, event: &Event) -> Errors {
        let mut errors = validate_series(event);
        if event.event_time.is_none() {
            errors.push(Error::required(&Path::new("eventTime"), ""));
        }
        let kind = event.type_.as_deref().unwrap_or_default();
        if !TYPES.contains(&kind) {
            errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        let source = event.deprecated_source.clone().unwrap_or_default();
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (field, is_set) in [
            ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
            ("count", event.deprecated_count.unwrap_or_default() != 0),
            ("source", filled(&source.component) || filled(&source.host)),
        ] {
            if is_set {
                errors.push(Error::invalid(&Path::new(field), "", UNSET));
            }
        }
        errors
    }

    /// Only the series goes on.
    fn validate_update(&self, new: &Event, old: &Event) -> Errors {
        let (new_stored, old_stored) = (checks::json(&stored(new)), checks::json(&stored(old)));
        let mut errors = Vec::new();
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
            "type",
            "eventTime",
        ] {
            let shown = if field == "reportingComponent" { "reportingController" } else { field };
            errors.extend(checks::immutable(&new_stored[field], &old_stored[field], &Path::new(shown)));
        }
        errors.extend(validate_series(new));
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn fields(&self, event: &Event) -> Vec<(&'static str, String)> {
        let held = Events.fields(&stored(event));
        let value = |name: &str| held.iter().find(|(stored, _)| *stored == name).map(|(_, value)| value.clone());
        FIELDS.iter().map(|(here, stored)| (*here, value(stored).unwrap_or_default())).collect()
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]
    }

    fn stored_field<'a>(&self, name: &'a str) -> &'a str {
        FIELDS.iter().find(|(here, _)| *here == name).map_or(name, |(_, stored)| stored)
    }

    fn columns(&self) -> &'static [Column] {
        Events.columns()
    }

    fn cells(&self, event: &Event, now: Timestamp) -> Vec<Value> {
        Events.cells(&stored(event), now)
    }
}

fn validate_series(event: &Event) -> Errors {
    let Some(series) = &event.series else { return Vec::new() };
    let mut errors = Vec::new();
    if series.count < 2 {
        errors.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if series.last_observed_time.0 == Timestamp::UNIX_EPOCH {
        errors.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

fn stored(event: &Event) -> core::Event {
    let mut value = checks::json(event);
    to_stored(&mut value);
    value["apiVersion"] = "v1".into();
    serde_json::from_value(value).expect("both versions have the same fields")
}

/// An event as this version shows it.
pub fn to_served(event: &mut Value) {
    rename(event, NAMES.iter().map(|(here, stored)| (*stored, *here)));
    // A series must be whole here.
    let Some(fields) = event.as_object_mut() else { return };
    if let Some(series) = fields.get_mut("series").and_then(Value::as_object_mut) {
        series.entry("count").or_insert_with(|| 0.into());
        if !series.contains_key("lastObservedTime") {
            fields.remove("series");
        }
    }
}

/// An event as it is stored.
pub fn to_stored(event: &mut Value) {
    rename(event, NAMES.iter().copied());
    // The one field that the stored version requires.
    if let Some(fields) = event.as_object_mut() {
        fields.entry("involvedObject").or_insert_with(|| serde_json::json!({}));
    }
}

fn rename<'a>(event: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = event.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_new, check_update, object};

    const EVENT: &str = "{metadata: {name: e, namespace: a}, regarding: {kind: Pod, namespace: a, name: web}, reason: Because, action: Doing, note: so, type: Normal, eventTime: '2024-05-01T11:59:00.000000Z', reportingController: example.com/c, reportingInstance: c-1}";

    #[test]
    fn fields_have_other_names_where_they_are_stored() {
        let event = object(&NewerEvents, EVENT);
        let held = stored(&event);
        assert_eq!((held.message.as_deref(), held.involved_object.name.as_deref()), (Some("so"), Some("web")));
        assert_eq!(held.reporting_component.as_deref(), Some("example.com/c"));
        let mut back = checks::json(&held);
        to_served(&mut back);
        back["apiVersion"] = "events.k8s.io/v1".into();
        assert_eq!(back, checks::json(&event));
        assert_eq!(NewerEvents.stored_field("regarding.name"), "involvedObject.name");
        assert_eq!(NewerEvents.fields(&event)[2], ("regarding.name", "web".to_owned()));
    }

    #[test]
    fn an_event_is_of_the_newer_shape() {
        check(&NewerEvents, EVENT, &[]);
        check_new(&NewerEvents, EVENT, &[]);
        check_new(
            &NewerEvents,
            "{type: Odd, deprecatedCount: 3, series: {count: 1, lastObservedTime: '2024-05-01T11:59:00.000000Z'}}",
            &[
                "series.count: Invalid value: \"\": should be at least 2",
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
            ],
        );
    }

    #[test]
    fn only_the_series_goes_on() {
        let series = "series: {count: 2, lastObservedTime: '2024-05-01T11:59:30.000000Z'}, reason";
        check_update(&NewerEvents, EVENT, &EVENT.replacen("reason", series, 1), &[]);
        check_update(
            &NewerEvents,
            EVENT,
            &EVENT.replace("note: so", "note: other"),
            &["message: Invalid value: \"other\": field is immutable"],
        );
    }

    #[test]
    fn cells_are_those_of_the_older_version() {
        check_cells(&NewerEvents, EVENT, "60s | Normal | Because | pod/web |  | example.com/c, c-1 | so | 60s | 1 | e");
    }
}
