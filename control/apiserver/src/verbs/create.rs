//! CREATE.
//!
//! Source: `k8s.io/apiserver/pkg/registry/generic/registry/store.go` (`Create`) and `pkg/registry/rest/create.go`.

use bytes::Bytes;
use http::StatusCode;
use rand::Rng;
use wharf_admission::Operation;
use wharf_cache::Error as CacheError;
use wharf_registry::meta as rules;
use wharf_store::{Change, Precondition};
use wharf_types::field::Path;
use wharf_types::meta::{ObjectMeta, Time};
use wharf_types::{AnyObject, ApiError, BoxObject};

use crate::allocate;
use crate::body;
use crate::call::Call;
use crate::claims;
use crate::managed::{self, Made, Owners};
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::verbs::list::cache_error;
use crate::verbs::write::Written;
use crate::versions;

/// How often a name is generated before the server gives up: upstream's `maxNameGenerationCreateAttempts`.
const GENERATE_TRIES: usize = 8;
/// Random characters at the end of a generated name.
const SUFFIX_LENGTH: usize = 5;
/// Most characters of `generateName` that a generated name keeps.
const PREFIX_MAX: usize = 63 - SUFFIX_LENGTH;
/// No vowels, and nothing that reads like another: generated names spell no words.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub async fn create(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    if call.row.kind.is_closed() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(405, "MethodNotAllowed", why));
    }
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body::Decoded { object: (mut object, sent), strict } = body::object(&bytes, &call.headers, &call.row)?;
    drop(bytes);
    call.warn(body::judge(strict, options.validation, &call.row.gvk)?);
    settle_namespace(call.namespace.as_deref(), object.meta_mut())?;
    call.row.kind.default(&mut *object);
    let made = Made { object, owners: Owners::Sent(sent) };
    let written = create_object(call, made, options.dry_run).await?;
    Ok(Reply::Object { code: StatusCode::CREATED, bytes: written.bytes })
}

/// An object is created in the namespace of the path, and may name no other.
pub fn settle_namespace(namespace: Option<&str>, meta: &mut ObjectMeta) -> Result<(), ApiError> {
    let own = meta.namespace.as_deref().unwrap_or_default();
    match namespace {
        None => meta.namespace = None,
        Some(namespace) if own.is_empty() => meta.namespace = Some(namespace.to_owned()),
        Some(namespace) if own == namespace => {}
        Some(_) => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(why));
        }
    }
    Ok(())
}

/// Creates an object that has its defaults; also what a PUT to a missing name comes to where the kind allows it.
pub async fn create_object(call: &mut Call, made: Made, dry_run: bool) -> Result<Written, ApiError> {
    call.name = made.object.name().to_owned();
    let managed = managed::of_new(call, &made);
    let mut write = call.attributes(Operation::Create, Some(made.object), None, dry_run);
    write.managed.new = managed;
    call.admit_with(&mut write).await?;
    let managed = write.managed.new.as_ref();
    let object = write.object.take().ok_or_else(|| ApiError::internal("an admission plugin took the object away"))?;
    let prefix = object.meta().generate_name.clone().filter(|_| object.name().is_empty()).unwrap_or_default();
    if prefix.is_empty() {
        return store(call, object, managed, dry_run).await;
    }
    for _ in 1..GENERATE_TRIES {
        let mut named = object.clone_box();
        named.meta_mut().name = Some(generate(&prefix));
        match store(call, named, managed, dry_run).await {
            Err(error) if error.is_already_exists() => {}
            result => return result,
        }
    }
    let mut named = object;
    named.meta_mut().name = Some(generate(&prefix));
    store(call, named, managed, dry_run).await.map_err(|mut error| {
        if error.is_already_exists() {
            error.message += ", the server was not able to generate a unique name for the object";
        }
        error
    })
}

fn generate(prefix: &str) -> String {
    let mut name: String = prefix.chars().take(PREFIX_MAX).collect();
    let mut random = rand::rng();
    name.extend((0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())])));
    name
}

