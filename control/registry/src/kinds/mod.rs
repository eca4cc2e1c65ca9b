//! One file for each built-in kind, and the few things that several of them say in the same way.

pub mod admissionplugin;
pub mod apiservice;
pub mod clusterrole;
pub mod clusterrolebinding;
pub mod componentstatus;
pub mod configmap;
pub mod controllerrevision;
pub mod crd;
pub mod cronjob;
pub mod csidriver;
pub mod csinode;
pub mod csistoragecapacity;
pub mod csr;
pub mod daemonset;
pub mod deployment;
pub mod dra;
pub mod endpoints;
pub mod endpointslice;
pub mod event;
pub mod flowschema;
pub mod hpa;
pub mod ingress;
pub mod ingressclass;
pub mod ipaddress;
pub mod job;
pub mod lease;
pub mod limitrange;
pub mod mutatingpolicy;
pub mod mutatingpolicybinding;
pub mod mutatingwebhook;
pub mod namespace;
pub mod networkpolicy;
pub mod node;
pub mod pdb;
pub mod pod;
pub mod podtemplate;
pub mod priorityclass;
pub mod prioritylevel;
pub mod pv;
pub mod pvc;
pub mod rbac;
pub mod rc;
pub mod replicaset;
pub mod resourcequota;
pub mod review;
pub mod role;
pub mod rolebinding;
pub mod runtimeclass;
pub mod secret;
pub mod service;
pub mod serviceaccount;
pub mod servicecidr;
mod spec_status;
pub mod statefulset;
pub mod storageclass;
pub mod validatingpolicy;
pub mod validatingpolicybinding;
pub mod validatingwebhook;
pub mod volumeattachment;
pub mod volumeattributesclass;
mod workload;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::selector::LabelSelector;
use wharf_types::meta::{self, ObjectMeta};

use crate::strategy::age;

/// The cell of the `Name` column.
pub(crate) fn name(meta: &ObjectMeta) -> Value {
    meta.name.clone().unwrap_or_default().into()
}

/// The cell of the `Age` column.
pub(crate) fn created(meta: &ObjectMeta, now: Timestamp) -> Value {
    age(meta.creation_timestamp.as_ref().map(|time| time.0), now).into()
}

/// The generation of an update: the old one, or the next where something changed that a controller must act on.
fn generation(meta: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    meta.generation = old.generation.map(|generation| generation + i64::from(changed)).or(changed.then_some(1));
}

/// Keeps the metadata that a write of the status does not reach (`ResetObjectMetaForStatus`).
fn keep_meta(meta: &mut ObjectMeta, old: &ObjectMeta) {
    meta.generation = old.generation;
    meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    meta.labels.clone_from(&old.labels);
    meta.annotations.clone_from(&old.annotations);
    meta.finalizers.clone_from(&old.finalizers);
    meta.owner_references.clone_from(&old.owner_references);
}

/// What upstream prints for an empty cell.
const NONE: &str = "<none>";

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// `a=b,c=d`
fn format_labels(labels: Option<&BTreeMap<String, String>>) -> String {
    or_none(labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

fn format_selector(selector: &meta::LabelSelector) -> String {
    or_none(LabelSelector::from_meta(selector).to_string())
}
