//! AdmissionPlugins: WebAssembly components that are asked about writes. A kind of our own; where it says what a webhook says,
//! it has the webhook's defaults and is refused in the webhook's words.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::quantity::Quantity;
use wharf_machinery::selector;
use wharf_types::admission::{AdmissionPlugin, AdmissionPluginSpec};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::meta::LabelSelector;

use super::{created, generation, name, or_none};
use crate::admission::expression::{self, Scope};
use crate::admission::rules::{default_scope, validate_rule};
use crate::admission::webhook::TIMEOUT_DEFAULT_S;
use crate::admission::{FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

/// The only resource that a plugin's calls are bounded in.
const MEMORY: &str = "memory";
/// Less than this, and nothing starts: a page of linear memory.
const MEMORY_MIN_BYTES: i64 = 64 << 10;
/// More than one 32-bit memory can have.
const MEMORY_MAX_BYTES: i64 = 4 << 30;
/// Longest parameters, in bytes of JSON: they are handed over with each call.
const PARAMETERS_MAX_BYTES: usize = 256 << 10;
/// Longest reference of an image, in bytes.
const IMAGE_MAX_BYTES: usize = 1000;
/// Most secrets that one image may be pulled with.
const SECRETS_MAX: usize = 16;

#[derive(Debug)]
pub struct AdmissionPlugins;

impl Strategy for AdmissionPlugins {
    type Object = AdmissionPlugin;

    fn default(&self, plugin: &mut AdmissionPlugin) {
        let spec = &mut plugin.spec;
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        spec.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
        spec.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
        spec.namespace_selector.get_or_insert_default();
        spec.object_selector.get_or_insert_default();
        spec.timeout_seconds.get_or_insert(TIMEOUT_DEFAULT_S);
        spec.rules.iter_mut().flatten().for_each(|rule| default_scope(&mut rule.scope));
    }

    fn prepare_for_create(&self, plugin: &mut AdmissionPlugin) {
        plugin.status = None;
        plugin.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, plugin: &mut AdmissionPlugin, old: &AdmissionPlugin) {
        plugin.status.clone_from(&old.status);
        let changed = plugin.spec != old.spec;
        generation(&mut plugin.metadata, &old.metadata, changed);
    }

    fn prepare_for_status_update(&self, plugin: &mut AdmissionPlugin, old: &AdmissionPlugin) {
        plugin.spec.clone_from(&old.spec);
        super::keep_meta(&mut plugin.metadata, &old.metadata);
    }

    fn validate(&self, plugin: &AdmissionPlugin) -> Errors {
        let (spec, path) = (&plugin.spec, Path::new("spec"));
        let mut errors = validate_image(&spec.image, &path.child("image"));
        errors.extend(validate_secrets(spec, &path.child("imagePullSecrets")));
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            errors.extend(validate_rule(&rule.into(), &path.child("rules").index(index)));
        }
        let choices = [
            ("failurePolicy", &spec.failure_policy, FAILURE_POLICIES),
            ("matchPolicy", &spec.match_policy, MATCH_POLICIES),
            ("reinvocationPolicy", &spec.reinvocation_policy, REINVOCATION_POLICIES),
        ];
        for (field, value, supported) in choices {
            errors.extend(value.iter().flat_map(|value| checks::one_of(value, supported, &path.child(field))));
        }
        if let Some(seconds) = spec.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
            let why = "the timeout value must be between 1 and 30 seconds";
            errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, why));
        }
        errors.extend(validate_selectors(spec, &path));
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        errors.extend(expression::validate_conditions(conditions, &Scope::default(), &path.child("matchConditions")));
        errors.extend(validate_parameters(spec, &path.child("parameters")));
        errors.extend(validate_resources(spec, &path.child("resources").child("limits")));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Image", "string", "Image is the reference of the component's image."),
            Column::new("Hooks", "string", "Hooks is what the component exports: Mutating, Validating, or both."),
            Column::new("Ready", "string", "Ready tells whether the component is loaded."),
            Column::wide("Reason", "string", "Reason is why it is ready or not."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, plugin: &AdmissionPlugin, now: Timestamp) -> Vec<Value> {
        let status = plugin.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        vec![
            name(&plugin.metadata),
            plugin.spec.image.clone().into(),
            or_none(status.hooks.unwrap_or_default().join(",")).into(),
            ready.map_or("Unknown", |ready| &ready.status).into(),
            or_none(ready.map(|ready| ready.reason.clone()).unwrap_or_default()).into(),
            created(&plugin.metadata, now),
        ]
    }
}

/// What a reference stands for is for the registry to say; this is what no registry has.
fn validate_image(image: &str, path: &Path) -> Errors {
    match image {
        "" => vec![Error::required(path, "")],
        image if image.len() > IMAGE_MAX_BYTES => vec![Error::too_long(path, IMAGE_MAX_BYTES)],
        image if image.trim() != image => {
            vec![Error::invalid(path, image, "must not have leading or trailing whitespace")]
        }
        _ => Vec::new(),
    }
}

