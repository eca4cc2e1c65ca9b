//! Roles by name, and bindings by whom they are for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wharf_types::k8s::api::rbac::v1::{PolicyRule, RoleRef, Subject};

use super::RoleNotFound;
use crate::{SERVICE_ACCOUNT_PREFIX, User};

/// A binding of either scope.
pub struct Binding {
    /// Empty for a ClusterRoleBinding.
    pub namespace: String,
    pub name: String,
    pub role: RoleRef,
    pub subjects: Vec<Subject>,
}

/// The bindings for one user or group, by name, each with the subject in it that means them.
type Held = BTreeMap<String, (Arc<Binding>, usize)>;

/// The bindings of one namespace, or of the cluster.
#[derive(Default)]
struct Place {
    users: HashMap<String, Held>,
    groups: HashMap<String, Held>,
    all: HashMap<String, Arc<Binding>>,
}

/// The empty namespace stands for the cluster, in both maps.
#[derive(Default)]
pub struct Index {
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    places: HashMap<String, Place>,
}

/// Told of a binding, the subject in it that applies, and its rules. False ends the visit.
pub type Visit<'a> = dyn FnMut(&Binding, usize, Result<&[PolicyRule], RoleNotFound>) -> bool + 'a;

impl Index {
    pub fn set_role(&mut self, namespace: String, name: String, rules: Option<Vec<PolicyRule>>) {
        let roles = self.roles.entry(namespace).or_default();
        match rules {
            Some(rules) => drop(roles.insert(name, rules.into())),
            None => drop(roles.remove(&name)),
        }
    }

    /// Forgets the roles of the cluster, or those of all namespaces.
    pub fn clear_roles(&mut self, cluster: bool) {
        self.roles.retain(|namespace, _| namespace.is_empty() != cluster);
    }

    pub fn clear_bindings(&mut self, cluster: bool) {
        self.places.retain(|namespace, _| namespace.is_empty() != cluster);
    }

    pub fn set_binding(&mut self, binding: Binding, there: bool) {
        let place = self.places.entry(binding.namespace.clone()).or_default();
        if let Some(old) = place.all.remove(&binding.name) {
            place.forget(&old);
        }
        if there {
            place.add(Arc::new(binding));
        }
    }

    pub fn rules(&self, kind: &str, name: &str, namespace: &str) -> Result<&[PolicyRule], RoleNotFound> {
        let (kind, place) = if kind == "Role" { ("role", namespace) } else { ("clusterrole", "") };
        let found = self.roles.get(place).and_then(|roles| roles.get(name));
        found.map(|rules| &**rules).ok_or_else(|| RoleNotFound { kind, name: name.to_owned() })
    }

    /// Visits every binding for the user: those of the cluster, then those of the namespace.
    pub fn visit(&self, user: &User, namespace: &str, visitor: &mut Visit<'_>) {
        let cluster = self.places.get("");
        let local = self.places.get(namespace).filter(|_| !namespace.is_empty());
        for place in cluster.into_iter().chain(local) {
            let of_groups = user.groups.iter().filter_map(|group| place.groups.get(group));
            let held = of_groups.chain(place.users.get(&user.name));
            for (binding, subject) in held.flat_map(BTreeMap::values) {
                let rules = self.rules(&binding.role.kind, &binding.role.name, &binding.namespace);
                if !visitor(binding, *subject, rules) {
                    return;
                }
            }
        }
    }
}

impl Place {
    fn add(&mut self, binding: Arc<Binding>) {
        for (index, subject) in binding.subjects.iter().enumerate() {
            if let Some(held) = self.of(&binding.namespace, subject) {
                held.entry(binding.name.clone()).or_insert((binding.clone(), index));
            }
        }
        self.all.insert(binding.name.clone(), binding);
    }

    fn forget(&mut self, binding: &Binding) {
        for subject in &binding.subjects {
            if let Some(held) = self.of(&binding.namespace, subject) {
                held.remove(&binding.name);
            }
        }
        self.users.retain(|_, held| !held.is_empty());
        self.groups.retain(|_, held| !held.is_empty());
    }

    /// The bindings of whom the subject names; none where it names nobody.
    fn of(&mut self, namespace: &str, subject: &Subject) -> Option<&mut Held> {
        match subject.kind.as_str() {
            "User" => Some(self.users.entry(subject.name.clone()).or_default()),
            "Group" => Some(self.groups.entry(subject.name.clone()).or_default()),
            "ServiceAccount" => {
                let own = subject.namespace.as_deref().filter(|own| !own.is_empty()).unwrap_or(namespace);
                let user = format!("{SERVICE_ACCOUNT_PREFIX}{own}:{}", subject.name);
                (!own.is_empty()).then(|| self.users.entry(user).or_default())
            }
            _ => None,
        }
    }
}
