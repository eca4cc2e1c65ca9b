//! The priority levels and flow schemas that every cluster has.
//!
//! Source: `pkg/registry/flowcontrol/{rest,ensurer}`. Mandatory objects are made, and put right, whatever anybody does.
//! Suggested ones are made too; their spec is put right only while their annotation says so, or, where it says nothing, while
//! nobody has changed it. One that was suggested once and is no more goes, under the same condition.
//! [`tell`] says in each schema's status whether its level is there (`apf_controller.go`).

use std::collections::BTreeSet;

use futures::future::try_join_all;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wharf_registry::flowcontrol::{
    AUTO_UPDATE, mandatory_levels, mandatory_schemas, suggested_levels, suggested_schemas,
};
use wharf_types::k8s::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use wharf_types::meta::ObjectMeta;

use super::{ATTEMPTS, Error, met_another};
use crate::verbs::write::whole_seconds;

/// Who makes the objects, and who tells of them, in their managed fields.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const DANGLING: &str = "Dangling";

/// What schemas and levels have in common here.
pub(super) trait Policy:
    kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned
{
    fn same_spec(&self, other: &Self) -> bool;
    fn take_spec(&mut self, from: &Self);
}

impl Policy for FlowSchema {
    fn same_spec(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    fn take_spec(&mut self, from: &Self) {
        self.spec.clone_from(&from.spec);
    }
}

impl Policy for PriorityLevelConfiguration {
    fn same_spec(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    fn take_spec(&mut self, from: &Self) {
        self.spec.clone_from(&from.spec);
    }
}

/// Levels first: a schema refers to one.
pub(super) async fn ensure(client: &Client) -> Result<(), Error> {
    settle_all(&Api::all(client.clone()), mandatory_levels(), suggested_levels()).await?;
    settle_all(&Api::all(client.clone()), mandatory_schemas(), suggested_schemas()).await
}

/// Writes down of each schema whether its level is there, where its status does not say so already.
pub(super) async fn tell(client: &Client, now: Timestamp) -> Result<(), Error> {
    let (schemas, levels) =
        (Api::<FlowSchema>::all(client.clone()), Api::<PriorityLevelConfiguration>::all(client.clone()));
    let all = ListParams::default();
    let levels = levels.list(&all).await.map_err(Error::of::<PriorityLevelConfiguration>("list", ""))?;
    let levels: BTreeSet<String> = levels.items.into_iter().filter_map(|level| level.metadata.name).collect();
    let held = schemas.list(&all).await.map_err(Error::of::<FlowSchema>("list", ""))?;
    let apply = PatchParams::apply(CONSUMER).force();
    for schema in &held.items {
        let Some(condition) = dangling(schema, &levels, now) else { continue };
        let name = schema.metadata.name.as_deref().unwrap_or_default();
        let told = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
            "metadata": {"name": name}, "status": {"conditions": [condition]}});
        match schemas.patch_status(name, &apply, &Patch::Apply(&told)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result.map_err(Error::of::<FlowSchema>("tell of", name))?),
        }
    }
    Ok(())
}

/// The condition that is to be written, if the schema does not have it.
fn dangling(schema: &FlowSchema, levels: &BTreeSet<String>, now: Timestamp) -> Option<Value> {
    let level = schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.as_str()).unwrap_or_default();
    let (status, reason, rest) = match levels.contains(level) {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}");
    let mut held = schema.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let held = held.find(|condition| condition.type_.as_deref() == Some(DANGLING));
    let same = held.is_some_and(|held| {
        (held.status.as_deref(), held.reason.as_deref(), held.message.as_deref())
            == (Some(status), Some(reason), Some(&message))
    });
    (!same).then(|| {
        json!({"type": DANGLING, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": whole_seconds(now)})
    })
}

async fn settle_all<K: Policy>(api: &Api<K>, mandatory: Vec<K>, suggested: Vec<K>) -> Result<(), Error> {
    let held = api.list(&ListParams::default()).await.map_err(Error::of::<K>("list", ""))?.items;
    let wanted = mandatory.iter().map(|object| (object, true)).chain(suggested.iter().map(|object| (object, false)));
    // At once, so that the store commits them together.
    try_join_all(wanted.map(|(object, is_mandatory)| {
        settle(api, object, is_mandatory, held.iter().find(|held| held.meta().name == object.meta().name))
    }))
    .await?;
    let known = |name: &Option<String>| mandatory.iter().chain(&suggested).any(|object| object.meta().name == *name);
    for object in held.iter().filter(|object| ours(object.meta()) && !known(&object.meta().name)) {
        remove(api, object).await?;
    }
    Ok(())
}

async fn settle<K: Policy>(api: &Api<K>, wanted: &K, mandatory: bool, held: Option<&K>) -> Result<(), Error> {
    let name = wanted.meta().name.clone().unwrap_or_default();
    let params = PostParams { field_manager: Some(PRODUCER.to_owned()), ..PostParams::default() };
    let mut held = held.cloned();
    let mut attempt = 1;
    loop {
        let written = match &held {
            None => api.create(&params, wanted).await.map_err(Error::of::<K>("create", &name)),
            Some(held) => match corrected(held, wanted, mandatory) {
                None => return Ok(()),
                Some(next) => api.replace(&name, &params, &next).await.map_err(Error::of::<K>("update", &name)),
            },
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error) if attempt < ATTEMPTS && met_another(&error) => attempt += 1,
            Err(error) => return Err(error),
        }
        held = api.get_opt(&name).await.map_err(Error::of::<K>("get", &name))?;
    }
}

