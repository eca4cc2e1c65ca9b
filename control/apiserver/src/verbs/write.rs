//! Changing what is stored: read, change, prepare, validate, commit if nobody was faster.
//!
//! Every update goes through here: PUT, PATCH, subresources. Source: `Store.Update` and `rest.BeforeUpdate` upstream.
//! Invariants: an update that changes nothing writes nothing; the last finalizer's going completes a deletion; a write is
//! decided on the very state that it replaces.

use bytes::Bytes;
use jiff::Timestamp;
use wharf_admission::{Attributes, Managed, Operation};
use wharf_cache::{Entry, Error as CacheError};
use wharf_machinery::apply::{Managers, text};
use wharf_registry::{Subresource, meta as rules};
use wharf_store::{Change, Precondition};
use wharf_types::field::{self, Path};
use wharf_types::k8s::api::core::v1::Namespace;
use wharf_types::{AnyObject, ApiError, BoxObject, Gvk};

use crate::allocate;
use crate::call::Call;
use crate::claims;
use crate::managed::{self, Made};
use crate::request::Verb;
use crate::verbs::create;
use crate::verbs::list::cache_error;
use crate::versions;

/// How often a write starts again because somebody else's came first. One writer wins each round, so this is also how many
/// may change one object at once; the request's time is up before that.
pub const TRIES: usize = 1000;

/// What a write has left behind.
pub struct Written {
    /// The object as a GET returns it.
    pub bytes: Bytes,
    pub created: bool,
}

/// Which of a strategy's rules an update goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Main,
    Status,
    /// `namespaces/finalize`: only `spec.finalizers` changes.
    Finalize,
    /// Another subresource whose bodies are the kind's own (`approval`).
    Of(Subresource),
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rules: Rules,
    pub dry_run: bool,
    /// True for a whole object from a client, whose `metadata.uid` says which object it means.
    pub whole: bool,
    /// True where an object that is not there is created.
    pub may_create: bool,
}

/// What makes the new object of the stored one (none where there is none).
pub type Make<'a> = dyn FnMut(&Call, Option<&Entry>) -> Result<Made, ApiError> + Send + 'a;

/// Updates the object of the call.
pub async fn update(call: &mut Call, plan: Plan, make: &mut Make<'_>) -> Result<Written, ApiError> {
    // What was said before the first attempt, of the request itself, stays said.
    let said = call.notes.clone();
    for _ in 0..TRIES {
        let Some(entry) = call.current().await? else {
            if plan.rules != Rules::Main || !plan.may_create {
                return Err(call.not_found());
            }
            let made = make(call, None)?;
            call.authorize_create().await?;
            match create::create_object(call, made, plan.dry_run).await {
                Err(error) if error.is_already_exists() => continue,
                result => return result,
            }
        };
        let made = make(call, Some(&entry))?;
        if let Some(written) = attempt(call, plan, &entry, made).await? {
            return Ok(written);
        }
        // Warnings are those of the attempt that holds.
        call.notes = said.clone();
    }
    Err(ApiError::modified(call.gvr(), &call.name))
}

/// One attempt; none if the stored object has changed meanwhile.
async fn attempt(call: &mut Call, plan: Plan, entry: &Entry, made: Made) -> Result<Option<Written>, ApiError> {
    let Made { object, owners } = made;
    let old = call.decode(entry)?;
    if plan.whole {
        check_uid(call, &*object, &*old, entry)?;
    }
    check_version(call, &*object, entry)?;
    let managed = managed::of_update(call, entry, &*object, owners);
    let mut write = call.attributes(Operation::Update, Some(object), Some(old), plan.dry_run);
    write.managed = Managed { new: managed, old: managed::stored(entry) };
    call.admit_with(&mut write).await?;
    let (Some(object), Some(old)) = (write.object.as_deref_mut(), write.old.as_deref()) else {
        return Err(ApiError::internal("an admission plugin took the object away"));
    };
    let allocator = call.server.allocators.get(call.gvr()).filter(|_| plan.rules == Rules::Main).cloned();
    let claim = match &allocator {
        Some(allocator) => Some(allocator.begin(&call.server, object, Some(old), plan.dry_run).await?),
        None => None,
    };
    let outcome = commit(call, plan, entry, write).await;
    allocate::settle(claim, outcome, |outcome| outcome.changed).await.map(|outcome| outcome.written)
}

/// How an attempt ended.
struct Outcome {
    /// None if the stored object has changed meanwhile.
    written: Option<Written>,
    /// True where the object that was sent is stored now.
    changed: bool,
}

impl Outcome {
    fn unchanged(written: Option<Written>) -> Self {
        Self { written, changed: false }
    }
}

