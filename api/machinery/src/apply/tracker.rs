//! What the verbs call: managed fields after a create, an update or an apply.
//!
//! Source: `managedfields/internal` (`fieldmanager.go`, `structuredmerge.go` and the managers that wrap it). Documents come
//! without `metadata.managedFields`, which travel beside them as JSON text: a write that changes nothing never decodes them.

use std::sync::LazyLock;

use jiff::Timestamp;
use wharf_types::ApiError;

use super::conflict::{self, Conflict};
use super::managers::{Held, Id, Managers, Sent};
use super::merge::with_type;
use super::path::{Path, cow};
use super::schema::Root;
use super::set::{Set, mentioned};
use super::updater::{Error, Filter, Updater};
use super::{compare, validate};
use crate::tree::{Map, Value};

/// What client-side apply leaves on an object.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Whose applies take over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Who owns what an object held before anybody's fields were tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// A manager without a name.
const UNKNOWN: &str = "unknown";
/// The most bytes that all annotations may have together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Fields that nobody owns.
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    Set::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Tracks the fields of one resource or subresource.
pub struct Tracker<'k> {
    pub root: &'k Root,
    /// Of the kind that is written: that of the resource, or of the subresource's own (`autoscaling/v1`).
    pub api_version: &'k str,
    pub kind: &'k str,
    /// Empty for the resource itself.
    pub subresource: &'k str,
    pub filter: &'k Filter,
    /// True for versions that the kind is served in.
    pub knows: &'k dyn Fn(&str) -> bool,
    pub now: Timestamp,
}

/// What an apply comes to.
pub struct Applied<'a> {
    pub object: Value<'a>,
    /// As JSON; none where nobody owns anything.
    pub managed: Option<String>,
}