/// What is to be written in place of what is there, if anything.
fn corrected<K: Policy>(held: &K, wanted: &K, mandatory: bool) -> Option<K> {
    let automatic = mandatory || follows(held.meta());
    let mark = automatic.to_string();
    let marked = annotation(held.meta()) == Some(mark.as_str());
    let settled = !automatic || held.same_spec(wanted);
    if marked && settled {
        return None;
    }
    let mut next = held.clone();
    next.meta_mut().annotations.get_or_insert_default().insert(AUTO_UPDATE.to_owned(), mark);
    if automatic {
        next.take_spec(wanted);
    }
    Some(next)
}

fn annotation(meta: &ObjectMeta) -> Option<&str> {
    meta.annotations.as_ref()?.get(AUTO_UPDATE).map(String::as_str)
}

/// True where the server's suggestion counts: the annotation says so, or it says nothing and nobody changed the spec.
fn follows(meta: &ObjectMeta) -> bool {
    match annotation(meta) {
        Some("true") => true,
        Some("false") => false,
        _ => meta.generation == Some(1),
    }
}

/// True for what the server has made and nobody took over.
fn ours(meta: &ObjectMeta) -> bool {
    annotation(meta) == Some("true")
}

async fn remove<K: Policy>(api: &Api<K>, object: &K) -> Result<(), Error> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let only = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    match api.delete(name, &DeleteParams::default().preconditions(only)).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result.map(drop).map_err(Error::of::<K>("delete", name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `own` is whether somebody changed the spec; what is written is told as `annotation spec`.
    fn check(mark: Option<&str>, generation: i64, changed: bool, mandatory: bool, expected: Option<(&str, bool)>) {
        let wanted = suggested_levels().remove(0);
        let mut held = wanted.clone();
        held.metadata.annotations = mark.map(|mark| [(AUTO_UPDATE.to_owned(), mark.to_owned())].into());
        held.metadata.generation = Some(generation);
        if changed {
            held.spec = suggested_levels().remove(1).spec;
        }
        let written = corrected(&held, &wanted, mandatory);
        let written =
            written.as_ref().map(|next| (annotation(&next.metadata).unwrap_or_default(), next.same_spec(&wanted)));
        assert_eq!(written, expected);
    }

    #[test]
    fn suggestions_give_way_to_their_owner() {
        check(Some("true"), 1, false, false, None);
        check(Some("true"), 2, true, false, Some(("true", true)));
        check(Some("false"), 2, true, false, None);
        check(None, 1, true, false, Some(("true", true)));
        check(None, 2, true, false, Some(("false", false)));
        check(None, 2, false, false, Some(("false", true)));
    }

    #[test]
    fn a_schema_without_its_level_says_so() {
        let (now, mut schema) = (Timestamp::UNIX_EPOCH, suggested_schemas().remove(0));
        let without = dangling(&schema, &BTreeSet::new(), now).expect("a condition");
        assert_eq!((&without["status"], &without["reason"]), (&json!("True"), &json!("NotFound")));
        let all: BTreeSet<String> = suggested_levels().into_iter().filter_map(|level| level.metadata.name).collect();
        let found = dangling(&schema, &all, now).expect("a condition");
        assert_eq!(
            found["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"system\" and it exists"
        );
        schema.status = serde_json::from_value(json!({"conditions": [found]})).expect("a status");
        assert_eq!(dangling(&schema, &all, now), None);
    }

    #[test]
    fn what_is_mandatory_gives_way_to_nobody() {
        check(Some("true"), 1, false, true, None);
        check(Some("false"), 2, true, true, Some(("true", true)));
        check(None, 2, true, true, Some(("true", true)));
    }
}
