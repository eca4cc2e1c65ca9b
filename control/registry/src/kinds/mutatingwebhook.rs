//! MutatingWebhookConfigurations: webhooks that may change an object before it is stored. Source: `pkg/registry/admissionregistration`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::admissionregistration::v1::MutatingWebhookConfiguration;

use super::generation;
use crate::admission::webhook::{self, Webhook};
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct MutatingWebhooks;

impl Strategy for MutatingWebhooks {
    type Object = MutatingWebhookConfiguration;

    fn default(&self, configuration: &mut MutatingWebhookConfiguration) {
        configuration.webhooks.iter_mut().flatten().for_each(webhook::default_mutating);
    }

    fn prepare_for_create(&self, configuration: &mut MutatingWebhookConfiguration) {
        configuration.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, configuration: &mut MutatingWebhookConfiguration, old: &MutatingWebhookConfiguration) {
        let changed = configuration.webhooks != old.webhooks;
        generation(&mut configuration.metadata, &old.metadata, changed);
    }

    fn validate(&self, configuration: &MutatingWebhookConfiguration) -> Errors {
        let hooks: Vec<Webhook<'_>> = configuration.webhooks.iter().flatten().map(Webhook::from).collect();
        webhook::validate(&hooks)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        webhook::COLUMNS
    }

    fn cells(&self, configuration: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        webhook::cells(&configuration.metadata, configuration.webhooks.as_deref().unwrap_or_default(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, created};

    const GOOD: &str = "name: a.example.com, sideEffects: None, admissionReviewVersions: [v1]";

    #[test]
    fn what_is_left_out_is_filled_in() {
        created(
            &MutatingWebhooks,
            &format!(
                "{{webhooks: [{{{GOOD}, clientConfig: {{service: {{name: s, namespace: n}}}}, rules: [{{apiGroups: ['']}}]}}]}}"
            ),
            r#"{"metadata": {"generation": 1}, "webhooks": [{"admissionReviewVersions": ["v1"], "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
                "failurePolicy": "Fail", "matchPolicy": "Equivalent", "name": "a.example.com", "namespaceSelector": {}, "objectSelector": {}, "reinvocationPolicy": "Never",
                "rules": [{"apiGroups": [""], "scope": "*"}], "sideEffects": "None", "timeoutSeconds": 10}]}"#,
        );
    }

    #[test]
    fn webhooks_are_counted() {
        let body = "{metadata: {name: c, creationTimestamp: '2024-05-01T10:00:00Z'}, webhooks: [{name: a}, {name: b}]}";
        check_cells(&MutatingWebhooks, body, "c | 2 | 120m");
    }

    #[test]
    fn a_webhook_has_a_name_and_one_address() {
        check(
            &MutatingWebhooks,
            &format!("{{webhooks: [{{{GOOD}, clientConfig: {{url: 'https://example.com/a'}}}}]}}"),
            &[],
        );
        check(
            &MutatingWebhooks,
            &format!(
                "{{webhooks: [{{{GOOD}, clientConfig: {{}}}}, {{{GOOD}, clientConfig: {{url: 'http://u@/a?b#c'}}}}]}}"
            ),
            &[
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                "webhooks[1].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[1].clientConfig.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                "webhooks[1].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[1].clientConfig.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "webhooks[1].clientConfig.url: Invalid value: \"b\": query parameters are not permitted in the URL",
                "webhooks[1].name: Duplicate value: \"a.example.com\"",
            ],
        );
    }
}
