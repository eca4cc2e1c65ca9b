//! ServiceAccounts: who a pod is.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::k8s::api::core::v1::{ObjectReference, ServiceAccount};

use super::{created, name};
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ServiceAccounts;

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Of its secrets an account keeps the names.
fn keep_names(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;

    fn prepare_for_create(&self, account: &mut ServiceAccount) {
        keep_names(account);
    }

    fn prepare_for_update(&self, account: &mut ServiceAccount, _: &ServiceAccount) {
        keep_names(account);
    }

    fn warnings(&self, account: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
        let enforces = |account: &ServiceAccount| {
            account.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ENFORCE))
        };
        if !enforces(account) || old.is_some_and(enforces) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Secrets",
                "string",
                "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use. Pods are only limited to this list if this service account has a \"kubernetes.io/enforce-mountable-secrets\" annotation set to \"true\". The \"kubernetes.io/enforce-mountable-secrets\" annotation is deprecated since v1.32. Prefer separate namespaces to isolate access to mounted secrets. This field should not be used to find auto-generated service account token secrets for use outside of pods. Instead, tokens can be requested directly using the TokenRequest API, or service account token secrets can be manually created. More info: https://kubernetes.io/docs/concepts/configuration/secret",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        let secrets = account.secrets.as_ref().map_or(0, Vec::len);
        vec![name(&account.metadata), secrets.into(), created(&account.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, object};

    #[test]
    fn of_secrets_the_names_are_kept() {
        created(
            &ServiceAccounts,
            "{metadata: {name: a}, secrets: [{name: s, namespace: b, uid: '1'}]}",
            r#"{"metadata":{"name":"a"},"secrets":[{"name":"s"}]}"#,
        );
    }

    #[test]
    fn enforcing_mountable_secrets_is_deprecated() {
        let account = |yaml: &str| object(&ServiceAccounts, yaml);
        let (plain, strict) =
            (account("{}"), account(&format!("{{metadata: {{annotations: {{{ENFORCE}: 'true'}}}}}}")));
        assert_eq!(ServiceAccounts.warnings(&strict, None).len(), 1);
        assert_eq!(ServiceAccounts.warnings(&strict, Some(&plain)).len(), 1);
        assert!(ServiceAccounts.warnings(&strict, Some(&strict)).is_empty());
        assert!(ServiceAccounts.warnings(&plain, Some(&strict)).is_empty());
    }
}
