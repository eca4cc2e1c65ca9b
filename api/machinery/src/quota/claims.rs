//! What a PersistentVolumeClaim costs, all told and in its class. Source: `evaluator/core/persistent_volume_claims.go`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ScopedResourceSelectorRequirement};

use super::{Amounts, one, selects};
use crate::pod_resources::read;
use crate::quantity::Quantity;

const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Where the class stood before it had a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub fn answers_for(name: &str) -> bool {
    let plain = |name: &str| matches!(name, CLAIMS | STORAGE);
    plain(name) || name.split_once(OF_CLASS).is_some_and(|(_, rest)| plain(rest))
}

pub fn usage(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = Amounts::from([(CLAIMS.to_owned(), one())]);
    used.extend(storage(claim).map(|amount| (STORAGE.to_owned(), amount)));
    if let Some(class) = class(claim) {
        let of_class: Vec<_> =
            used.iter().map(|(name, amount)| (format!("{class}{OF_CLASS}{name}"), *amount)).collect();
        used.extend(of_class);
    }
    used
}

fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let named = || claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    annotated.or_else(named).map(String::as_str).filter(|class| !class.is_empty())
}

/// What is asked for, or what is allocated already where that is more; in whole bytes.
fn storage(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let whole = |amount: Quantity| Quantity::new(amount.value(), amount.format());
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref();
    let asked = whole(*read(requests).get("storage")?);
    let allocated = claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref());
    Some(read(allocated).get("storage").map_or(asked, |allocated| whole(*allocated).max(asked)))
}

pub fn in_scope(claim: &PersistentVolumeClaim, scope: &ScopedResourceSelectorRequirement) -> bool {
    if scope.scope_name != "VolumeAttributesClass" {
        return false;
    }
    let classes = attributes_classes(claim);
    match classes.is_empty() {
        true => selects(scope, None),
        false => classes.into_iter().any(|class| selects(scope, Some(class))),
    }
}

/// The classes that the claim has, had, or is on its way to.
pub fn attributes_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|class| !class.is_empty()).collect()
}