/// Prepares, validates and commits what has been admitted.
async fn commit(call: &mut Call, plan: Plan, entry: &Entry, mut write: Attributes) -> Result<Outcome, ApiError> {
    let (Some(object), Some(old)) = (write.object.as_deref_mut(), write.old.as_deref()) else {
        return Err(ApiError::internal("the object to update is gone"));
    };
    prepare(call, plan.rules, object, old, entry);
    let mut errors = validate(call, plan.rules, object, old);
    if plan.rules == Rules::Status {
        let verb = if plan.whole { Verb::Update } else { Verb::Patch };
        errors.extend(claims::check_status(call, verb.name(), object, old).await);
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(&call.row.gvk, &call.name, &errors));
    }
    if plan.rules == Rules::Main {
        call.warn(call.row.kind.warnings(object, Some(old)));
    }
    call.validate(&write).await?;
    let (Some(mut object), Some(old)) = (write.object, write.old) else {
        return Err(ApiError::internal("the object to update is gone"));
    };
    let Managed { new: managed, old: held } = write.managed;
    if finished(&*object, &*old) {
        return finish(call, plan.dry_run, entry, object, managed.as_deref()).await.map(Outcome::unchanged);
    }
    // What is sealed with an old key is written again as it is.
    let is_same = object.same(&*old) && same_owners(held.as_deref(), managed.as_deref());
    if is_same && !call.server.cache.store().is_stale(&entry.key) {
        return Ok(Outcome::unchanged(Some(Written { bytes: entry.bytes.clone(), created: false })));
    }
    if plan.dry_run {
        let bytes = managed::encode(&*object, managed.as_deref()).into();
        return Ok(Outcome::unchanged(Some(Written { bytes, created: false })));
    }
    let written = put_with(call, entry, &mut *object, managed.as_deref()).await?;
    Ok(Outcome { changed: written.is_some(), written })
}

/// True where managed fields differ in nothing but their times: such a write writes nothing.
fn same_owners(held: Option<&[u8]>, managed: Option<&[u8]>) -> bool {
    match (held, managed) {
        (Some(held), Some(managed)) => held == managed || Managers::same_but_times(held, managed),
        (None, None) => true,
        _ => false,
    }
}

/// Commits an object over the entry that it was made of, with the owners that its fields have; none if the entry has changed.
pub async fn put(call: &Call, entry: &Entry, object: &mut dyn AnyObject) -> Result<Option<Written>, ApiError> {
    put_with(call, entry, object, text::managed(&entry.bytes)).await
}

async fn put_with(
    call: &Call,
    entry: &Entry,
    object: &mut dyn AnyObject,
    managed: Option<&[u8]>,
) -> Result<Option<Written>, ApiError> {
    object.meta_mut().resource_version = None;
    let change = Change::Put(versions::stored(&call.row, managed::encode(object, managed).into()).await?);
    match call.server.cache.commit(&entry.key, Precondition::At(entry.revision), change).await {
        Ok(committed) => {
            let entry = versions::served(&call.row, committed.entry).await?;
            Ok(Some(Written { bytes: entry.bytes.clone(), created: false }))
        }
        Err(CacheError::Conflict { current: None }) => Err(call.not_found()),
        Err(CacheError::Conflict { .. }) => Ok(None),
        Err(error) => Err(cache_error(error)),
    }
}

/// Deletes the entry; false if it has changed.
pub async fn remove(call: &Call, entry: &Entry, object: &dyn AnyObject) -> Result<Option<Bytes>, ApiError> {
    match call.server.cache.commit(&entry.key, Precondition::At(entry.revision), Change::Delete).await {
        Ok(committed) => {
            if let Some(allocator) = call.server.allocators.get(call.gvr()) {
                allocator.release(&call.server, object).await;
            }
            let gone = versions::deleted(&call.row, committed.entry, entry.revision).await?;
            Ok(Some(gone.bytes.clone()))
        }
        Err(CacheError::Conflict { current: None }) => Err(call.not_found()),
        Err(CacheError::Conflict { .. }) => Ok(None),
        Err(error) => Err(cache_error(error)),
    }
}

/// The update took away what a deletion was waiting for: the object goes, and the client gets what it sent.
async fn finish(
    call: &Call,
    dry_run: bool,
    entry: &Entry,
    object: BoxObject,
    managed: Option<&[u8]>,
) -> Result<Option<Written>, ApiError> {
    if !dry_run && remove(call, entry, &*object).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(Written { bytes: managed::encode(&*object, managed).into(), created: false }))
}

/// True where a deletion waits for nothing any more.
fn finished(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let waits = new.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
        || new.downcast_ref::<Namespace>().is_some_and(|namespace| !spec_finalizers(namespace).is_empty());
    let grace = old.meta().deletion_grace_period_seconds.unwrap_or_default();
    old.meta().deletion_timestamp.is_some() && grace == 0 && !waits
}