/// Takes what the object needs, and creates it under its name.
async fn store(
    call: &mut Call,
    mut object: BoxObject,
    managed: Option<&Bytes>,
    dry_run: bool,
) -> Result<Written, ApiError> {
    call.name = object.name().to_owned();
    stamp(object.meta_mut(), call);
    // What has no name owns nothing, and is refused below.
    let claim = match call.server.allocators.get(call.gvr()).filter(|_| !call.name.is_empty()).cloned() {
        Some(allocator) => Some(allocator.begin(&call.server, &mut *object, None, dry_run).await?),
        None => None,
    };
    let written = commit(call, object, managed, dry_run).await;
    allocate::settle(claim, written, |_| true).await
}

/// Prepares, validates and commits one object.
async fn commit(
    call: &mut Call,
    mut object: BoxObject,
    managed: Option<&Bytes>,
    dry_run: bool,
) -> Result<Written, ApiError> {
    let kind = call.row.kind.clone();
    kind.prepare_for_create(&mut *object);
    kind.stamp(&mut *object, None, &call.asked());
    validate(call, &*object)?;
    call.warn(kind.warnings(&*object, None));
    let mut write = call.attributes(Operation::Create, Some(object), None, dry_run);
    write.managed.new = managed.cloned();
    call.validate(&write).await?;
    let managed = managed.map(|managed| &**managed);
    let Some(object) = write.object else { return Err(ApiError::internal("the object to create is gone")) };
    let held = object.meta().resource_version.as_deref().unwrap_or_default();
    if !held.is_empty() && held != "0" {
        return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let key = call.key();
    if dry_run {
        return match call.collection.read(&key).await.map_err(cache_error)? {
            Some(_) => Err(ApiError::already_exists(call.gvr(), &call.name)),
            None => Ok(Written { bytes: managed::encode(&*object, managed).into(), created: true }),
        };
    }
    let stored = versions::stored(&call.row, managed::encode(&*object, managed).into()).await?;
    match call.server.cache.commit(&key, Precondition::Absent, Change::Put(stored)).await {
        Ok(committed) => {
            let entry = versions::served(&call.row, committed.entry).await?;
            Ok(Written { bytes: entry.bytes.clone(), created: true })
        }
        Err(CacheError::Conflict { .. }) => Err(ApiError::already_exists(call.gvr(), &call.name)),
        Err(error) => Err(cache_error(error)),
    }
}

/// What the server says of a new object, whatever its creator did.
fn stamp(meta: &mut ObjectMeta, call: &Call) {
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(Time(crate::verbs::write::whole_seconds(call.now)));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
}

fn validate(call: &Call, object: &dyn AnyObject) -> Result<(), ApiError> {
    let kind = &call.row.kind;
    let name_check = |name: &str| kind.validate_name(name);
    let mut errors = rules::validate(object.meta(), call.row.namespaced(), name_check, &Path::new("metadata"));
    if call.row.is_extension() {
        rules::relax(&mut errors);
    }
    errors.extend(claims::check_new(call, object));
    errors.extend(kind.validate(object));
    errors.extend(kind.validate_new(object));
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&call.row.gvk, object.name(), &errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate(&"x".repeat(100));
        assert_eq!(name.len(), 63);
        assert!(generate("web-").starts_with("web-"));
        assert_ne!(generate("web-"), generate("web-"));
    }

    #[test]
    fn an_object_belongs_to_the_namespace_of_its_path() {
        let settle = |path: Option<&str>, own: Option<&str>| {
            let mut meta = ObjectMeta { namespace: own.map(str::to_owned), ..ObjectMeta::default() };
            settle_namespace(path, &mut meta).map(|()| meta.namespace).map_err(|error| error.code)
        };
        assert_eq!(settle(Some("a"), None), Ok(Some("a".to_owned())));
        assert_eq!(settle(Some("a"), Some("a")), Ok(Some("a".to_owned())));
        assert_eq!(settle(Some("a"), Some("b")), Err(400));
        assert_eq!(settle(None, Some("b")), Ok(None));
    }
}
