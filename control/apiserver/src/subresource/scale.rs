//! `scale`: the `autoscaling/v1 Scale` view of whatever has replicas.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use wharf_cache::Entry;
use wharf_machinery::apply::{Filter, Held, Id, Managers, Operation, Path as FieldPath, Set, Tracker, text};
use wharf_machinery::tree;
use wharf_registry::Row;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use wharf_types::meta::ObjectMeta;
use wharf_types::{AnyObject, ApiError, Gvk};

use crate::body;
use crate::call::{Call, decode_stored};
use crate::managed::{self, Made, Owners};
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::verbs::patch::{Config, Patch, is_apply};
use crate::verbs::update;
use crate::verbs::write::{self, Plan, Rules, Written};

const SCALE_VERSION: &str = "autoscaling/v1";

fn kind() -> Gvk {
    Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() }
}

pub async fn get(call: &Call) -> Result<Reply, ApiError> {
    let entry = call.existing().await?;
    let object = call.decode(&entry)?;
    Ok(Reply::plain(StatusCode::OK, &view(&call.row, &*object)?))
}

pub async fn update(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let body::Decoded { object: mut scale, strict } = body::typed::<Scale>(&bytes, &call.headers, &kind())?;
    call.warn(body::judge(strict, options.validation, &kind())?);
    update::check_name(call, &mut scale.metadata)?;
    scale.metadata.managed_fields = None;
    validate(&scale)?;
    let plan = Plan { rules: Rules::Main, dry_run: options.dry_run, whole: true, may_create: false };
    let mut make = |call: &Call, entry: Option<&Entry>| {
        let entry = entry.ok_or_else(|| call.not_found())?;
        scaled(call, entry, &scale, owners_after_update(call, entry, &scale)?)
    };
    let written = write::update(call, plan, &mut make).await?;
    answer(call, &written)
}

