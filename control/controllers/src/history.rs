//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had.
//!
//! A revision holds the strategic merge patch that puts its template back, which is what `kubectl rollout undo` sends. Revisions
//! are immutable but for their number, which is raised when their template comes back. [`choose`] decides, [`History`] acts.
//! Invariants: the newest number is the present template's; a name that is taken by another template is never overwritten.
//! Absent on purpose: fences on revisions. A stale view makes a creation find the revision already there, or loses the race for it.
//! Source: `k8s.io/kubernetes/pkg/controller/history`, with comparison up to empty fields (`StatefulSetSemanticRevisionComparison`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use wharf_client::{Index, Informed, Informers, Lister};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::apps::v1::ControllerRevision;
use wharf_types::k8s::api::core::v1::PodTemplateSpec;
use wharf_types::k8s::apimachinery::pkg::runtime::RawExtension;
use wharf_types::meta::ObjectMeta;

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::owners;
use crate::template::{self, FNV_BASIS, FNV_PRIME};

/// On pods, and on a DaemonSet's revisions: which revision they are of.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// Bytes of the owner's name that a revision's name has room for.
const PREFIX_LIMIT_BYTES: usize = 223;

/// What a revision of this template holds.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("Kubernetes structs serialise to JSON");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision puts back.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// FNV-1 of the data and of how often that collided: upstream's hash of the same bytes.
pub fn hash(data: &Value, collisions: i32) -> String {
    let (json, count) = (data.to_string(), collisions.to_string());
    let bytes = json.bytes().chain(count.bytes());
    template::safe(bytes.fold(FNV_BASIS, |hash, byte| hash.wrapping_mul(FNV_PRIME) ^ u32::from(byte)))
}

pub fn name(owner: &str, hash: &str) -> String {
    let end = (0..=owner.len().min(PREFIX_LIMIT_BYTES)).rev().find(|at| owner.is_char_boundary(*at)).unwrap_or(0);
    format!("{}-{hash}", &owner[..end])
}

/// A revision that is not on the server yet. It says of its owner's template what the owner's annotations say, such as the
/// cause of the change.
pub fn new<O: Resource<DynamicType = ()>>(
    owner: &O,
    data: Value,
    number: i64,
    hash: &str,
    labels: BTreeMap<String, String>,
) -> ControllerRevision {
    let metadata = ObjectMeta {
        name: Some(name(owners::name(owner), hash)),
        namespace: owner.meta().namespace.clone(),
        labels: Some(labels),
        annotations: owner.meta().annotations.clone(),
        owner_references: Some(vec![owners::controller_ref(owner)]),
        ..ObjectMeta::default()
    };
    ControllerRevision { metadata, data: Some(RawExtension(data)), revision: number }
}

/// Whether the revision holds this data, up to empty fields.
pub fn holds(revision: &ControllerRevision, data: &Value) -> bool {
    let held = revision.data.as_ref().map_or(&Value::Null, |held| &held.0);
    held == data || template::normal(held) == template::normal(data)
}

/// What is to become the revision of the present template.
#[derive(Debug, PartialEq)]
pub enum Choice {
    Keep(Arc<ControllerRevision>),
    /// An old one that comes back, under this number.
    Renumber(Arc<ControllerRevision>, i64),
    /// A new one with this number.
    Create(i64),
}

/// A history, sorted out.
#[derive(Debug)]
pub struct Lineage {
    pub choice: Choice,
    /// Revisions of other templates, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
    /// Further revisions of the present template.
    pub duplicates: Vec<Arc<ControllerRevision>>,
}

/// Sorts by number, then by age, then by name.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|one, two| {
        let key =
            |it: &ControllerRevision| (it.revision, it.metadata.creation_timestamp.clone(), it.metadata.name.clone());
        key(one).cmp(&key(two))
    });
}

pub fn choose(mut revisions: Vec<Arc<ControllerRevision>>, data: &Value) -> Lineage {
    sort(&mut revisions);
    let (mut present, old): (Vec<_>, Vec<_>) = revisions.into_iter().partition(|revision| holds(revision, data));
    let number = old.last().map_or(0, |newest| newest.revision) + 1;
    let choice = match present.pop() {
        None => Choice::Create(number),
        Some(kept) if kept.revision < number => Choice::Renumber(kept, number),
        Some(kept) => Choice::Keep(kept),
    };
    Lineage { choice, old, duplicates: present }
}

/// The revisions as the server has them.
pub struct History {
    client: Client,
    revisions: Lister<ControllerRevision>,
    orphans: Index<ControllerRevision>,
}

impl History {
    pub fn new(informers: &Informers) -> Self {
        let revisions = informers.of::<ControllerRevision>();
        Self { client: informers.client().clone(), orphans: owners::orphans(&revisions), revisions }
    }

    pub fn lister(&self) -> &Lister<ControllerRevision> {
        &self.revisions
    }

