//! Whether a webhook or a policy is about a write: rules, and selectors of namespaces and objects.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/{generic,predicates}` and `plugin/policy/matching`. Rules are compared as
//! they stand; selectors are compiled once. A rule for another version of the same objects matches too, unless the match policy
//! is `Exact`: the answer is the row in whose version the write is to be shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_machinery::selector::LabelSelector;
use wharf_registry::Row;
use wharf_types::k8s::api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations};
use wharf_types::{AnyObject, ApiError, Gvr, meta};

use crate::{Attributes, Operation, Reader};

const NAMESPACES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("namespaces"),
};

/// One rule.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    /// Each as resource and subresource.
    resources: Vec<(String, String)>,
    operations: Vec<String>,
    scope: Option<String>,
    /// Empty for all.
    names: Vec<String>,
}

fn split(resources: Option<Vec<String>>) -> Vec<(String, String)> {
    let pair = |text: String| match text.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
        None => (text, String::new()),
    };
    resources.unwrap_or_default().into_iter().map(pair).collect()
}

impl From<RuleWithOperations> for Rule {
    fn from(rule: RuleWithOperations) -> Self {
        Self {
            groups: rule.api_groups.unwrap_or_default(),
            versions: rule.api_versions.unwrap_or_default(),
            resources: split(rule.resources),
            operations: rule.operations.unwrap_or_default(),
            scope: rule.scope,
            names: Vec::new(),
        }
    }
}

impl From<NamedRuleWithOperations> for Rule {
    fn from(rule: NamedRuleWithOperations) -> Self {
        Self {
            groups: rule.api_groups.unwrap_or_default(),
            versions: rule.api_versions.unwrap_or_default(),
            resources: split(rule.resources),
            operations: rule.operations.unwrap_or_default(),
            scope: rule.scope,
            names: rule.resource_names.unwrap_or_default(),
        }
    }
}

fn has(values: &[String], value: &str) -> bool {
    values.iter().any(|held| held == "*" || held == value)
}

impl Rule {
    /// Whether the rule is about the write, as a write of `gvr`.
    fn matches(&self, write: &Attributes, gvr: &Gvr) -> bool {
        let subresource = write.subresource_name();
        let resource = |(held, sub): &(String, String)| {
            (held == "*" || *held == gvr.resource) && (sub == "*" || sub == subresource)
        };
        has(&self.operations, write.operation.as_str())
            && has(&self.groups, &gvr.group)
            && has(&self.versions, &gvr.version)
            && self.resources.iter().any(resource)
            && self.fits_scope(write)
            && (self.names.is_empty() || self.names.iter().any(|name| name == write.object_name()))
    }

    fn fits_scope(&self, write: &Attributes) -> bool {
        let in_namespace = write.namespace.is_some() && !write.is_namespace();
        match self.scope.as_deref() {
            Some("Namespaced") => in_namespace,
            Some("Cluster") => !in_namespace,
            _ => true,
        }
    }
}

/// Everything that narrows what a webhook or policy is about.
#[derive(Debug)]
pub struct Matcher {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// True without rules: a binding that says nothing of resources means all.
    everything: bool,
    /// False where only the version of the request counts.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// What the API fills in is `Equivalent`.
fn is_equivalent(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy == "Equivalent")
}

fn compile(selector: Option<&meta::LabelSelector>) -> LabelSelector {
    selector.map_or_else(LabelSelector::everything, LabelSelector::from_meta)
}

fn all<R>(rules: Option<Vec<R>>) -> Vec<Rule>
where
    Rule: From<R>,
{
    rules.into_iter().flatten().map(Rule::from).collect()
}

impl Matcher {
    /// Of a webhook.
    pub fn new(
        rules: Option<Vec<RuleWithOperations>>,
        policy: Option<&String>,
        namespaces: Option<&meta::LabelSelector>,
        objects: Option<&meta::LabelSelector>,
    ) -> Self {
        Self {
            rules: all(rules),
            excluded: Vec::new(),
            everything: false,
            equivalent: is_equivalent(policy),
            namespaces: compile(namespaces),
            objects: compile(objects),
        }
    }

