//! Definitions with Kubernetes' annotations, cut down to what a document refers to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use wharf_types::GroupVersion;

use super::paths::PATCH;
use super::{Definitions, Resource, corrections, gvk_value};
use crate::patch::merge_keys::{self, Topology};
use crate::schema::{self, REF_PREFIX, go};

const V3_PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const GVK: &str = "x-kubernetes-group-version-kind";
/// Meta kinds of `v1`.
const OF_CORE: &[&str] = &["Status", "APIGroup", "APIGroupList", "APIResourceList", "APIVersions"];
/// Meta kinds that upstream registers in every group version (`AddToGroupVersion`).
const OF_ALL: &[&str] = &["DeleteOptions", "WatchEvent"];
/// The group versions, beside `v1`, of upstream's scheme.
const REGISTERED: &str = "
    admission.k8s.io/v1 admission.k8s.io/v1beta1 admissionregistration.k8s.io/v1 admissionregistration.k8s.io/v1alpha1
    admissionregistration.k8s.io/v1beta1 apiextensions.k8s.io/v1 apiextensions.k8s.io/v1beta1 apiregistration.k8s.io/v1
    apiregistration.k8s.io/v1beta1 apps/v1 apps/v1beta1 apps/v1beta2 authentication.k8s.io/v1 authentication.k8s.io/v1alpha1
    authentication.k8s.io/v1beta1 authorization.k8s.io/v1 authorization.k8s.io/v1beta1 autoscaling/v1 autoscaling/v2 batch/v1
    batch/v1beta1 certificates.k8s.io/v1 certificates.k8s.io/v1alpha1 certificates.k8s.io/v1beta1 coordination.k8s.io/v1
    coordination.k8s.io/v1alpha2 coordination.k8s.io/v1beta1 discovery.k8s.io/v1 discovery.k8s.io/v1beta1 events.k8s.io/v1
    events.k8s.io/v1beta1 extensions/v1beta1 flowcontrol.apiserver.k8s.io/v1 flowcontrol.apiserver.k8s.io/v1beta1
    flowcontrol.apiserver.k8s.io/v1beta2 flowcontrol.apiserver.k8s.io/v1beta3 imagepolicy.k8s.io/v1alpha1
    internal.apiserver.k8s.io/v1alpha1 networking.k8s.io/v1 networking.k8s.io/v1beta1 node.k8s.io/v1 node.k8s.io/v1alpha1
    node.k8s.io/v1beta1 policy/v1 policy/v1beta1 rbac.authorization.k8s.io/v1 rbac.authorization.k8s.io/v1alpha1
    rbac.authorization.k8s.io/v1beta1 resource.k8s.io/v1 resource.k8s.io/v1alpha3 resource.k8s.io/v1beta1
    resource.k8s.io/v1beta2 scheduling.k8s.io/v1 scheduling.k8s.io/v1alpha2 scheduling.k8s.io/v1beta1 storage.k8s.io/v1
    storage.k8s.io/v1alpha1 storage.k8s.io/v1beta1 storagemigration.k8s.io/v1beta1
";

/// All definitions: built-in ones with annotations, lists of the served kinds, and `extra` as it stands.
pub(super) fn annotated(resources: &[&Resource], extra: &Definitions) -> BTreeMap<String, Value> {
    let mut definitions = schema::definitions();
    for (name, definition) in &mut definitions {
        annotate(name, definition);
    }
    definitions.extend(extra.iter().map(|(name, definition)| (name.clone(), definition.clone())));
    let words = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
    definitions.insert(PATCH.to_owned(), json!({ "description": words, "type": "object" }));
    for resource in resources {
        if resource.verbs.contains(&"list") {
            definitions.insert(format!("{}List", resource.schema), list_of(resource));
        }
        let bodies = resource.subresources.iter().filter_map(|subresource| subresource.body.as_ref());
        for (gvk, name) in bodies.map(|(gvk, name)| (gvk, name)).chain(Some((&resource.gvk, &resource.schema))) {
            if let Some(definition) = definitions.get_mut(name) {
                definition[GVK] = json!([gvk_value(gvk)]);
            }
        }
    }
    for kind in OF_CORE.iter().chain(OF_ALL) {
        if let Some(definition) = definitions.get_mut(&format!("{META}.{kind}")) {
            let others = REGISTERED.split_whitespace().filter(|_| OF_ALL.contains(kind));
            let versions =
                ["v1"].into_iter().chain(others).map(|version| version.rsplit_once('/').unwrap_or(("", version)));
            definition[GVK] =
                versions.map(|(group, version)| json!({ "group": group, "version": version, "kind": kind })).collect();
        }
    }
    definitions
}

