//! One row for each resource, and the table of all rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use wharf_machinery::apply::{Filter, Set};
use wharf_types::{GroupVersion, Gvk, Gvr};

use crate::convert::Convert;
use crate::kind::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// Subresources with their own verbs. `Status` and `Scale` are generic; the others have a handler in `apiserver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    EphemeralContainers,
    Resize,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    Token,
    Finalize,
    Approval,
}

impl Subresource {
    pub fn name(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Resize => "resize",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::Token => "token",
            Subresource::Finalize => "finalize",
            Subresource::Approval => "approval",
        }
    }
}

/// A served resource.
pub struct Row {
    pub gvr: Gvr,
    pub gvk: Gvk,
    /// `PodList`
    pub list_kind: String,
    /// `pod`
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    /// What stands between `/registry/` and the namespace or name in a store key; upstream's choice (`services/specs`, `minions`).
    /// Empty for what is not stored: see [`Row::is_virtual`].
    pub storage: String,
    pub subresources: Vec<Subresource>,
    pub kind: Arc<dyn Kind>,
    /// None where objects are stored in this row's version: see [`Convert`].
    pub convert: Option<Arc<dyn Convert>>,
}

impl Row {
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// True for custom resources and their definitions, which upstream serves from an API server of their own.
    pub fn is_extension(&self) -> bool {
        self.kind.is_custom() || self.gvr.group == "apiextensions.k8s.io"
    }

    /// True for what is answered and never stored: reviews, bindings, the state of components.
    pub fn is_virtual(&self) -> bool {
        self.storage.is_empty()
    }

    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The kind as objects are stored.
    pub fn stored_gvk(&self) -> Gvk {
        let Some(convert) = &self.convert else { return self.gvk.clone() };
        let GroupVersion { group, version } = GroupVersion::parse(&convert.stored_version());
        Gvk { group, version, kind: self.gvk.kind.clone() }
    }

    /// What writers of the row or its subresource do not come to own.
    pub fn filter(&self, subresource: Option<Subresource>) -> Filter {
        if let Some(fields) = self.kind.reset_fields(subresource) {
            return Filter::Reset(Set::of(fields));
        }
        match subresource {
            None if self.has(Subresource::Status) => Filter::Reset(Set::of(&[&["status"]])),
            Some(Subresource::Status) => Filter::Reset(Set::of(&[&["spec"]])),
            Some(Subresource::Finalize) => Filter::Reset(Set::of(&[&["status"]])),
            Some(Subresource::EphemeralContainers) => Filter::Only(Set::of(&[&["spec", "ephemeralContainers"]])),
            Some(Subresource::Resize) => Filter::Only(Set::of(&[&["spec", "containers"], &["spec", "initContainers"]])),
            _ => Filter::none(),
        }
    }

    /// `/registry/pods/`
    pub fn prefix(&self) -> String {
        format!("/registry/{}/", self.storage)
    }

    /// `/registry/pods/default/web`; `namespace` is ignored for cluster-scoped resources.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match (self.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => format!("/registry/{}/{namespace}/{name}", self.storage),
            _ => format!("/registry/{}/{name}", self.storage),
        }
    }
}

/// All rows, replaced as a whole when custom resources come and go.
pub struct Table {
    rows: ArcSwap<Rows>,
}

#[derive(Default)]
struct Rows {
    by_resource: BTreeMap<Gvr, Arc<Row>>,
    /// Rows that show the same objects, in the order of their conversions.
    by_storage: HashMap<String, Arc<[Arc<Row>]>>,
    /// By the resource's plain name and by the kind's, which few rows share: a lookup takes a text as it stands in a path.
    by_name: HashMap<String, Vec<Arc<Row>>>,
    by_kind: HashMap<String, Vec<Arc<Row>>>,
}

impl Rows {
    fn new(by_resource: BTreeMap<Gvr, Arc<Row>>) -> Self {
        let (mut by_name, mut by_kind) = (HashMap::<String, Vec<_>>::new(), HashMap::<String, Vec<_>>::new());
        let mut by_storage: HashMap<String, Vec<Arc<Row>>> = HashMap::new();
        for row in by_resource.values() {
            by_name.entry(row.gvr.resource.to_string()).or_default().push(row.clone());
            by_kind.entry(row.gvk.kind.to_string()).or_default().push(row.clone());
            if !row.is_virtual() {
                by_storage.entry(row.storage.clone()).or_default().push(row.clone());
            }
        }
        let sorted = |(storage, mut rows): (String, Vec<Arc<Row>>)| {
            rows.sort_by_key(|row| row.convert.as_ref().map_or(0, |convert| convert.slot()));
            (storage, rows.into())
        };
        Self { by_storage: by_storage.into_iter().map(sorted).collect(), by_resource, by_name, by_kind }
    }
}

impl Table {
    pub fn new(rows: Vec<Row>) -> Self {
        let by_resource = rows.into_iter().map(|row| (row.gvr.clone(), Arc::new(row))).collect();
        Self { rows: ArcSwap::from_pointee(Rows::new(by_resource)) }
    }

    /// Adds rows, or puts them in place of those of the same name. What was found before stays as it was.
    pub fn put(&self, rows: impl IntoIterator<Item = Row>) {
        let rows: Vec<(Gvr, Arc<Row>)> = rows.into_iter().map(|row| (row.gvr.clone(), Arc::new(row))).collect();
        self.rows.rcu(|held| {
            let mut by_resource = held.by_resource.clone();
            by_resource.extend(rows.iter().cloned());
            Rows::new(by_resource)
        });
    }

    /// Takes rows away; none of them is found from now on.
    pub fn remove<'a>(&self, rows: impl IntoIterator<Item = &'a Gvr>) {
        let rows: Vec<&Gvr> = rows.into_iter().collect();
        self.rows.rcu(|held| {
            let mut by_resource = held.by_resource.clone();
            by_resource.retain(|gvr, _| !rows.contains(&gvr));
            Rows::new(by_resource)
        });
    }

    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Row>> {
        let rows = self.rows.load();
        rows.by_name.get(resource)?.iter().find(|row| row.gvr.group == group && row.gvr.version == version).cloned()
    }

    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Row>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let rows = self.rows.load();
        rows.by_kind.get(kind)?.iter().find(|row| row.gvk.group == group && row.gvk.version == version).cloned()
    }

    /// Every row of the same objects, the row itself among them; none of a row without storage.
    pub fn versions(&self, row: &Row) -> Arc<[Arc<Row>]> {
        self.rows.load().by_storage.get(&row.storage).cloned().unwrap_or_default()
    }

    pub fn all(&self) -> Vec<Arc<Row>> {
        self.rows.load().by_resource.values().cloned().collect()
    }
}