    /// The row in whose version the write is to be shown, if it is one of those that the webhook is about.
    pub fn matches(&self, write: &Attributes, cluster: &dyn Reader) -> Result<Option<Arc<Row>>, ApiError> {
        // The rules are cheap and say no most of the time. An error of a selector is one of those who are asked only.
        if self.find(&self.excluded, write, cluster).is_some() {
            return Ok(None);
        }
        let row = if self.everything { Some(write.row.clone()) } else { self.find(&self.rules, write, cluster) };
        let Some(row) = row else { return Ok(None) };
        Ok((self.selects_object(write) && self.selects_namespace(write, cluster)?).then_some(row))
    }

    /// The version of the request goes before all others; of those the first that a rule names.
    fn find(&self, rules: &[Rule], write: &Attributes, cluster: &dyn Reader) -> Option<Arc<Row>> {
        if rules.iter().any(|rule| rule.matches(write, &write.row.gvr)) {
            return Some(write.row.clone());
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let versions = cluster.versions(&write.row);
        let fits = |row: &&Arc<Row>| row.gvr != write.row.gvr && write.subresource.is_none_or(|part| row.has(part));
        let found = |rule: &Rule| versions.iter().filter(fits).find(|row| rule.matches(write, &row.gvr)).cloned();
        rules.iter().find_map(found)
    }

    /// Either of the objects will do: neither comes in nor goes out unseen.
    fn selects_object(&self, write: &Attributes) -> bool {
        let selects = |object: &dyn AnyObject| {
            let labels = object.meta().labels.as_ref();
            self.objects.matches(labels.unwrap_or(&BTreeMap::new()))
        };
        self.objects.is_everything()
            || [&write.object, &write.old].into_iter().flatten().any(|object| selects(&**object))
    }

    fn selects_namespace(&self, write: &Attributes, cluster: &dyn Reader) -> Result<bool, ApiError> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let empty = BTreeMap::new();
        let selects = |object: &dyn AnyObject| self.namespaces.matches(object.meta().labels.as_ref().unwrap_or(&empty));
        let itself = write.is_namespace() && write.subresource.is_none();
        match write.in_namespace() {
            // What a namespace is about to be counts, not what it was.
            _ if itself && matches!(write.operation, Operation::Create | Operation::Update) => {
                Ok(write.object.as_deref().is_some_and(selects))
            }
            None if write.is_namespace() => Ok(write.old.as_deref().is_some_and(selects)),
            None => Ok(true),
            Some(name) => {
                let namespace = cluster.get(&NAMESPACES, None, name);
                namespace.map(|namespace| selects(&*namespace)).ok_or_else(|| ApiError::not_found(&NAMESPACES, name))
            }
        }
    }
}

