//! FlowSchemas: which requests are of which priority level.
//!
//! Source: `pkg/apis/flowcontrol/{v1,validation}`, `pkg/registry/flowcontrol/flowschema`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, FlowSchemaStatus, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule,
    ServiceAccountSubject, Subject,
};

use super::{NONE, created, name};
use crate::checks;
use crate::flowcontrol::mandatory_schemas;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct FlowSchemas;

/// Of a schema that says none.
const PRECEDENCE: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const KINDS: &[&str] = &["Group", "ServiceAccount", "User"];
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Strategy for FlowSchemas {
    type Object = FlowSchema;

    fn default(&self, schema: &mut FlowSchema) {
        let precedence = &mut schema.spec.get_or_insert_default().matching_precedence;
        if precedence.is_none_or(|precedence| precedence == 0) {
            *precedence = Some(PRECEDENCE);
        }
    }

    fn prepare_for_create(&self, schema: &mut FlowSchema) {
        schema.status = Some(FlowSchemaStatus::default());
        schema.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, schema: &mut FlowSchema, old: &FlowSchema) {
        schema.status.clone_from(&old.status);
        let changed = schema.spec != old.spec;
        super::generation(&mut schema.metadata, &old.metadata, changed);
    }

    fn prepare_for_status_update(&self, schema: &mut FlowSchema, old: &FlowSchema) {
        schema.spec.clone_from(&old.spec);
        super::keep_meta(&mut schema.metadata, &old.metadata);
    }

    fn validate(&self, schema: &FlowSchema) -> Errors {
        let (empty, path) = (FlowSchemaSpec::default(), Path::new("spec"));
        let spec = schema.spec.as_ref().unwrap_or(&empty);
        let own = schema.metadata.name.as_deref().unwrap_or_default();
        let mut errors = validate_spec(own, spec, &path);
        let fixed = mandatory_schemas().into_iter().find(|fixed| fixed.metadata.name == schema.metadata.name);
        if fixed.is_some_and(|fixed| fixed.spec.as_ref() != Some(spec)) {
            let why = format!("spec of '{own}' must equal the fixed value");
            errors.push(Error::invalid(&path, checks::json(spec), why));
        }
        errors.extend(validate_status(schema));
        errors
    }

    fn validate_status_update(&self, new: &FlowSchema, _old: &FlowSchema) -> Errors {
        validate_status(new)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "PriorityLevel",
                "string",
                "`name` is the name of the priority level configuration being referenced Required.",
            ),
            Column::new(
                "MatchingPrecedence",
                "string",
                "`matchingPrecedence` is used to choose among the FlowSchemas that match a given request. The chosen FlowSchema is among those with the numerically lowest (which we take to be logically highest) MatchingPrecedence.  Each MatchingPrecedence value must be ranged in [1,10000]. Note that if the precedence is not specified, it will be set to 1000 as default.",
            ),
            Column::new(
                "DistinguisherMethod",
                "string",
                "`distinguisherMethod` defines how to compute the flow distinguisher for requests that match this schema. `nil` specifies that the distinguisher is disabled and thus will always be the empty string.",
            ),
            AGE,
            Column::new("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
        ];
        COLUMNS
    }

    fn cells(&self, schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = schema.spec.clone().unwrap_or_default();
        let conditions = schema.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let dangling = conditions.rev().find(|condition| condition.type_.as_deref() == Some("Dangling"));
        let dangling = dangling.and_then(|condition| condition.status.clone());
        vec![
            name(&schema.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or_default().into(),
            spec.distinguisher_method.map_or_else(|| NONE.to_owned(), |method| method.type_).into(),
            created(&schema.metadata, now),
            dangling.unwrap_or_else(|| "?".to_owned()).into(),
        ]
    }
}

fn validate_spec(own: &str, spec: &FlowSchemaSpec, path: &Path) -> Errors {
    let at = path.child("matchingPrecedence");
    let mut errors = Vec::new();
    match spec.matching_precedence.unwrap_or_default() {
        low @ ..=0 => errors.push(Error::invalid(&at, low, "must be a positive value")),
        1 if own != "exempt" => {
            errors.push(Error::invalid(&at, 1, "only the schema named 'exempt' may have matchingPrecedence 1"));
        }
        high if high > PRECEDENCE_MAX => {
            errors.push(Error::invalid(&at, high, format!("must not be greater than {PRECEDENCE_MAX}")));
        }
        _ => {}
    }
    if let Some(method) = spec.distinguisher_method.as_ref().filter(|method| !METHODS.contains(&method.type_.as_str()))
    {
        let at = path.child("distinguisherMethod").child("type");
        errors.push(Error::not_supported(&at, checks::json(method), METHODS));
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match spec.priority_level_configuration.name.as_str() {
        "" => errors.push(Error::required(&at, "must reference a priority level")),
        level => errors.extend(checks::dns1123_subdomain(level, &at)),
    }
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        errors.extend(validate_rules(rule, &path.child("rules").index(index)));
    }
    errors
}

