//! Managed fields on their way through a write.
//!
//! They are worked out before admission, on what the client sent with its defaults, as upstream does; what plugins and
//! strategies change afterwards is owned by nobody new. Objects in this crate come without them: they travel beside as
//! JSON text, and go into the object's text when it is written. A plugin that shows the object to somebody reads them then.
//! Source: `endpoints/handlers/{create,update,patch}.go` and `handlers/fieldmanager/admission.go`.

use bytes::Bytes;
use http::{HeaderMap, header};
use wharf_admission::Attributes;
use wharf_cache::Entry;
use wharf_machinery::apply::{Filter, Managers, Root, Sent, Tracker, text};
use wharf_machinery::tree::Value;
use wharf_registry::{Row, Subresource};
use wharf_types::meta::ManagedFieldsEntry;
use wharf_types::{AnyObject, ApiError, BoxObject};

use crate::call::Call;
use crate::query::Query;

/// Longest name of a manager, in bytes: upstream's `FieldManagerMaxLength`.
pub const MANAGER_MAX: usize = 128;

/// An object about to be written, and who will own its fields.
pub struct Made {
    pub object: BoxObject,
    pub owners: Owners,
}

/// Where an object's managed fields come from.
#[derive(Clone, Debug)]
pub enum Owners {
    /// The writer owns what it changes; this is what it sent of managed fields.
    Sent(Sent),
    /// An apply has settled them already.
    Settled(Option<String>),
}

/// Who writes: the parameter `fieldManager`, or the client's program. Our own components need not say what they are.
pub fn manager(call: &Call) -> String {
    let said = said_manager(&call.query, &call.headers);
    if said.is_empty() { component(&call.user.name).to_owned() } else { said }
}

/// The program behind an identity, as upstream names it.
fn component(user: &str) -> &str {
    match user.strip_prefix("system:") {
        Some("apiserver") => "kube-apiserver",
        Some(name) if name.starts_with("node:") => "kubelet",
        Some(name) if name.starts_with("kube-") => name,
        _ => "",
    }
}

