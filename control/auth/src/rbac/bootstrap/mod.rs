//! What every cluster starts with, and what becomes of it when an administrator has changed it.
//!
//! The table is text (`table.txt`), read once. Source of the reconciliation: `k8s.io/component-helpers/auth/rbac/reconciliation`
//! as `pkg/registry/rbac/rest` uses it: what is missing is added, nothing is taken away, and whatever carries
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone. Pure; the API server reads and writes.

use std::collections::BTreeMap;

use wharf_types::k8s::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use wharf_types::meta::{LabelSelector, ObjectMeta};

use super::{GROUP, cover};

const TABLE: &str = include_str!("table.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER_PREFIX: &str = "system:controller:";

#[derive(Debug, Default)]
pub struct Policy {
    pub cluster_roles: Vec<ClusterRole>,
    pub roles: Vec<Role>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub role_bindings: Vec<RoleBinding>,
}

/// What the table says.
pub fn policy() -> Policy {
    let mut reader = Reader::default();
    TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).for_each(|line| reader.line(line));
    reader.policy
}

/// What rules belong to.
#[derive(Clone, Copy, Default)]
enum Under {
    #[default]
    ClusterRole,
    Role,
}

#[derive(Default)]
struct Reader {
    policy: Policy,
    under: Under,
}

impl Reader {
    /// The table is part of the program: a line that cannot be read is a defect that every test meets.
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            _ if line.starts_with(' ') => self.rule(rule(&words)),
            ["clusterrole", name, sums @ ..] => self.cluster_role(name, sums),
            ["controller", name] => {
                let role = format!("{CONTROLLER_PREFIX}{name}");
                self.cluster_role(&role, &[]);
                self.cluster_binding(&role, &role, &[&format!("sa=kube-system:{name}")]);
            }
            ["role", namespace, name] => {
                let metadata = meta(Some(namespace), name);
                self.policy.roles.push(Role { metadata, rules: Some(Vec::new()) });
                self.under = Under::Role;
            }
            ["clusterbinding", name, role, subjects @ ..] => self.cluster_binding(name, role, subjects),
            ["binding", namespace, name, role, subjects @ ..] => self.policy.role_bindings.push(RoleBinding {
                metadata: meta(Some(namespace), name),
                role_ref: role_ref("Role", role),
                subjects: Some(subjects.iter().map(|text| subject(text)).collect()),
            }),
            _ => unreachable!("{line:?} in the table of roles"),
        }
    }

    fn rule(&mut self, rule: PolicyRule) {
        let rules = match self.under {
            Under::ClusterRole => self.policy.cluster_roles.last_mut().map(|role| &mut role.rules),
            Under::Role => self.policy.roles.last_mut().map(|role| &mut role.rules),
        };
        rules.expect("a rule stands under a role").get_or_insert_default().push(rule);
    }

    fn cluster_role(&mut self, name: &str, sums: &[&str]) {
        let mut role = ClusterRole { metadata: meta(None, name), rules: None, aggregation_rule: None };
        let label = |of: &str| (format!("{GROUP}/aggregate-to-{of}"), "true".to_owned());
        for sum in sums {
            if let Some(of) = sum.strip_prefix('+') {
                role.metadata.labels.get_or_insert_default().extend([label(of)]);
            } else if let Some(of) = sum.strip_prefix('=') {
                let selector = LabelSelector { match_labels: Some([label(of)].into()), ..LabelSelector::default() };
                role.aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
            }
        }
        self.policy.cluster_roles.push(role);
        self.under = Under::ClusterRole;
    }

    fn cluster_binding(&mut self, name: &str, role: &str, subjects: &[&str]) {
        let subjects: Vec<Subject> = subjects.iter().map(|text| subject(text)).collect();
        self.policy.cluster_role_bindings.push(ClusterRoleBinding {
            metadata: meta(None, name),
            role_ref: role_ref("ClusterRole", role),
            subjects: Some(subjects).filter(|subjects| !subjects.is_empty()),
        });
    }
}