fn validate_rules(rules: &PolicyRulesWithSubjects, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if rules.subjects.is_empty() {
        errors.push(Error::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (index, subject) in rules.subjects.iter().enumerate() {
        errors.extend(validate_subject(subject, &path.child("subjects").index(index)));
    }
    let resources = rules.resource_rules.as_deref().unwrap_or_default();
    let paths = rules.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && paths.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path, why));
    }
    for (index, rule) in resources.iter().enumerate() {
        errors.extend(validate_resources(rule, &path.child("resourceRules").index(index)));
    }
    for (index, rule) in paths.iter().enumerate() {
        errors.extend(validate_paths(rule, &path.child("nonResourceRules").index(index)));
    }
    errors
}

/// A subject has what its kind names, and nothing of another kind.
fn validate_subject(subject: &Subject, path: &Path) -> Errors {
    if !KINDS.contains(&subject.kind.as_str()) {
        return vec![Error::not_supported(&path.child("kind"), &subject.kind, KINDS)];
    }
    let mut errors = match subject.kind.as_str() {
        "ServiceAccount" => validate_account(subject.service_account.as_ref(), &path.child("serviceAccount")),
        "User" => validate_named(subject.user.as_ref().map(|user| user.name.as_str()), "user", "User", path),
        _ => validate_named(subject.group.as_ref().map(|group| group.name.as_str()), "group", "Group", path),
    };
    for (given, field, kind) in [
        (subject.service_account.is_some(), "serviceAccount", "ServiceAccount"),
        (subject.user.is_some(), "user", "User"),
        (subject.group.is_some(), "group", "Group"),
    ] {
        if given && subject.kind != kind {
            let why = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    errors
}

fn validate_named(name: Option<&str>, field: &str, kind: &str, path: &Path) -> Errors {
    let path = path.child(field);
    match name {
        None => vec![Error::required(&path, format!("{field} is required when subject kind is '{kind}'"))],
        Some("") => vec![Error::required(&path.child("name"), "")],
        Some(_) => Vec::new(),
    }
}

fn validate_account(account: Option<&ServiceAccountSubject>, path: &Path) -> Errors {
    let Some(account) = account else {
        return vec![Error::required(path, "serviceAccount is required when subject kind is 'ServiceAccount'")];
    };
    let mut errors = match account.name.as_str() {
        "" => vec![Error::required(&path.child("name"), "")],
        "*" => Vec::new(),
        name => checks::dns1123_subdomain(name, &path.child("name")),
    };
    let at = path.child("namespace");
    match account.namespace.as_str() {
        "" => errors.push(Error::required(&at, "must specify namespace for service account")),
        namespace => errors.extend(checks::dns1123_label(namespace, &at)),
    }
    errors
}

fn validate_verbs(verbs: &[String], path: &Path) -> Errors {
    let path = path.child("verbs");
    match stars(verbs) {
        Stars::Empty => vec![Error::required(&path, "verbs must contain at least one value")],
        Stars::Alone => Vec::new(),
        Stars::Among => {
            vec![Error::invalid(&path, checks::json(verbs), "if '*' is present, must not specify other verbs")]
        }
        Stars::None if verbs.iter().all(|verb| VERBS.contains(&verb.as_str())) => Vec::new(),
        Stars::None => vec![Error::not_supported(&path, checks::json(verbs), VERBS)],
    }
}

/// How a list uses `*`.
enum Stars {
    Empty,
    Alone,
    Among,
    None,
}

fn stars(list: &[String]) -> Stars {
    match (list.len(), list.iter().any(|item| item == "*")) {
        (0, _) => Stars::Empty,
        (1, true) => Stars::Alone,
        (_, true) => Stars::Among,
        (_, false) => Stars::None,
    }
}

fn validate_resources(rule: &ResourcePolicyRule, path: &Path) -> Errors {
    let mut errors = validate_verbs(&rule.verbs, path);
    for (list, field, one, many) in [
        (&rule.api_groups, "apiGroups", "api group", "api groups"),
        (&rule.resources, "resources", "resource", "resources"),
    ] {
        let at = path.child(field);
        match stars(list) {
            Stars::Empty => {
                errors.push(Error::required(&at, format!("resource rules must supply at least one {one}")));
            }
            Stars::Among => {
                let why = format!("if '*' is present, must not specify other {many}");
                errors.push(Error::invalid(&at, checks::json(list), why));
            }
            Stars::Alone | Stars::None => {}
        }
    }
    let (at, namespaces) = (path.child("namespaces"), rule.namespaces.as_deref().unwrap_or_default());
    match stars(namespaces) {
        Stars::Empty if rule.cluster_scope == Some(true) => {}
        Stars::Empty => {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(Error::required(&at, why));
        }
        Stars::Among => {
            let why = "if '*' is present, must not specify other namespaces";
            errors.push(Error::invalid(&at, checks::json(namespaces), why));
        }
        Stars::Alone => {}
        Stars::None => {
            for (index, namespace) in namespaces.iter().enumerate() {
                let why = names::dns1123_label(namespace).into_iter();
                let why = why.map(|why| format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
                errors.extend(checks::invalid(why.collect(), &at.index(index), namespace));
            }
        }
    }
    errors
}

fn validate_paths(rule: &NonResourcePolicyRule, path: &Path) -> Errors {
    let mut errors = validate_verbs(&rule.verbs, path);
    let at = path.child("nonResourceURLs");
    match stars(&rule.non_resource_urls) {
        Stars::Empty => errors.push(Error::required(&at, "nonResourceURLs must contain at least one value")),
        Stars::Alone => {}
        Stars::Among => {
            let why = "if '*' is present, must not specify other non-resource URLs";
            errors.push(Error::invalid(&at, checks::json(&rule.non_resource_urls), why));
        }
        Stars::None => {
            for (index, url) in rule.non_resource_urls.iter().enumerate() {
                errors.extend(bad_path(url).map(|why| Error::invalid(&at.index(index), url, why)));
            }
        }
    }
    errors
}

fn bad_path(path: &str) -> Option<&'static str> {
    let wild = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if wild > 1 || wild == 1 && !path.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn validate_status(schema: &FlowSchema) -> Errors {
    let conditions = schema.status.iter().flat_map(|status| status.conditions.iter().flatten());
    validate_condition_types(conditions.map(|condition| condition.type_.as_deref().unwrap_or_default()))
}

/// Of a schema or a priority level: each type has a name, and one condition.
pub fn validate_condition_types<'a>(types: impl Iterator<Item = &'a str>) -> Errors {
    let path = Path::new("status").child("conditions");
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, kind) in types.enumerate() {
        let at = path.index(index).child("type");
        if !seen.insert(kind) {
            errors.push(Error::duplicate(&at, kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&at, "must not be empty"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::suggested_schemas;
    use crate::testing::{check, check_cells, check_update, object};

    fn schema(rules: &str) -> String {
        format!("{{metadata: {{name: s}}, spec: {{priorityLevelConfiguration: {{name: system}}, rules: [{rules}]}}}}")
    }

    const RULE: &str = "{subjects: [{kind: User, user: {name: jane}}], resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*']}]}";

    #[test]
    fn what_every_cluster_has_is_valid() {
        for schema in suggested_schemas().into_iter().chain(mandatory_schemas()) {
            let mut defaulted = schema.clone();
            FlowSchemas.default(&mut defaulted);
            assert_eq!(defaulted, schema, "defaults change nothing");
            assert_eq!(FlowSchemas.validate(&schema), []);
        }
        assert_eq!(suggested_schemas().len() + mandatory_schemas().len(), 13);
    }

    #[test]
    fn mandatory_schemas_are_fixed() {
        let mut exempt = mandatory_schemas().remove(0);
        exempt.spec.get_or_insert_default().distinguisher_method =
            Some(wharf_types::k8s::api::flowcontrol::v1::FlowDistinguisherMethod { type_: "ByUser".to_owned() });
        let errors = FlowSchemas.validate(&exempt);
        assert!(errors[0].to_string().ends_with("spec of 'exempt' must equal the fixed value"), "{errors:?}");
    }

    #[test]
    fn a_schema_has_a_level_and_a_place() {
        check(&FlowSchemas, &schema(RULE), &[]);
        check(
            &FlowSchemas,
            "{metadata: {name: s}, spec: {matchingPrecedence: 1, distinguisherMethod: {type: ByName}, priorityLevelConfiguration: {name: ''}}}",
            &[
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.distinguisherMethod.type: Unsupported value: {\"type\":\"ByName\"}: supported values: \"ByNamespace\", \"ByUser\"",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ],
        );
    }

    #[test]
    fn a_rule_says_who_and_what() {
        check(
            &FlowSchemas,
            &schema("{subjects: []}"),
            &[
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ],
        );
        check(
            &FlowSchemas,
            &schema(
                "{subjects: [{kind: Robot}, {kind: User, group: {name: g}}, {kind: ServiceAccount, serviceAccount: {name: '*', namespace: ''}}],
                  nonResourceRules: [{verbs: [get, eat], nonResourceURLs: [x, /a//b, '/a/*/b']}]}",
            ),
            &[
                "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                "spec.rules[0].subjects[1].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[1].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0].subjects[2].serviceAccount.namespace: Required value: must specify namespace for service account",
                "spec.rules[0].nonResourceRules[0].verbs: Unsupported value: [\"get\",\"eat\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a//b\": must not contain double slash",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a/*/b\": wildcard can only do suffix matching",
            ],
        );
    }

    #[test]
    fn changes_count() {
        check_update(&FlowSchemas, &schema(RULE), &schema(RULE), &[]);
        let (old, mut new) = (object(&FlowSchemas, &schema(RULE)), object(&FlowSchemas, &schema("")));
        FlowSchemas.prepare_for_update(&mut new, &old);
        assert_eq!(new.metadata.generation, Some(1));
    }

    #[test]
    fn schemas_show_their_level() {
        check_cells(&FlowSchemas, &schema(RULE), "s | system | 1000 | <none> | <unknown> | ?");
        let dangling =
            schema(RULE).replace("spec:", "status: {conditions: [{type: Dangling, status: 'False'}]}, spec:");
        check_cells(&FlowSchemas, &dangling, "s | system | 1000 | <none> | <unknown> | False");
    }
}
