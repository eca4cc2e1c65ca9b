//! Who controls what: claiming objects by selector, adopting orphans, releasing what no longer matches.
//!
//! Invariants: an object has at most one controller; what belongs to another is left alone; nothing is adopted for an owner that
//! is being deleted, which is asked of the server, not of the cache.
//! Source: `k8s.io/kubernetes/pkg/controller/controller_ref_manager.go`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use wharf_client::{Index, Informed, Lister};
use wharf_machinery::selector::LabelSelector;
use wharf_types::meta::{ObjectMeta, OwnerReference};

use crate::call::{During as _, Failed, gone_is_fine};

/// The reference that makes `owner` the controller of an object.
pub fn controller_ref<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// An index of the objects that no controller has, by namespace: what there is to adopt.
pub fn orphans<K: Informed>(lister: &Lister<K>) -> Index<K> {
    lister.index(|object| match controller_of(object.meta()) {
        None => vec![object.meta().namespace.clone().unwrap_or_default()],
        Some(_) => Vec::new(),
    })
}

/// What is to be done so that an owner has what its selector says.
#[derive(Debug)]
pub struct Claims<K> {
    pub keep: Vec<Arc<K>>,
    pub adopt: Vec<Arc<K>>,
    pub release: Vec<Arc<K>>,
}

/// Sorts `candidates` by what `owner` should do with them.
pub fn claim<K: Resource>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    claim_where(owner, selector, |_| true, candidates)
}

/// As [`claim`], for an owner whose objects must be more than selected.
pub fn claim_where<K: Resource>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    fits: impl Fn(&K) -> bool,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims { keep: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let owner_uid = owner.uid.as_deref().unwrap_or_default();
    let owner_deleted = owner.deletion_timestamp.is_some();
    let no_labels = BTreeMap::new();
    for object in candidates {
        let meta = object.meta();
        let matches = selector.matches(meta.labels.as_ref().unwrap_or(&no_labels)) && fits(&object);
        match controller_of(meta) {
            Some(controller) if controller.uid != owner_uid => {}
            Some(_) if matches => claims.keep.push(object),
            Some(_) if !owner_deleted => claims.release.push(object),
            None if matches && !owner_deleted && meta.deletion_timestamp.is_none() => claims.adopt.push(object),
            _ => {}
        }
    }
    claims
}

/// Carries claims out and returns what `owner` then has.
pub async fn settle<O, K>(client: &Client, owner: &O, claims: Claims<K>) -> Result<Vec<Arc<K>>, Failed>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    settle_held(client, owner, claims, None).await
}

/// As [`settle`], where the owner holds what it has by a finalizer.
pub async fn settle_held<O, K>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<K>>, Failed>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let Claims { keep: mut owned, adopt, release } = claims;
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let owner_uid = owner.meta().uid.as_deref().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), namespace);
    for object in release {
        let meta = object.meta();
        let others = meta.owner_references.iter().flatten().filter(|other| other.uid != owner_uid).cloned();
        let finalizers = finalizer.map(|held| finalizers_but(meta, held));
        let patched = api.patch(name(&*object), &PatchParams::default(), &owners_patch(meta, others, finalizers)).await;
        gone_is_fine(patched).during("release", name(&*object))?;
    }
    if adopt.is_empty() || !may_adopt(client, owner).await? {
        return Ok(owned);
    }
    for object in adopt {
        let meta = object.meta();
        let owners = meta.owner_references.iter().flatten().cloned().chain([controller_ref(owner)]);
        let finalizers =
            finalizer.map(|held| finalizers_but(meta, held).into_iter().chain([held.to_owned()]).collect());
        let patch = owners_patch(meta, owners, finalizers);
        let patched = api.patch(name(&*object), &PatchParams::default(), &patch).await;
        if let Some(adopted) = gone_is_fine(patched).during("adopt", name(&*object))? {
            owned.push(Arc::new(adopted));
        }
    }
    Ok(owned)
}

fn finalizers_but(meta: &ObjectMeta, held: &str) -> Vec<String> {
    meta.finalizers.iter().flatten().filter(|finalizer| *finalizer != held).cloned().collect()
}

/// The owner as the server has it is the same object, and it stays.
async fn may_adopt<O>(client: &Client, owner: &O) -> Result<bool, Failed>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api = Api::<O>::namespaced(client.clone(), namespace);
    let live = api.get_metadata_opt(name(owner)).await.during("read the owner", name(owner))?;
    Ok(live.is_some_and(|live| live.metadata.uid == owner.meta().uid && live.metadata.deletion_timestamp.is_none()))
}

/// Replaces the owners of this very version of the object, and the finalizers if they are told.
fn owners_patch(
    meta: &ObjectMeta,
    owners: impl Iterator<Item = OwnerReference>,
    finalizers: Option<Vec<String>>,
) -> Patch<serde_json::Value> {
    let owners: Vec<OwnerReference> = owners.collect();
    let mut fields = json!({
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
    });
    if let Some(finalizers) = finalizers {
        fields["finalizers"] = json!(finalizers);
    }
    Patch::Merge(json!({ "metadata": fields }))
}

pub fn name(object: &impl Resource) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::core::v1::Pod;
    use wharf_types::meta::Time;

    fn pod(name: &str, labels: &[(&str, &str)], controller: Option<&str>) -> Arc<Pod> {
        let owner = controller.map(|uid| {
            vec![OwnerReference { uid: uid.to_owned(), controller: Some(true), ..OwnerReference::default() }]
        });
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels),
            owner_references: owner,
            ..ObjectMeta::default()
        };
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    fn check(owner_deleted: bool, expected: &str) {
        let owner = ObjectMeta {
            uid: Some("me".to_owned()),
            deletion_timestamp: owner_deleted.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        let mut leaving = Arc::unwrap_or_clone(pod("orphan-leaving", &[("app", "web")], None));
        leaving.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let pods = [
            pod("mine", &[("app", "web")], Some("me")),
            pod("mine-no-more", &[("app", "db")], Some("me")),
            pod("theirs", &[("app", "web")], Some("other")),
            pod("orphan", &[("app", "web")], None),
            pod("orphan-else", &[("app", "db")], None),
            Arc::new(leaving),
        ];
        let selector = LabelSelector::parse("app=web").expect("valid");
        let claims = claim(&owner, &selector, pods);
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| name(&**pod).to_owned()).collect::<Vec<_>>().join(",");
        let shown =
            format!("keep {} adopt {} release {}", names(&claims.keep), names(&claims.adopt), names(&claims.release));
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_owner_keeps_adopts_and_releases_by_its_selector() {
        check(false, "keep mine adopt orphan release mine-no-more");
    }

    #[test]
    fn an_owner_that_is_being_deleted_changes_nobodys_owner() {
        check(true, "keep mine adopt  release ");
    }
}
