//! Where upstream's documents say something else of a type than k8s-openapi's schemas and our other tables do.
//!
//! Held against the definitions that kube-apiserver v1.36 publishes.

use serde_json::{Map, Value, json};

const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
/// The only kind whose metadata upstream requires.
const EVENT: &str = "io.k8s.api.core.v1.Event";
/// What begins the second half of a watch event's description, which upstream has at the field.
const OF_OBJECT: &str = "Object is:";

/// Fields that k8s-openapi requires and upstream does not.
const OPTIONAL: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.ConfigMapEnvSource", "name"),
    ("io.k8s.api.core.v1.ConfigMapKeySelector", "name"),
    ("io.k8s.api.core.v1.ConfigMapProjection", "name"),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", "name"),
    ("io.k8s.api.core.v1.LocalObjectReference", "name"),
    ("io.k8s.api.core.v1.SecretEnvSource", "name"),
    ("io.k8s.api.core.v1.SecretKeySelector", "name"),
    ("io.k8s.api.core.v1.SecretProjection", "name"),
];
/// And the other way round.
const REQUIRED: &[(&str, &str)] = &[("io.k8s.api.events.v1.Event", "eventTime")];

/// Unions: the type, its discriminator if it has one, and its members, each with what the discriminator calls it.
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const UNIONS: &[Union] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "io.k8s.api.flowcontrol.v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplateReference", "", &[("workload", "Workload")]),
];

/// Extensions of fields that nothing else says.
const EXTENSIONS: &[(&str, &str, &str, &str)] = &[
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
        "x-kubernetes-map-type",
        "granular",
    ),
    ("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef", "x-kubernetes-map-type", "granular"),
    (
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec",
        "caBundle",
        "x-kubernetes-list-type",
        "atomic",
    ),
];

/// A list that is said nothing of: its type has a name of its own in Go.
pub(super) fn is_bare(owner: &str, field: &str) -> bool {
    (owner, field) == ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "verbs")
}

/// Makes a definition say what upstream's does.
pub(super) fn correct(name: &str, definition: &mut Map<String, Value>) {
    let own = |table: &'static [(&str, &'static str)]| {
        table.iter().filter(|(owner, _)| *owner == name).map(|(_, field)| *field).collect::<Vec<_>>()
    };
    let mut optional = own(OPTIONAL);
    if name != EVENT && definition.get("properties").is_some_and(|fields| fields.get("kind").is_some()) {
        optional.push("metadata");
    }
    let mut required = definition.remove("required").unwrap_or(json!([]));
    if let Value::Array(fields) = &mut required {
        fields.retain(|field| field.as_str().is_none_or(|field| !optional.contains(&field)));
        fields.extend(own(REQUIRED).into_iter().map(Value::from));
        if !fields.is_empty() {
            definition.insert("required".to_owned(), required);
        }
    }
    for (_, discriminator, members) in UNIONS.iter().filter(|(of, ..)| *of == name) {
        let members: Map<String, Value> =
            members.iter().map(|(field, called)| ((*field).to_owned(), (*called).into())).collect();
        let mut union = json!({ "fields-to-discriminateBy": members });
        if !discriminator.is_empty() {
            union["discriminator"] = (*discriminator).into();
        }
        definition.insert("x-kubernetes-unions".to_owned(), json!([union]));
    }
    for (_, field, extension, value) in EXTENSIONS.iter().filter(|(of, ..)| *of == name) {
        if let Some(property) = definition.get_mut("properties").and_then(|fields| fields.get_mut(*field)) {
            property[*extension] = (*value).into();
        }
    }
    if name == WATCH_EVENT {
        divide(definition);
    }
}

/// Gives the object of a watch event the words that are about it.
fn divide(definition: &mut Map<String, Value>) {
    let Some(words) = definition.get("description").and_then(Value::as_str).map(str::to_owned) else { return };
    let Some((event, object)) = words.split_once(OF_OBJECT) else { return };
    definition.insert("description".to_owned(), event.trim().into());
    if let Some(property) = definition.get_mut("properties").and_then(|fields| fields.get_mut("object")) {
        property["description"] = format!("{OF_OBJECT}{}", object.trim_end()).into();
    }
}