impl From<MatchResources> for Matcher {
    fn from(from: MatchResources) -> Self {
        Self {
            namespaces: compile(from.namespace_selector.as_ref()),
            objects: compile(from.object_selector.as_ref()),
            everything: from.resource_rules.as_ref().is_none_or(Vec::is_empty),
            equivalent: is_equivalent(from.match_policy.as_ref()),
            rules: all(from.resource_rules),
            excluded: all(from.exclude_resource_rules),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wharf_registry::Subresource;
    use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace, Pod};

    use super::*;
    use crate::plugins::testing::{Cluster, json, write};

    fn cluster() -> Cluster {
        let namespace = |name: &str| -> Namespace { json(json!({"metadata": {"name": name, "labels": {"ns": name}}})) };
        Cluster::default().with("namespaces", namespace("default")).with("namespaces", namespace("other"))
    }

    #[track_caller]
    fn check(resources: Value, write: &Attributes, expected: bool) {
        let resources: MatchResources = serde_json::from_value(resources).expect("match resources");
        assert_eq!(Matcher::from(resources).matches(write, &cluster()).expect("a verdict").is_some(), expected);
    }

    fn rule(resource: &str, operation: &str) -> Value {
        json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "operations": [operation]})
    }

    fn settings(labels: Value) -> ConfigMap {
        json(json!({"metadata": {"name": "a", "namespace": "default", "labels": labels}}))
    }

    #[test]
    fn rules_name_groups_versions_resources_operations_and_scope() {
        let create = write(Operation::Create, "configmaps", settings(json!({})));
        check(json!({"resourceRules": [rule("configmaps", "CREATE")]}), &create, true);
        check(json!({"resourceRules": [rule("*", "*")]}), &create, true);
        check(json!({"resourceRules": [rule("*/*", "*")]}), &create, true);
        check(json!({"resourceRules": [rule("pods", "CREATE")]}), &create, false);
        check(json!({"resourceRules": [rule("configmaps", "UPDATE")]}), &create, false);
        check(
            json!({"resourceRules": [rule("*", "*")], "excludeResourceRules": [rule("configmaps", "*")]}),
            &create,
            false,
        );
        let mut named = rule("configmaps", "*");
        named["resourceNames"] = json!(["b"]);
        check(json!({"resourceRules": [named]}), &create, false);
        for (scope, expected) in [("Cluster", false), ("Namespaced", true), ("*", true)] {
            let mut rule = rule("*", "*");
            rule["scope"] = json!(scope);
            check(json!({"resourceRules": [rule.clone()]}), &create, expected);
            let namespace = write(Operation::Create, "namespaces", Namespace::default());
            check(json!({"resourceRules": [rule]}), &namespace, !expected || scope == "*");
        }
    }

    #[test]
    fn subresources_are_asked_for_by_name() {
        let pod: Pod = json(json!({"metadata": {"name": "a", "namespace": "default"}}));
        let status = write(Operation::Update, "pods", pod).through(Subresource::Status);
        check(json!({"resourceRules": [rule("pods", "*")]}), &status, false);
        check(json!({"resourceRules": [rule("*", "*")]}), &status, false);
        for resource in ["pods/status", "pods/*", "*/status", "*/*"] {
            check(json!({"resourceRules": [rule(resource, "*")]}), &status, true);
        }
    }

    #[test]
    fn either_object_may_have_the_labels() {
        let selecting = json!({"resourceRules": [rule("*", "*")], "objectSelector": {"matchLabels": {"a": "1"}}});
        let update =
            |new: Value, old: Value| write(Operation::Update, "configmaps", settings(new)).replacing(settings(old));
        check(selecting.clone(), &update(json!({"a": "1"}), json!({})), true);
        check(selecting.clone(), &update(json!({}), json!({"a": "1"})), true);
        check(selecting, &update(json!({}), json!({"a": "2"})), false);
    }

    #[test]
    fn a_namespace_is_selected_as_it_will_be() {
        let selecting =
            json!({"resourceRules": [rule("*", "*")], "namespaceSelector": {"matchLabels": {"ns": "default"}}});
        check(selecting.clone(), &write(Operation::Create, "configmaps", settings(json!({}))), true);
        let elsewhere: ConfigMap = json(json!({"metadata": {"name": "a", "namespace": "other"}}));
        check(selecting.clone(), &write(Operation::Create, "configmaps", elsewhere), false);
        let node = write(Operation::Create, "nodes", wharf_types::k8s::api::core::v1::Node::default());
        check(selecting.clone(), &node, true);
        let namespace: Namespace = json(json!({"metadata": {"name": "other", "labels": {"ns": "default"}}}));
        check(selecting.clone(), &write(Operation::Update, "namespaces", namespace.clone()), true);
        check(selecting, &write(Operation::Create, "namespaces", namespace).deleting(), false);
    }
}