impl Tracker<'_> {
    fn updater(&self) -> Updater<'_> {
        Updater { of: self.root.get(), api_version: self.api_version, filter: self.filter, knows: self.knows }
    }

    /// Managed fields of a new object.
    pub fn create(&self, new: &Value<'_>, sent: Sent, manager: &str) -> Result<Option<String>, String> {
        let mut managers = match sent {
            Sent::Entries(managers) => managers,
            Sent::Nothing | Sent::Reset => Managers::default(),
        };
        self.update_managers(&mut managers, &with_type(self.api_version, self.kind), new, manager)?;
        Ok(managers.to_json())
    }

    /// Managed fields after an update; none where they stay as they are. What the client sent counts on the resource itself
    /// only. `held` is what the stored object has.
    pub fn update(
        &self,
        old: &Value<'_>,
        new: &Value<'_>,
        held: Option<&[u8]>,
        sent: Sent,
        manager: &str,
    ) -> Result<Option<Option<String>>, String> {
        let sent = if self.subresource.is_empty() { sent } else { Sent::Nothing };
        let mut managers = match sent {
            Sent::Reset => return Ok(Some(None)),
            Sent::Entries(managers) => managers,
            Sent::Nothing => {
                let Some(held) = held else { return Ok(None) };
                if !self.root.get().may_have_changed() && self.updater().changes(old, new)?.is_empty() {
                    return Ok(None);
                }
                Managers::parse(held).unwrap_or_default()
            }
        };
        // Tracking begins with a create or an apply, never with an update.
        if !managers.is_empty() {
            self.update_managers(&mut managers, old, new, manager)?;
        }
        Ok(Some(managers.to_json()))
    }

    /// As [`Tracker::update`], where tracking is known to have begun though `held` may be empty: a part of an object.
    pub fn continued(
        &self,
        old: &Value<'_>,
        new: &Value<'_>,
        held: &[u8],
        manager: &str,
    ) -> Result<Option<String>, String> {
        let mut managers = Managers::parse(held)?;
        self.update_managers(&mut managers, old, new, manager)?;
        Ok(managers.to_json())
    }

    fn update_managers(
        &self,
        managers: &mut Managers,
        old: &Value<'_>,
        new: &Value<'_>,
        manager: &str,
    ) -> Result<(), String> {
        let updater = self.updater();
        updater.reconcile(managers, old)?;
        let changes = updater.changes(old, new)?;
        let mut own = updater.take(managers, &changes);
        own.remove(&STRIPPED);
        if !own.is_empty() {
            let id = Id::update(named(manager), self.api_version, self.subresource);
            let held = managers.0.entry(id).or_insert_with(|| Held {
                fields: Set::default(),
                api_version: self.api_version.to_owned(),
                time: None,
            });
            held.fields.add(own);
            held.time = Some(self.now);
        }
        managers.cap_updaters();
        Ok(())
    }

    /// Applies a configuration to the live object, or to nothing.
    pub fn apply<'a>(
        &self,
        live: Option<&Value<'a>>,
        held: Option<&[u8]>,
        config: &Value<'a>,
        manager: &str,
        force: bool,
    ) -> Result<Applied<'a>, ApiError> {
        let internal = |why: String| ApiError::new(500, "", why);
        self.check_config(config)?;
        let nothing = with_type(self.api_version, self.kind);
        let exists = live.is_some();
        let live = live.unwrap_or(&nothing);
        let mut managers = Managers::parse(held.unwrap_or(b"null"))
            .map_err(|why| internal(format!("failed to decode managed fields: {why}")))?;
        if managers.is_empty() && exists {
            let nothing = with_type(self.api_version, self.kind);
            self.update_managers(&mut managers, &nothing, live, BEFORE_FIRST_APPLY)
                .map_err(|why| internal(format!("failed to create manager for existing fields: {why}")))?;
        }
        let before = managers.clone();
        let id = Id::apply(named(manager), self.subresource);
        let merged = match self.updater().apply(live, config, &mut managers, &id, force) {
            Err(Error::Conflicts(conflicts)) if manager == KUBECTL => {
                let rest = self.not_from_client_side_apply(live, conflicts);
                if !rest.is_empty() {
                    return Err(conflict::refusal(&rest));
                }
                managers = before;
                self.updater().apply(live, config, &mut managers, &id, true)
            }
            result => result,
        };
        let merged = merged.map_err(|error| match error {
            Error::Conflicts(conflicts) => conflict::refusal(&conflicts),
            Error::Broken(why) => internal(why),
        })?;
        self.settle_own(&mut managers, &id, merged.is_some());
        let mut object = merged.unwrap_or_else(|| live.clone());
        if manager == KUBECTL {
            refresh_last_applied(&mut object, config);
        }
        Ok(Applied { object, managed: managers.to_json() })
    }

    fn settle_own(&self, managers: &mut Managers, id: &Id, changed: bool) {
        let Some(own) = managers.0.get_mut(id) else { return };
        own.fields.remove(&STRIPPED);
        if changed {
            own.time = Some(self.now);
        }
        if own.fields.is_empty() {
            managers.0.remove(id);
        }
    }

    /// What an applied configuration must be before anything is made of it.
    fn check_config(&self, config: &Value<'_>) -> Result<(), ApiError> {
        let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version != self.api_version || kind != self.kind {
            return Err(ApiError::bad_request(format!("invalid object type: {}", go_gvk(api_version, kind))));
        }
        if config.at(&["metadata", "managedFields"]).is_some_and(|fields| fields.as_list().is_some()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        validate(config, self.root.get(), false).map_err(|why| {
            let own = |name| config.at(&["metadata", name]).and_then(Value::as_str).unwrap_or_default();
            let gvk = go_gvk(api_version, kind);
            let which = format!("{}/{}; {gvk}", own("namespace"), own("name"));
            ApiError::new(500, "", format!("failed to create typed patch object ({which}): {why}"))
        })
    }

    /// The conflicts that remain when what client-side apply has set, and nobody changed since, is taken over.
    fn not_from_client_side_apply(&self, live: &Value<'_>, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        match self.last_applied_fields(live) {
            Some(allowed) => conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path.0)).collect(),
            None => conflicts,
        }
    }

    fn last_applied_fields(&self, live: &Value<'_>) -> Option<Set> {
        let text = live.at(&["metadata", "annotations", LAST_APPLIED])?.as_str()?;
        let last = Value::parse(text.as_bytes()).ok()?;
        if last.get("apiVersion")?.as_str()? != self.api_version {
            return None;
        }
        let of = self.root.get();
        validate(&last, of, false).ok()?;
        let mut fields = mentioned(&last, of).ok()?;
        let changes = compare(&last, live, of).ok()?;
        [changes.modified, changes.added, changes.removed].iter().for_each(|changed| fields.remove(changed));
        Some(fields)
    }
}

fn named(manager: &str) -> &str {
    if manager.is_empty() { UNKNOWN } else { manager }
}

/// A kind as Go prints it: `apps/v1, Kind=Deployment`.
fn go_gvk(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

/// Keeps the annotation of client-side apply up to date where there is one, so that one can go back to it.
fn refresh_last_applied(object: &mut Value<'_>, config: &Value<'_>) {
    if object.at(&["metadata", "annotations", LAST_APPLIED]).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = annotations_of(&mut config) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", serde_json::to_string(&config).unwrap_or_default());
    let Some(annotations) = annotations_of(object) else { return };
    annotations.insert(cow(LAST_APPLIED), Value::String(text.into()));
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_MAX {
        annotations.remove(LAST_APPLIED);
    }
}

fn annotations_of<'v, 'a>(object: &'v mut Value<'a>) -> Option<&'v mut Map<'a>> {
    object.as_map_mut()?.get_mut("metadata")?.as_map_mut()?.get_mut("annotations")?.as_map_mut()
}

impl Managers {
    /// True where two lists differ in nothing but when.
    pub fn same_but_times(a: &[u8], b: &[u8]) -> bool {
        let timeless = |json: &[u8]| {
            let mut managers = Managers::parse(json).ok()?;
            managers.0.values_mut().for_each(|held| held.time = None);
            Some(managers)
        };
        timeless(a).is_some_and(|a| timeless(b) == Some(a))
    }

    /// Those who own a field.
    pub fn owners_of(&self, path: &Path) -> impl Iterator<Item = (&Id, &Held)> {
        self.0.iter().filter(|(_, held)| held.fields.has(&path.0))
    }
}
