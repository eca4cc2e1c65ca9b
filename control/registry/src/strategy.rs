//! What differs by kind.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::apply::text;
use wharf_types::field::Errors;
use wharf_types::meta::DeleteOptions;
use wharf_types::{AnyObject, KubeObject};

use crate::row::Subresource;

/// A printer column, as in a `Table` reply.
/// Those of built-in kinds are static; custom resources bring their own.
#[derive(Clone, Copy, Debug)]
pub struct Column<T = &'static str> {
    pub name: T,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: T,
    /// `name` for the column that names the object, else empty.
    pub format: T,
    pub description: T,
    /// 0 is shown always, 1 with `-o wide`.
    pub priority: i32,
}

/// Paths to fields, such as `metadata.labels`.
pub type FieldPaths = &'static [&'static [&'static str]];

/// How a DELETE proceeds (upstream's `RESTGracefulDeleteStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graceful {
    /// The object goes at once, or when its finalizers are gone.
    Immediate,
    /// The object is marked with `deletionTimestamp` this many seconds ahead and stays until its owner confirms.
    After { seconds: i64 },
}

/// What only the request knows of a write: who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub user: &'a str,
    pub uid: &'a str,
    pub groups: &'a [String],
    pub extra: &'a BTreeMap<String, Vec<String>>,
    pub now: Timestamp,
}

/// Rules of one kind. The defaults are those of a kind without status or special cases.
///
/// Order of a write: decode → mutating admission → `default` → `prepare_*` → `validate*` → validating admission → commit.
/// Source of the shape: `k8s.io/apiserver/pkg/registry/rest` (`RESTCreateStrategy`, `RESTUpdateStrategy`).
/// `metadata` is validated, and its server-owned fields kept, by the verbs; a strategy speaks only of the rest, except for
/// [`Strategy::validate_name`].
pub trait Strategy: Send + Sync + 'static {
    type Object: KubeObject + schemars::JsonSchema;

    /// Fills in what the user left out. Idempotent; also applied to objects as they are read from a client.
    fn default(&self, _object: &mut Self::Object) {}

    /// Clears what a creator may not set (status) and sets first values (`metadata.generation = 1` where the kind has one).
    fn prepare_for_create(&self, _object: &mut Self::Object) {}

    /// Keeps what an update may not touch (status) and bumps `metadata.generation` where the spec changed.
    fn prepare_for_update(&self, _object: &mut Self::Object, _old: &Self::Object) {}

    /// For `/status`: keeps everything but the status (and what upstream lets through: labels stay old, too).
    fn prepare_for_status_update(&self, _object: &mut Self::Object, _old: &Self::Object) {}

    /// For a subresource whose bodies are the kind's own and that is neither `/status` nor has a handler of its own.
    fn prepare_for_subresource(&self, _which: Subresource, _object: &mut Self::Object, _old: &Self::Object) {}

    /// Writes down what only the request knows. Called after `prepare_*`; `old` is none for a create.
    fn stamp(&self, _object: &mut Self::Object, _old: Option<&Self::Object>, _asked: &Asked<'_>) {}

    fn validate(&self, _object: &Self::Object) -> Errors {
        Vec::new()
    }

    /// What must hold of a new object beside [`Strategy::validate`], and not of one that has been there before.
    fn validate_new(&self, _object: &Self::Object) -> Errors {
        Vec::new()
    }

    /// Called with [`Strategy::validate`] already done on the new object.
    fn validate_update(&self, _object: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }

    fn validate_status_update(&self, _object: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }

    fn validate_subresource(&self, _which: Subresource, _object: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }

    /// The detail of an error for a bad `metadata.name`; [`wharf_machinery::names`] has the usual ones.
    fn validate_name(&self, name: &str) -> Vec<String> {
        wharf_machinery::names::dns1123_subdomain(name)
    }

    /// Texts for `Warning:` headers.
    fn warnings(&self, _object: &Self::Object, _old: Option<&Self::Object>) -> Vec<String> {
        Vec::new()
    }

    /// What everybody who uses the kind is warned of.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }

    /// True where PUT to a missing name creates the object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// True where PUT may leave out resourceVersion.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Selectable fields beside `metadata.name` and `metadata.namespace`. Values are what `--field-selector` compares.
    fn fields(&self, _object: &Self::Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Names of the fields that [`Strategy::fields`] may return, to refuse others in a field selector.
    fn field_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// What a selectable field is called in the version that is stored, where objects of the kind are stored in another.
    fn stored_field<'a>(&self, name: &'a str) -> &'a str {
        name
    }

    /// Printer columns; the default is upstream's `Name` and `Age`.
    fn columns(&self) -> &'static [Column] {
        DEFAULT_COLUMNS
    }

    /// One cell for each column. `now` is for ages.
    fn cells(&self, object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let meta = object.meta();
        vec![
            meta.name.clone().unwrap_or_default().into(),
            age(meta.creation_timestamp.as_ref().map(|time| time.0), now).into(),
        ]
    }

    /// The same for an object as it is stored. A kind that is listed by the thousand reads no more of it than its columns show.
    fn stored_cells(&self, stored: &[u8], now: Timestamp) -> serde_json::Result<Vec<Value>> {
        let (rest, _) = text::split(stored);
        Ok(self.cells(&serde_json::from_slice(&rest)?, now))
    }

    /// Decides how a DELETE proceeds and writes to the object what that implies; the verbs set `deletionTimestamp`
    /// and `deletionGracePeriodSeconds`.
    fn delete(&self, _object: &mut Self::Object, _options: &DeleteOptions) -> Graceful {
        Graceful::Immediate
    }

    /// Why an object of this name may not be deleted, if so. The deletion of a collection does not ask, as upstream.
    fn refuse_delete(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// What DELETE does to dependents when the options do not say: upstream's `DefaultGarbageCollectionPolicy` is
    /// background for nearly all kinds.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Fields that a write through the resource (none) or a subresource drops, so that no writer comes to own them there
    /// (upstream's `GetResetFields`). None is what most kinds do: the status on a resource that has one, the spec on
    /// `/status`.
    fn reset_fields(&self, _subresource: Option<Subresource>) -> Option<FieldPaths> {
        None
    }

    /// The `autoscaling/v1 Scale` view, for kinds with a `scale` subresource.
    fn scale(&self, _object: &Self::Object) -> Option<Scale> {
        None
    }

    /// Sets `spec.replicas` through the `scale` subresource.
    fn set_scale(&self, _object: &mut Self::Object, _replicas: i32) {}
}

/// What the `scale` subresource shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas: i32,
    pub status_replicas: i32,
    /// The label selector in its string form.
    pub selector: String,
}

impl Column {
    /// A column that is shown always.
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", description, priority: 0 }
    }

    /// A column that is shown with `-o wide` only.
    pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", description, priority: 1 }
    }
}

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

pub const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
    priority: 0,
};

const DEFAULT_COLUMNS: &[Column] = &[NAME, AGE];

/// A cell for a time: how long ago, as `kubectl get` shows it; `<unknown>` where there is no time.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(|| "<unknown>".to_owned(), |since| human_duration(now.as_second() - since.as_second()))
}

/// Source: `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations_read_as_kubectl_shows_them() {
        for (seconds, shown) in [
            (0, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (47 * 3600, "47h"),
            (86400 * 3, "3d"),
        ] {
            assert_eq!(human_duration(seconds), shown);
        }
    }
}