    fn api(&self, meta: &ObjectMeta) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default())
    }

    /// The owner's revisions, orphans that match adopted.
    pub async fn claimed<O>(&self, owner: &O, selector: &LabelSelector) -> Result<Vec<Arc<ControllerRevision>>, Failed>
    where
        O: Informed + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let mut candidates = self.revisions.by_owner(owner.meta().uid.as_deref().unwrap_or_default());
        candidates.extend(self.orphans.get(owner.meta().namespace.as_deref().unwrap_or_default()));
        owners::settle(&self.client, owner, owners::claim(owner.meta(), selector, candidates)).await
    }

    /// Creates it, or finds it there already; nothing if its name is taken by a revision with other data.
    pub async fn create(&self, revision: &ControllerRevision) -> Result<Option<ControllerRevision>, Failed> {
        let (api, name) = (self.api(&revision.metadata), owners::name(revision));
        match api.create(&PostParams::default(), revision).await {
            Err(error) if call::is_already_exists(&error) => {
                let there = api.get(name).await.during("read revision", name)?;
                let data = revision.data.as_ref().map_or(&Value::Null, |data| &data.0);
                Ok(Some(there).filter(|there| holds(there, data)))
            }
            created => created.map(Some).during("create revision", name),
        }
    }

    pub async fn renumber(&self, revision: &ControllerRevision, number: i64) -> Result<ControllerRevision, Failed> {
        self.replace(&ControllerRevision { revision: number, ..revision.clone() }).await
    }

    pub async fn replace(&self, revision: &ControllerRevision) -> Result<ControllerRevision, Failed> {
        let name = owners::name(revision);
        self.api(&revision.metadata)
            .replace(name, &PostParams::default(), revision)
            .await
            .during("update revision", name)
    }

    pub async fn delete(&self, revision: &ControllerRevision) -> Result<(), Failed> {
        let name = owners::name(revision);
        let preconditions = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        gone_is_fine(self.api(&revision.metadata).delete(name, &params).await)
            .during("delete revision", name)
            .map(|_| ())
    }
}

#[cfg(test)]
pub mod fixtures {
    //! Templates and revisions for tests, told apart by their image.

    use super::*;
    use wharf_types::k8s::api::core::v1::{Container, PodSpec};

    pub fn template(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".to_owned(), image: Some(image.to_owned()), ..Container::default() };
        let labels = Some([("app".to_owned(), "web".to_owned())].into());
        PodTemplateSpec {
            metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        }
    }

    pub fn revision(name: &str, image: &str, number: i64) -> Arc<ControllerRevision> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Arc::new(ControllerRevision { metadata, data: Some(RawExtension(data(&template(image)))), revision: number })
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{revision, template};
    use super::*;

    /// The choice for a template of image `v2`, and what is old and double.
    fn check(revisions: &[Arc<ControllerRevision>], expected: &str) {
        let lineage = choose(revisions.to_vec(), &data(&template("v2")));
        let names =
            |all: &[Arc<ControllerRevision>]| all.iter().map(|it| owners::name(&**it)).collect::<Vec<_>>().join(",");
        let choice = match &lineage.choice {
            Choice::Keep(kept) => format!("keep {}", owners::name(&**kept)),
            Choice::Renumber(kept, number) => format!("{} becomes {number}", owners::name(&**kept)),
            Choice::Create(number) => format!("create {number}"),
        };
        let shown = format!("{choice} old [{}] double [{}]", names(&lineage.old), names(&lineage.duplicates));
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_present_template_has_the_newest_number() {
        check(&[], "create 1 old [] double []");
        check(&[revision("a", "v1", 4)], "create 5 old [a] double []");
        check(&[revision("b", "v2", 2), revision("a", "v1", 1)], "keep b old [a] double []");
    }

    #[test]
    fn a_template_that_comes_back_takes_its_old_revision_along() {
        let revisions = [revision("a", "v2", 1), revision("c", "v3", 3), revision("b", "v1", 2)];
        check(&revisions, "a becomes 4 old [b,c] double []");
    }

    #[test]
    fn of_several_revisions_of_a_template_the_newest_is_it() {
        check(&[revision("x", "v2", 2), revision("w", "v2", 1), revision("a", "v1", 1)], "keep x old [a] double [w]");
    }

    #[test]
    fn a_revision_is_a_patch_that_puts_its_template_back() {
        let one = revision("a", "v1", 1);
        let held = &one.data.as_ref().expect("has some").0;
        assert_eq!(held["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_of(&one), Some(template("v1")));
    }

    #[test]
    fn revisions_compare_without_empty_fields() {
        let mut padded = data(&template("v1"));
        padded["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
        padded["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": "v1"}]);
        padded["spec"]["template"]["spec"]["securityContext"] = json!({});
        assert!(holds(&revision("a", "v1", 1), &padded));
        assert!(!holds(&revision("a", "v2", 1), &padded));
    }

    #[test]
    fn a_hash_is_upstreams_and_a_collision_makes_another() {
        // `HashControllerRevision` of the data `{}`: 777742067 and 777742066, spelled safely.
        assert_eq!(hash(&json!({}), 0), "cccc864bc");
        assert_eq!(hash(&json!({}), 1), "cccc864bb");
    }

    #[test]
    fn long_names_leave_room_for_the_hash() {
        assert_eq!(name("web", "hash"), "web-hash");
        assert_eq!(name(&"w".repeat(253), "hash").len(), PREFIX_LIMIT_BYTES + 5);
    }
}