fn validate_secrets(spec: &AdmissionPluginSpec, path: &Path) -> Errors {
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    if secrets.len() > SECRETS_MAX {
        return vec![Error::too_many(path, secrets.len(), SECRETS_MAX)];
    }
    let mut errors = Vec::new();
    for (index, secret) in secrets.iter().enumerate() {
        for (field, value) in [("name", &secret.name), ("namespace", &secret.namespace)] {
            if value.as_deref().unwrap_or_default().is_empty() {
                errors.push(Error::required(&path.index(index).child(field), ""));
            }
        }
    }
    errors
}

fn validate_selectors(spec: &AdmissionPluginSpec, path: &Path) -> Errors {
    let check = |field: &str, selector: &Option<LabelSelector>| {
        selector.as_ref().map_or_else(Vec::new, |selector| selector::validate(selector, &path.child(field)))
    };
    let mut errors = check("namespaceSelector", &spec.namespace_selector);
    errors.extend(check("objectSelector", &spec.object_selector));
    errors
}

fn validate_parameters(spec: &AdmissionPluginSpec, path: &Path) -> Option<Error> {
    let bytes = spec.parameters.as_ref().map_or(0, |parameters| checks::json(parameters).to_string().len());
    (bytes > PARAMETERS_MAX_BYTES).then(|| Error::too_long(path, PARAMETERS_MAX_BYTES))
}

fn validate_resources(spec: &AdmissionPluginSpec, path: &Path) -> Errors {
    let limits = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let mut errors = Vec::new();
    for (resource, amount) in limits.into_iter().flatten() {
        let path = path.key(resource);
        if resource != MEMORY {
            errors.push(Error::not_supported(&path, resource.as_str(), &[MEMORY]));
            continue;
        }
        let bytes = amount.0.parse::<Quantity>().map(|amount| amount.value());
        if !bytes.is_ok_and(|bytes| (MEMORY_MIN_BYTES..=MEMORY_MAX_BYTES).contains(&bytes)) {
            errors.push(Error::invalid(&path, amount.0.as_str(), "must be between 64Ki and 4Gi"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, created};

    const GOOD: &str = "{spec: {image: 'policy:v1', rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}}";

    #[test]
    fn what_is_left_out_is_filled_in_as_a_webhooks() {
        created(
            &AdmissionPlugins,
            "{spec: {image: 'policy:v1', rules: [{apiGroups: ['']}]}, status: {hooks: [Validating]}}",
            r#"{"metadata": {"generation": 1}, "spec": {"image": "policy:v1", "rules": [{"apiGroups": [""], "scope": "*"}],
                "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}, "failurePolicy": "Fail",
                "reinvocationPolicy": "Never", "timeoutSeconds": 10}}"#,
        );
    }

    #[test]
    fn every_part_is_looked_at() {
        check(&AdmissionPlugins, GOOD, &[]);
        check(
            &AdmissionPlugins,
            "{spec: {rules: [{operations: [MAKE], apiGroups: [''], apiVersions: [v1], resources: [pods]}], failurePolicy: Maybe, matchPolicy: Odd, reinvocationPolicy: Always, timeoutSeconds: 31, imagePullSecrets: [{name: a, namespace: b}, {name: a}], objectSelector: {matchLabels: {'a b': c}}, matchConditions: [{name: a, expression: '1'}], resources: {limits: {memory: 8Gi, cpu: '1'}}}}",
            &[
                "spec.image: Required value",
                "spec.imagePullSecrets[1].namespace: Required value",
                "spec.rules[0].operations[0]: Unsupported value: \"MAKE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
                "spec.matchPolicy: Unsupported value: \"Odd\": supported values: \"Equivalent\", \"Exact\"",
                "spec.reinvocationPolicy: Unsupported value: \"Always\": supported values: \"IfNeeded\", \"Never\"",
                "spec.timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "spec.objectSelector.matchLabels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "spec.matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool but got int",
                "spec.resources.limits[cpu]: Unsupported value: \"cpu\": supported values: \"memory\"",
                "spec.resources.limits[memory]: Invalid value: \"8Gi\": must be between 64Ki and 4Gi",
            ],
        );
        check(
            &AdmissionPlugins,
            "{spec: {image: ' policy'}}",
            &["spec.image: Invalid value: \" policy\": must not have leading or trailing whitespace"],
        );
    }

    #[test]
    fn the_image_may_change() {
        check_update(&AdmissionPlugins, GOOD, &GOOD.replace("v1'", "v2'"), &[]);
    }

    #[test]
    fn cells_tell_whether_it_is_ready() {
        check_cells(
            &AdmissionPlugins,
            "{metadata: {name: a}, spec: {image: p}}",
            "a | p | <none> | Unknown | <none> | <unknown>",
        );
        check_cells(
            &AdmissionPlugins,
            "{metadata: {name: a}, spec: {image: p}, status: {hooks: [Mutating, Validating], conditions: [{type: Ready, status: 'False', reason: PullFailed, message: '', lastTransitionTime: '2024-05-01T10:00:00Z'}]}}",
            "a | p | Mutating,Validating | False | PullFailed | <unknown>",
        );
    }
}