pub async fn patch(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    if is_apply(&call.headers) {
        return apply(call, bytes).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let patch = Patch::read(&bytes, &call.headers)?;
    let mut make = |call: &Call, entry: Option<&Entry>| {
        let entry = entry.ok_or_else(|| call.not_found())?;
        let current = stored(call, entry)?;
        let mut document: Value = serde_json::to_value(&current).map_err(ApiError::internal)?;
        patch.apply(&mut document, &kind())?;
        let scale: Scale = serde_json::from_value(document).map_err(|error| {
            let errors = [Error::invalid(&Path::new("patch"), "", error.to_string())];
            ApiError::invalid(&kind(), current.metadata.name.as_deref().unwrap_or_default(), &errors)
        })?;
        patch.judge(Vec::new(), options.validation)?;
        validate(&scale)?;
        scaled(call, entry, &scale, owners_after_update(call, entry, &scale)?)
    };
    let plan = Plan { rules: Rules::Main, dry_run: options.dry_run, whole: false, may_create: false };
    let written = write::update(call, plan, &mut make).await?;
    answer(call, &written)
}

/// Server-side apply of a Scale.
async fn apply(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse_patch(&call.query, true)?;
    let config = Config::read(&bytes)?;
    let mut warnings = Vec::new();
    let mut make = |call: &Call, entry: Option<&Entry>| {
        let entry = entry.ok_or_else(|| call.not_found())?;
        let owners = Owned::read(call, entry)?;
        let current = serde_json::to_vec(&stored(call, entry)?).map_err(ApiError::internal)?;
        let live = tree::Value::parse(&current).map_err(ApiError::internal)?;
        let held = owners.of_scale().to_json();
        let name = managed::manager(call);
        let applied = tracked(call, |tracker| {
            tracker.apply(Some(&live), held.as_deref().map(str::as_bytes), &config.document, &name, options.force)
        })?;
        warnings = config.judge(options.validation)?;
        let mut scale: Scale = serde_json::from_value(applied.object.into_json()).map_err(|error| {
            ApiError::new(500, "", format!("failed to convert new object to proper version: {error}"))
        })?;
        update::check_name(call, &mut scale.metadata)?;
        validate(&scale)?;
        scaled(call, entry, &scale, owners.with_scale(applied.managed.as_deref())?)
    };
    let plan = Plan { rules: Rules::Main, dry_run: options.dry_run, whole: false, may_create: false };
    let written = write::update(call, plan, &mut make).await?;
    call.warn(warnings);
    answer(call, &written)
}

/// Who owns the fields of the scaled object, of which a Scale shows `spec.replicas`.
///
/// Source: `managedfields/scalehandler.go`. Who comes to own the replicas through a Scale has no time, as upstream.
struct Owned {
    managers: Managers,
    api_version: String,
}

impl Owned {
    fn read(call: &Call, entry: &Entry) -> Result<Self, ApiError> {
        let managers = Managers::parse(text::managed(&entry.bytes).unwrap_or(b"null")).map_err(ApiError::internal)?;
        Ok(Self { managers, api_version: call.row.gvk.group_version().to_string() })
    }

    fn replicas() -> FieldPath {
        FieldPath::fields(&["spec", "replicas"])
    }

    /// Those who own the replicas, as owners of a Scale.
    fn of_scale(&self) -> Managers {
        let of = |(id, held): (&Id, &Held)| {
            let mut id = id.clone();
            if id.operation == Operation::Update {
                id.api_version = SCALE_VERSION.to_owned();
            }
            let fields = Set::of(&[&["spec", "replicas"]]);
            (id, Held { fields, api_version: SCALE_VERSION.to_owned(), time: held.time })
        };
        Managers(self.managers.owners_of(&Self::replicas()).map(of).collect())
    }

    /// The object's owners when these own its Scale.
    fn with_scale(mut self, scale: Option<&str>) -> Result<Owners, ApiError> {
        let scale = Managers::parse(scale.unwrap_or("null").as_bytes()).map_err(ApiError::internal)?;
        let replicas = Set::of(&[&["spec", "replicas"]]);
        let path = Self::replicas();
        let mut owners: Vec<Id> = scale.owners_of(&path).map(|(id, _)| id.clone()).collect();
        for id in owners.iter_mut().filter(|id| id.operation == Operation::Update) {
            id.api_version.clone_from(&self.api_version);
        }
        self.managers.0.retain(|id, held| {
            if !owners.contains(id) {
                held.fields.remove(&replicas);
            }
            !held.fields.is_empty()
        });
        for id in owners {
            let held = self.managers.0.entry(id).or_insert_with(|| Held {
                fields: Set::default(),
                api_version: self.api_version.clone(),
                time: None,
            });
            held.fields.add(replicas.clone());
        }
        Ok(Owners::Settled(self.managers.to_json()))
    }
}

/// The owners of the scaled object after an update of its Scale.
fn owners_after_update(call: &Call, entry: &Entry, scale: &Scale) -> Result<Owners, ApiError> {
    let owners = Owned::read(call, entry)?;
    let held = owners.of_scale().to_json();
    let json = |scale: &Scale| serde_json::to_vec(scale).map_err(ApiError::internal);
    let (old, new) = (json(&stored(call, entry)?)?, json(scale)?);
    let old = tree::Value::parse(&old).map_err(ApiError::internal)?;
    let new = tree::Value::parse(&new).map_err(ApiError::internal)?;
    if owners.managers.is_empty() {
        return Ok(Owners::Settled(None));
    }
    let name = managed::manager(call);
    // Someone owns something, so tracking has begun even if it is not the replicas.
    let held = held.unwrap_or_else(|| "[]".to_owned());
    let after =
        tracked(call, |tracker| tracker.continued(&old, &new, held.as_bytes(), &name)).map_err(ApiError::internal)?;
    owners.with_scale(after.as_deref())
}

/// The tracker of a Scale.
fn tracked<T>(call: &Call, work: impl FnOnce(&Tracker<'_>) -> T) -> T {
    work(&Tracker {
        root: &managed::root_of(&kind()),
        api_version: SCALE_VERSION,
        kind: "Scale",
        subresource: "scale",
        filter: &Filter::none(),
        knows: &|version| version == SCALE_VERSION,
        now: call.now,
    })
}

fn answer(call: &Call, written: &Written) -> Result<Reply, ApiError> {
    let object = call.row.kind.decode_stored(&written.bytes).map_err(ApiError::internal)?;
    Ok(Reply::plain(StatusCode::OK, &view(&call.row, &*object)?))
}

fn view(row: &Row, object: &dyn AnyObject) -> Result<Scale, ApiError> {
    let scale = row.kind.scale(object).ok_or_else(ApiError::no_such_path)?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(scale.spec_replicas) }),
        status: Some(ScaleStatus { replicas: scale.status_replicas, selector: Some(scale.selector) }),
    })
}

fn validate(scale: &Scale) -> Result<(), ApiError> {
    let replicas = replicas(scale);
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let errors = [Error::invalid(&path, replicas, "must be greater than or equal to 0")];
    Err(ApiError::invalid(&kind(), scale.metadata.name.as_deref().unwrap_or_default(), &errors))
}

fn replicas(scale: &Scale) -> i32 {
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default()
}

/// The Scale of what is stored.
fn stored(call: &Call, entry: &Entry) -> Result<Scale, ApiError> {
    view(&call.row, &*decode_stored(&call.row, entry)?)
}

/// The stored object with the Scale's replicas, meant for the version and uid that the Scale names.
fn scaled(call: &Call, entry: &Entry, scale: &Scale, owners: Owners) -> Result<Made, ApiError> {
    let mut object = decode_stored(&call.row, entry)?;
    call.row.kind.set_scale(&mut *object, replicas(scale));
    let meta = object.meta_mut();
    meta.resource_version = scale.metadata.resource_version.clone();
    if let Some(uid) = scale.metadata.uid.clone().filter(|uid| !uid.is_empty()) {
        meta.uid = Some(uid);
    }
    Ok(Made { object, owners })
}