fn meta(namespace: Option<&str>, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())].into()),
        annotations: Some([(AUTOUPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn subject(text: &str) -> Subject {
    let (kind, name) = text.split_once('=').expect("a subject is KIND=NAME");
    let of_group = |kind: &str| Subject {
        api_group: Some(GROUP.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: None,
    };
    match (kind, name.split_once(':')) {
        ("user", _) => of_group("User"),
        ("group", _) => of_group("Group"),
        ("sa", Some((namespace, name))) => Subject {
            api_group: None,
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
        },
        _ => unreachable!("{text:?} in the table of roles"),
    }
}

/// `VERBS GROUPS RESOURCES [NAMES]`; every list is sorted, as upstream's are.
fn rule(words: &[&str]) -> PolicyRule {
    let words = if words == ["events"] { &["create,update,patch", "core,events.k8s.io", "events"] } else { words };
    let sorted = |text: &str| -> Vec<String> {
        let mut list: Vec<String> = text.split(',').map(str::to_owned).collect();
        list.sort_unstable();
        list
    };
    let mut verbs: Vec<String> = words[0].split(',').flat_map(verbs).map(str::to_owned).collect();
    verbs.sort_unstable();
    if words[1] == "paths" {
        return PolicyRule { verbs, non_resource_urls: Some(sorted(words[2])), ..PolicyRule::default() };
    }
    let mut groups: Vec<String> =
        words[1].split(',').map(|group| if group == "core" { String::new() } else { group.to_owned() }).collect();
    groups.sort_unstable();
    PolicyRule {
        verbs,
        api_groups: Some(groups),
        resources: Some(sorted(words[2])),
        resource_names: words.get(3).map(|names| sorted(names)),
        non_resource_urls: None,
    }
}

fn verbs(word: &str) -> Vec<&str> {
    match word {
        "read" => vec!["get", "list", "watch"],
        "write" => vec!["create", "update", "patch", "delete", "deletecollection"],
        "readwrite" => vec!["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
        "readupdate" => vec!["get", "list", "watch", "update", "patch"],
        verb => vec![verb],
    }
}

/// What is to be done about one of the table's objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    Nothing,
    Create(T),
    Update(T),
    /// Delete what is there and create this: the role of a binding cannot be changed.
    Recreate(T),
}

/// A role of either scope, compared with what is there.
pub trait Reconciled: Sized + Clone {
    fn step(&self, held: Option<&Self>) -> Step<Self>;
}

impl Reconciled for ClusterRole {
    fn step(&self, held: Option<&Self>) -> Step<Self> {
        let Some(held) = held else { return Step::Create(self.clone()) };
        let mut next = held.clone();
        let mut changed = add_meta(&mut next.metadata, &self.metadata);
        match &self.aggregation_rule {
            None => changed |= add_rules(&mut next.rules, self.rules.as_deref()),
            Some(wanted) => {
                let selectors =
                    next.aggregation_rule.get_or_insert_default().cluster_role_selectors.get_or_insert_default();
                for selector in wanted.cluster_role_selectors.iter().flatten() {
                    if !selectors.contains(selector) {
                        selectors.push(selector.clone());
                        changed = true;
                    }
                }
            }
        }
        settle(&held.metadata, changed, next)
    }
}

impl Reconciled for Role {
    fn step(&self, held: Option<&Self>) -> Step<Self> {
        let Some(held) = held else { return Step::Create(self.clone()) };
        let mut next = held.clone();
        let changed = add_meta(&mut next.metadata, &self.metadata) | add_rules(&mut next.rules, self.rules.as_deref());
        settle(&held.metadata, changed, next)
    }
}

macro_rules! reconciled_binding {
    ($($kind:ty),*) => { $(impl Reconciled for $kind {
        fn step(&self, held: Option<&Self>) -> Step<Self> {
            let Some(held) = held else { return Step::Create(self.clone()) };
            if protected(&held.metadata) {
                return Step::Nothing;
            }
            if held.role_ref != self.role_ref {
                return Step::Recreate(self.clone());
            }
            let mut next = held.clone();
            let mut changed = add_meta(&mut next.metadata, &self.metadata);
            for subject in self.subjects.iter().flatten() {
                let subjects = next.subjects.get_or_insert_default();
                if !subjects.contains(subject) {
                    subjects.push(subject.clone());
                    changed = true;
                }
            }
            settle(&held.metadata, changed, next)
        }
    })* };
}
reconciled_binding!(ClusterRoleBinding, RoleBinding);

fn settle<T>(held: &ObjectMeta, changed: bool, next: T) -> Step<T> {
    if changed && !protected(held) { Step::Update(next) } else { Step::Nothing }
}

fn protected(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|all| all.get(AUTOUPDATE)).is_some_and(|value| value == "false")
}

/// Adds the labels and annotations that are missing. True if there were any.
fn add_meta(meta: &mut ObjectMeta, wanted: &ObjectMeta) -> bool {
    fn add(held: &mut Option<BTreeMap<String, String>>, wanted: Option<&BTreeMap<String, String>>) -> bool {
        let mut changed = false;
        for (key, value) in wanted.into_iter().flatten() {
            let held = held.get_or_insert_default();
            if !held.contains_key(key) {
                held.insert(key.clone(), value.clone());
                changed = true;
            }
        }
        changed
    }
    add(&mut meta.labels, wanted.labels.as_ref()) | add(&mut meta.annotations, wanted.annotations.as_ref())
}

/// Adds what the held rules do not cover. True if there was anything.
fn add_rules(held: &mut Option<Vec<PolicyRule>>, wanted: Option<&[PolicyRule]>) -> bool {
    let missing = cover::missing(held.as_deref().unwrap_or_default(), wanted.unwrap_or_default());
    let changed = !missing.is_empty();
    if changed {
        held.get_or_insert_default().extend(missing);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> ClusterRole {
        let found = policy().cluster_roles.into_iter().find(|role| role.metadata.name.as_deref() == Some(name));
        found.unwrap_or_else(|| panic!("no role {name}"))
    }

    #[test]
    fn the_table_is_whole() {
        let policy = policy();
        let names: Vec<&String> = policy.cluster_roles.iter().filter_map(|role| role.metadata.name.as_ref()).collect();
        let once: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(once.len(), names.len(), "no role stands twice");
        for binding in &policy.cluster_role_bindings {
            assert!(names.contains(&&binding.role_ref.name), "{}", binding.role_ref.name);
        }
        for role in &policy.cluster_roles {
            let empty = role.rules.as_ref().is_none_or(Vec::is_empty);
            assert_eq!(empty, role.aggregation_rule.is_some(), "{:?}", role.metadata.name);
        }
        for binding in &policy.role_bindings {
            let same = |role: &&Role| {
                role.metadata.namespace == binding.metadata.namespace
                    && role.metadata.name.as_ref() == Some(&binding.role_ref.name)
            };
            assert!(policy.roles.iter().any(|role| same(&role)), "{}", binding.role_ref.name);
        }
    }

    #[test]
    fn a_line_is_a_rule() {
        let dns = role("system:kube-dns");
        let rule = PolicyRule {
            verbs: vec!["list".into(), "watch".into()],
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["endpoints".into(), "services".into()]),
            ..PolicyRule::default()
        };
        assert_eq!(dns.rules, Some(vec![rule]));
        assert!(role("view").aggregation_rule.is_some());
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_is_taken_away() {
        let wanted = role("system:kube-dns");
        assert_eq!(wanted.step(None), Step::Create(wanted.clone()));
        assert_eq!(wanted.step(Some(&wanted)), Step::Nothing);
        let wider = ClusterRole { rules: Some(cover::full_authority()), ..wanted.clone() };
        assert_eq!(wanted.step(Some(&wider)), Step::Nothing);
        let narrow = ClusterRole { rules: None, ..wanted.clone() };
        let Step::Update(next) = wanted.step(Some(&narrow)) else { panic!("an update") };
        assert!(cover::missing(&next.rules.unwrap_or_default(), &wanted.rules.clone().unwrap_or_default()).is_empty());
    }

    #[test]
    fn what_is_marked_stays_as_it_is() {
        let wanted = role("system:kube-dns");
        let mut held = ClusterRole { rules: None, ..wanted.clone() };
        held.metadata.annotations = Some([(AUTOUPDATE.to_owned(), "false".to_owned())].into());
        assert_eq!(wanted.step(Some(&held)), Step::Nothing);
    }

    #[test]
    fn a_binding_to_another_role_is_made_again() {
        let all = policy().cluster_role_bindings;
        let mut held = all[0].clone();
        held.role_ref.name = "other".to_owned();
        assert_eq!(all[0].step(Some(&held)), Step::Recreate(all[0].clone()));
        let held = ClusterRoleBinding { subjects: None, ..all[0].clone() };
        assert_eq!(all[0].step(Some(&held)), Step::Update(all[0].clone()));
    }
}