fn annotate(name: &str, definition: &mut Value) {
    if let Some(definition) = definition.as_object_mut() {
        let scalar = definition.remove("x-kubernetes-int-or-string").is_some();
        if scalar {
            definition.insert("type".to_owned(), "string".into());
        }
        if name == INT_OR_STRING {
            definition.insert("format".to_owned(), "int-or-string".into());
        }
        if merge_keys::is_atomic_type(name) {
            definition.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        corrections::correct(name, definition);
    }
    for (field, property) in definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let rule = merge_keys::rule(name, field);
        let choices: Vec<_> = go::field(name, field).choices().collect();
        if !choices.is_empty() {
            add_choices(property, &choices);
        }
        let is_list = property["type"] == "array";
        let Some(property) = property.as_object_mut() else { continue };
        let mut set = |key: &str, value: Value| property.insert(key.to_owned(), value);
        match rule.map(|rule| rule.topology) {
            Some(Topology::Map(keys)) => {
                set("x-kubernetes-list-type", "map".into());
                set("x-kubernetes-list-map-keys", keys.into());
            }
            Some(Topology::Set) => {
                set("x-kubernetes-list-type", "set".into());
            }
            Some(Topology::AtomicMap) => {
                set("x-kubernetes-map-type", "atomic".into());
            }
            Some(Topology::AtomicList | Topology::Granular) | None if is_list && !corrections::is_bare(name, field) => {
                set("x-kubernetes-list-type", "atomic".into());
            }
            Some(Topology::AtomicList | Topology::Granular) | None => {}
        }
        if let Some(rule) = rule {
            if let Some(strategy) = rule.strategy.published() {
                set("x-kubernetes-patch-strategy", strategy.into());
            }
            if !rule.merge_key.is_empty() {
                set("x-kubernetes-patch-merge-key", rule.merge_key.into());
            }
        }
    }
}

/// The list of a kind. What upstream says of each is in `lists.txt`, read off the structs of `k8s.io/api` v0.36: type, and what
/// it, its items and its metadata are for.
fn list_of(resource: &Resource) -> Value {
    static WORDS: LazyLock<HashMap<&str, Vec<&str>>> = LazyLock::new(|| {
        let lines = include_str!("lists.txt").lines().filter_map(|line| line.split_once('\t'));
        lines.map(|(name, words)| (name, words.split('\t').collect())).collect()
    });
    let Resource { gvr, gvk, schema, .. } = resource;
    let list = schema.strip_prefix("io.k8s.").map(|name| format!("{name}List")).unwrap_or_default();
    let words = WORDS.get(list.as_str());
    let word = |index: usize| words.map(|words| words.get(index).copied().unwrap_or_default().to_owned());
    let of_list = word(0).unwrap_or_else(|| format!("{0}List is a list of {0}", gvk.kind));
    let of_items = word(1).unwrap_or_else(|| format!("List of {}. More info: {CONVENTIONS}", gvr.resource));
    let of_metadata =
        word(2).unwrap_or_else(|| format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds"));
    let mut definition = json!({
        "description": of_list,
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": API_VERSION },
            "items": { "type": "array", "description": of_items, "items": { "$ref": format!("{REF_PREFIX}{schema}") } },
            "kind": { "type": "string", "description": KIND },
            "metadata": { "$ref": format!("{REF_PREFIX}{META}.ListMeta") },
        },
        GVK: [{ "group": gvk.group, "version": gvk.version, "kind": format!("{}List", gvk.kind) }],
    });
    if !of_metadata.is_empty() {
        definition["properties"]["metadata"]["description"] = of_metadata.into();
    }
    definition
}

const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Drops definitions that neither the paths nor what they refer to mention.
pub(super) fn keep_reachable(definitions: &mut BTreeMap<String, Value>, paths: &Value) {
    let mut waiting = BTreeSet::new();
    collect(paths, &mut waiting);
    let mut reached = BTreeSet::new();
    while let Some(name) = waiting.pop_first() {
        if let Some(definition) = definitions.get(&name)
            && reached.insert(name)
        {
            let mut named = BTreeSet::new();
            collect(definition, &mut named);
            waiting.extend(named.difference(&reached).cloned());
        }
    }
    definitions.retain(|name, _| reached.contains(name));
}

/// Gathers the names of all references in `value`.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(REF_PREFIX)) {
                names.insert(name.to_owned());
            }
            map.values().for_each(|value| collect(value, names));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