pub fn spec_finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

/// An update that carries a uid means that very object. The words are upstream's, who shows its storage here.
fn check_uid(call: &Call, new: &dyn AnyObject, old: &dyn AnyObject, entry: &Entry) -> Result<(), ApiError> {
    let (asked, held) = (new.meta().uid.as_deref().unwrap_or_default(), old.meta().uid.as_deref().unwrap_or_default());
    if asked.is_empty() || asked == held {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {asked}, UID in object meta: {held}",
        entry.key
    );
    Err(ApiError::conflict(call.gvr(), &call.name, why))
}

fn check_version(call: &Call, new: &dyn AnyObject, entry: &Entry) -> Result<(), ApiError> {
    match new.meta().resource_version.as_deref().unwrap_or_default() {
        "" | "0" if call.row.kind.allow_unconditional_update() => Ok(()),
        "" | "0" => {
            let path = Path::new("metadata").child("resourceVersion");
            let errors = [field::Error::invalid(&path, 0, "must be specified for an update")];
            // Upstream names the resource here, where other refusals name the kind.
            let gvr = call.gvr();
            let subject = Gvk { group: gvr.group.clone(), version: gvr.version.clone(), kind: gvr.resource.clone() };
            Err(ApiError::invalid(&subject, &call.name, &errors))
        }
        version => match version.parse::<u64>() {
            Ok(version) if version == entry.revision.0 => Ok(()),
            Ok(_) => Err(ApiError::modified(call.gvr(), &call.name)),
            Err(_) => {
                let path = Path::new("metadata").child("resourceVersion");
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                Err(ApiError::bad_request(field::Error::invalid(&path, version, why).to_string()))
            }
        },
    }
}

/// Keeps what is the server's, and lets the strategy keep what is not for this update to change.
fn prepare(call: &Call, rules: Rules, object: &mut dyn AnyObject, old: &dyn AnyObject, entry: &Entry) {
    let kind = &call.row.kind;
    object.meta_mut().generation = old.meta().generation;
    match rules {
        Rules::Main => kind.prepare_for_update(object, old),
        Rules::Status => kind.prepare_for_status_update(object, old),
        Rules::Finalize => keep_all_but_finalizers(object, old),
        Rules::Of(which) => kind.prepare_for_subresource(which, object, old),
    }
    kind.stamp(object, Some(old), &call.asked());
    let (meta, held) = (object.meta_mut(), old.meta());
    if meta.uid.as_deref().unwrap_or_default().is_empty() {
        meta.uid = held.uid.clone();
    }
    meta.creation_timestamp = held.creation_timestamp.clone();
    if held.deletion_timestamp.is_some() {
        meta.deletion_timestamp = held.deletion_timestamp.clone();
    }
    if meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = held.deletion_grace_period_seconds;
    }
    meta.self_link = None;
    meta.resource_version = Some(entry.revision.to_string());
}

fn keep_all_but_finalizers(object: &mut dyn AnyObject, old: &dyn AnyObject) {
    let Some(old) = old.downcast_ref::<Namespace>() else { return };
    let Some(new) = object.downcast_mut::<Namespace>() else { return };
    let finalizers = spec_finalizers(new).to_vec();
    new.metadata = old.metadata.clone();
    new.status = old.status.clone();
    new.spec.get_or_insert_default().finalizers = Some(finalizers);
}

fn validate(call: &Call, rules: Rules, object: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors {
    let kind = &call.row.kind;
    let mut errors = rules::validate_update(object.meta(), old.meta(), &Path::new("metadata"));
    if call.row.is_extension() {
        rules::relax(&mut errors);
    }
    match rules {
        Rules::Main => {
            errors.extend(kind.validate_change(object, old));
        }
        Rules::Status => errors.extend(kind.validate_status_update(object, old)),
        Rules::Finalize => {}
        Rules::Of(which) => errors.extend(kind.validate_subresource(which, object, old)),
    }
    errors
}

/// Changes the stored object directly: for subresources that are no update of their kind (`binding`).
pub async fn change(
    call: &mut Call,
    dry_run: bool,
    edit: &mut (dyn FnMut(&mut dyn AnyObject) -> Result<(), ApiError> + Send),
) -> Result<Written, ApiError> {
    for _ in 0..TRIES {
        let entry = call.existing().await?;
        let mut object = call.decode(&entry)?;
        edit(&mut *object)?;
        if dry_run {
            let managed = text::managed(&entry.bytes);
            return Ok(Written { bytes: managed::encode(&*object, managed).into(), created: false });
        }
        if let Some(written) = put(call, &entry, &mut *object).await? {
            return Ok(written);
        }
    }
    Err(ApiError::modified(call.gvr(), &call.name))
}

/// Times on objects have no fractions of a second.
pub fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