fn said_manager(query: &Query, headers: &HeaderMap) -> String {
    if let Some(manager) = query.get("fieldManager") {
        return manager.to_owned();
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut name = String::new();
    for c in agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > MANAGER_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// What Go's `unicode.IsPrint` says, as nearly as the standard library can.
pub fn is_printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

/// Runs `work` with the tracker of the call's resource or subresource.
pub fn tracked<T>(call: &Call, work: impl FnOnce(&Tracker<'_>) -> T) -> T {
    let filter = call.row.filter(call.subresource);
    with_filter(call, &filter, work)
}

fn with_filter<T>(call: &Call, filter: &Filter, work: impl FnOnce(&Tracker<'_>) -> T) -> T {
    let root = call.row.kind.merge_root();
    let api_version = call.row.gvk.group_version().to_string();
    let versions = Versions::of(call);
    work(&Tracker {
        root: &root,
        api_version: &api_version,
        kind: &call.row.gvk.kind,
        subresource: call.subresource.map_or("", Subresource::name),
        filter,
        knows: &|version| versions.know(version),
        now: call.now,
    })
}

/// The versions in which a kind's objects are served.
struct Versions<'c> {
    call: &'c Call,
    own: String,
}

impl<'c> Versions<'c> {
    fn of(call: &'c Call) -> Self {
        Self { call, own: call.row.gvk.group_version().to_string() }
    }

    fn know(&self, version: &str) -> bool {
        let same_objects = |row: &Row| row.storage == self.call.row.storage;
        version == self.own
            || self.call.server.table.find_kind(version, &self.call.row.gvk.kind).is_some_and(|row| same_objects(&row))
    }
}

/// Managed fields of an object that is created.
pub fn of_new(call: &Call, made: &Made) -> Option<Bytes> {
    match &made.owners {
        Owners::Settled(managed) => managed.clone().map(Bytes::from),
        Owners::Sent(sent) => {
            let bytes = made.object.to_vec();
            let managed = Value::parse(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|new| tracked(call, |tracker| tracker.create(&new, sent.clone(), &manager(call))));
            log(call, managed).flatten().map(Bytes::from)
        }
    }
}

/// Managed fields of an object that is updated; where they cannot be worked out, they stay as they are.
pub fn of_update(call: &Call, entry: &Entry, object: &dyn AnyObject, owners: Owners) -> Option<Bytes> {
    let sent = match owners {
        Owners::Settled(managed) => return managed.map(Bytes::from),
        Owners::Sent(sent) => sent,
    };
    let (old, held) = text::split(&entry.bytes);
    let new = object.to_vec();
    let changed = match (Value::parse(&old), Value::parse(&new)) {
        (Ok(old), Ok(new)) => tracked(call, |tracker| tracker.update(&old, &new, held, sent, &manager(call))),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    match log(call, changed).flatten() {
        Some(managed) => managed.map(Bytes::from),
        None => stored(entry),
    }
}

/// Managed fields as they are stored; a part of the entry's own text.
pub fn stored(entry: &Entry) -> Option<Bytes> {
    text::managed(&entry.bytes).map(|managed| entry.bytes.slice_ref(managed))
}

fn log<T>(call: &Call, result: Result<T, String>) -> Option<T> {
    result
        .inspect_err(
            |why| tracing::warn!(kind = %call.row.gvk.kind, name = call.name, why, "managed fields stay as they were"),
        )
        .ok()
}

/// An object's text, with its managed fields.
pub fn encode(object: &dyn AnyObject, managed: Option<&[u8]>) -> Vec<u8> {
    text::join(object.to_vec(), managed)
}

/// Managed fields as admission has left them: what a plugin made of them counts if it is valid.
pub fn settle(write: &mut Attributes, before: Option<Bytes>) -> Result<(), String> {
    if write.managed.new == before {
        return Ok(());
    }
    let Some(json) = write.managed.new.take() else { return Ok(()) };
    let read = Managers::parse(&json);
    if read.is_err() || before.as_ref().is_some_and(|before| Managers::parse(before) == read) {
        write.managed.new = before;
        return read.map(drop);
    }
    write.managed.new = read?.to_json().map(Bytes::from);
    Ok(())
}

/// The managed fields of a body, out of its document.
pub fn take_sent(document: &mut Value<'_>) -> Result<Sent, String> {
    let metadata = document.as_map_mut().and_then(|object| object.get_mut("metadata")).and_then(Value::as_map_mut);
    let Some(sent) = metadata.and_then(|metadata| metadata.remove("managedFields")) else { return Ok(Sent::Nothing) };
    let has_shape = match &sent {
        Value::Null => true,
        Value::List(entries) => entries.iter().all(|entry| entry.as_map().is_some()),
        _ => false,
    };
    if !has_shape {
        use serde::Deserialize;
        Vec::<ManagedFieldsEntry>::deserialize(sent.clone()).map_err(|error| error.to_string())?;
    }
    Ok(Sent::read(&sent))
}

/// The object that a configuration makes of what is stored of the call's object, or of nothing, and its managed fields.
pub fn apply(
    call: &Call,
    entry: Option<&Entry>,
    config: &Value<'_>,
    force: bool,
) -> Result<(BoxObject, Option<String>), ApiError> {
    let (live, held) = match entry {
        Some(entry) => {
            let (live, held) = text::split(&entry.bytes);
            (Some(live), held)
        }
        None => (None, None),
    };
    let live = live.as_deref().map(Value::parse).transpose().map_err(ApiError::internal)?;
    let name = manager(call);
    let applied = tracked(call, |tracker| tracker.apply(live.as_ref(), held, config, &name, force))?;
    let object = call.row.kind.read(applied.object, &mut |_| {}).map_err(|error| {
        ApiError::new(500, "", format!("failed to convert new object ({}) to proper version: {error}", call.name))
    })?;
    Ok((object, applied.managed))
}

/// The type of another kind than the row's, for subresources.
pub fn root_of(kind: &wharf_types::Gvk) -> Root {
    Root::built_in(&wharf_machinery::schema::type_name(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_named_by_parameter_or_program() {
        let check = |query: &str, agent: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            assert_eq!(said_manager(&Query::parse(query), &headers), expected);
        };
        check("fieldManager=me", "kubectl/v1.36.0 (linux/amd64)", "me");
        check("", "kubectl/v1.36.0 (linux/amd64)", "kubectl");
        check("fieldManager=", "plain", "plain");
        check("", "", "");
        check("", &"x".repeat(300), &"x".repeat(MANAGER_MAX));
        assert_eq!(component("system:node:one"), "kubelet");
        assert_eq!(component("system:kube-scheduler"), "kube-scheduler");
        assert_eq!(component("jane"), "");
    }
}