/// In the document of one group version, kinds that are in all name it and `v1` alone.
///
/// Source: `filterScopedGVKs` in `apiserver/pkg/server/routes/openapi.go`.
pub(super) fn narrow_kinds(definitions: &mut Map<String, Value>, to: &GroupVersion) {
    for kind in OF_ALL {
        let kinds = definitions.get_mut(&format!("{META}.{kind}")).and_then(|it| it.get_mut(GVK));
        if let Some(kinds) = kinds.and_then(Value::as_array_mut) {
            let is = |held: &Value, group: &str, version: &str| held["group"] == group && held["version"] == version;
            kinds.retain(|held| is(held, "", "v1") || is(held, &to.group, &to.version));
        }
    }
}

/// What a field's type says of the values that it can have, in words and for machines.
fn add_choices(property: &mut Value, choices: &[(&str, &str)]) {
    let values: Vec<&str> = choices.iter().map(|(value, _)| *value).collect();
    if property["type"] == "array" {
        property["items"]["enum"] = values.into();
        return;
    }
    let lines = choices.iter().map(|(value, meaning)| format!(" - `\"{value}\"` {meaning}").trim_end().to_owned());
    let lines = lines.collect::<Vec<_>>().join("\n");
    let description = property["description"].as_str().unwrap_or_default();
    property["description"] = format!("{description}\n\nPossible enum values:\n{lines}").trim_start().into();
    property["enum"] = values.into();
}

/// Adds what only version 3 says of built-in types: their defaults.
pub(super) fn add_defaults(definitions: &mut Map<String, Value>) {
    let is_struct = |(name, definition): (&String, &Value)| definition["properties"].is_object().then(|| name.clone());
    let structs: BTreeSet<String> = definitions.iter().filter_map(is_struct).collect();
    let known = |name: &str| {
        let types = schema::types();
        types.knows(name) || name.strip_suffix("List").is_some_and(|item| types.knows(item))
    };
    for (name, definition) in definitions.iter_mut().filter(|(name, _)| known(name)) {
        let required = definition["required"].as_array().cloned().unwrap_or_default();
        for (field, property) in definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
            let said = go::field(name, field);
            let default = match said.default {
                Some(json) => serde_json::from_str(json).ok(),
                None if said.always => Some(json!({})),
                None => zero(property, &structs)
                    .filter(|zero| !zero.is_object() && required.iter().any(|name| name == field)),
            };
            if let Some(default) = default {
                property["default"] = default;
            }
            add_inner_defaults(property, &structs);
        }
    }
}

/// Items of lists and values of maps are no pointers: their default is their zero.
fn add_inner_defaults(property: &mut Value, structs: &BTreeSet<String>) {
    for inside in ["items", "additionalProperties"] {
        let Some(inner) = property.get_mut(inside).filter(|inner| inner.is_object()) else { continue };
        add_inner_defaults(inner, structs);
        if let Some(default) = zero(inner, structs) {
            inner["default"] = default;
        }
    }
}

/// The zero of a struct or plain scalar; none for what reads and writes itself in Go, whose zero is null.
fn zero(schema: &Value, structs: &BTreeSet<String>) -> Option<Value> {
    if let Some(target) = schema["$ref"].as_str() {
        return structs.contains(target.strip_prefix(REF_PREFIX)?).then(|| json!({}));
    }
    match schema["type"].as_str()? {
        "string" if schema.get("format").is_none() => Some(json!("")),
        "integer" | "number" => Some(json!(0)),
        "boolean" => Some(json!(false)),
        _ => None,
    }
}

/// Writes a neutral form down as v3: references point elsewhere and stand alone, and scalars of two types say so.
pub(super) fn to_v3(value: &mut Value) {
    for (name, definition) in value.as_object_mut().into_iter().flatten() {
        match name.as_str() {
            INT_OR_STRING => two_types(definition, "integer", "string"),
            QUANTITY => two_types(definition, "string", "number"),
            _ => {}
        }
    }
    refer_v3(value);
}

/// References point to where version 3 has its schemas, and stand alone.
pub(super) fn refer_v3(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(refer_v3),
        Value::Object(map) => {
            map.values_mut().for_each(refer_v3);
            if let Some(Value::String(reference)) = map.get("$ref") {
                let reference = reference.replacen(REF_PREFIX, V3_PREFIX, 1);
                map.remove("$ref");
                if map.is_empty() {
                    map.insert("$ref".to_owned(), reference.into());
                } else {
                    map.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
                }
            }
        }
        _ => {}
    }
}

fn two_types(definition: &mut Value, one: &str, other: &str) {
    let Some(definition) = definition.as_object_mut() else { return };
    let definition: &mut Map<String, Value> = definition;
    definition.remove("type");
    definition.insert("oneOf".to_owned(), json!([{ "type": one }, { "type": other }]));
}
