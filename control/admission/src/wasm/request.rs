//! A write as a plugin is told of it, and what an answer may hold.

use serde_json::Value;
use wharf_machinery::patch;
use wharf_types::Gvr;
use wharf_types::meta::ObjectMeta;

use super::Hook;
use super::bindings::{
    self, Denial, Kind, Operation as Asked, Request, Target, UserInfo, Verdict, mutation, validation,
};
use crate::subject::View;
use crate::{Attributes, Operation, Reader};

const NAMESPACES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed(""),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("namespaces"),
};

/// Longest change, in bytes of JSON: what a webhook's answer may have.
const CHANGE_MAX_BYTES: usize = 8 << 20;
/// Most warnings and audit annotations of one answer.
const NOTES_MAX: usize = 64;
/// Longest message, warning, annotation or key, in bytes.
const NOTE_MAX_BYTES: usize = 10 << 10;

pub fn make(hook: &Hook, write: &Attributes, view: &View, cluster: &dyn Reader) -> Request {
    let (gvr, gvk, user) = (&view.row.gvr, view.kind.clone(), &write.user);
    let bytes = |json: &Option<Value>| json.as_ref().map(|json| json.to_string().into_bytes());
    let options = write.options.as_ref().filter(|options| !options.is_null());
    Request {
        operation: match write.operation {
            Operation::Create => Asked::Create,
            Operation::Update => Asked::Update,
            Operation::Delete => Asked::Delete,
            Operation::Connect => Asked::Connect,
        },
        kind: Kind { group: gvk.group.into(), version: gvk.version.into(), kind: gvk.kind.into() },
        target: Target {
            group: gvr.group.clone().into(),
            version: gvr.version.clone().into(),
            resource: gvr.resource.clone().into(),
            subresource: write.subresource_name().to_owned(),
        },
        name: write.object_name().to_owned(),
        namespace: write.in_namespace().map(str::to_owned),
        namespace_labels: labels_of_namespace(write, cluster),
        user: UserInfo {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.iter().map(|(key, values)| (key.clone(), values.clone())).collect(),
        },
        dry_run: write.dry_run,
        object: bytes(&view.object),
        old_object: bytes(&view.old),
        options: options.map(|options| options.to_string().into_bytes()),
        parameters: hook.parameters.clone(),
    }
}

/// Of a namespace that is written, those that it will have, as selectors see it.
fn labels_of_namespace(write: &Attributes, cluster: &dyn Reader) -> Vec<(String, String)> {
    let labels = |meta: &ObjectMeta| meta.labels.clone().unwrap_or_default().into_iter().collect();
    if write.is_namespace() {
        let object = write.object.as_deref().filter(|_| write.subresource.is_none()).or(write.old.as_deref());
        return object.map(|object| labels(object.meta())).unwrap_or_default();
    }
    let namespace = write.in_namespace().and_then(|name| cluster.get(&NAMESPACES, None, name));
    namespace.map(|namespace| labels(namespace.meta())).unwrap_or_default()
}

/// What a plugin makes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    JsonPatch(Vec<u8>),
    Object(Vec<u8>),
}

impl Change {
    /// The object as it should be, of what it is, and the operations where these were sent. The error is the plugin's fault.
    pub fn apply(&self, object: &Value) -> Result<(Value, Option<Value>), String> {
        let unreadable = |error: serde_json::Error| format!("its change is no JSON: {error}");
        let (changed, operations) = match self {
            Change::JsonPatch(bytes) => {
                let operations: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
                if !operations.is_array() {
                    return Err("its patch is no list of operations".to_owned());
                }
                let mut document = object.clone();
                patch::json(&mut document, &operations)
                    .map_err(|error| format!("its patch does not apply: {error}"))?;
                (document, Some(operations))
            }
            Change::Object(bytes) => (serde_json::from_slice(bytes).map_err(unreadable)?, None),
        };
        for field in ["apiVersion", "kind"] {
            if changed[field] != object[field] {
                return Err(format!(
                    "it has changed the object's {field} from {} to {}",
                    object[field], changed[field]
                ));
            }
        }
        Ok((changed, operations))
    }
}

/// What either hook answers.
#[derive(Debug, Default)]
pub struct Answer {
    pub denial: Option<Denial>,
    pub change: Option<Change>,
    pub warnings: Vec<String>,
    pub audit_annotations: Vec<(String, String)>,
}

impl Answer {
    fn new(verdict: Verdict, change: Option<Change>, notes: bindings::Notes) -> Self {
        let denial = match verdict {
            Verdict::Allowed => None,
            Verdict::Denied(denial) => Some(denial),
        };
        Self { denial, change, warnings: notes.warnings, audit_annotations: notes.audit_annotations }
    }

    /// Refuses more than anybody should have to read.
    pub fn check(&self) -> Result<(), String> {
        let annotations = self.audit_annotations.iter().flat_map(|(key, value)| [key, value]);
        let message = self.denial.iter().map(|denial| &denial.message);
        if self.warnings.len() + self.audit_annotations.len() > NOTES_MAX {
            return Err(format!("it has more than {NOTES_MAX} warnings and audit annotations"));
        }
        if self.warnings.iter().chain(annotations).chain(message).any(|text| text.len() > NOTE_MAX_BYTES) {
            return Err(format!("it has a message that is longer than {NOTE_MAX_BYTES} bytes"));
        }
        match &self.change {
            Some(Change::JsonPatch(bytes) | Change::Object(bytes)) if bytes.len() > CHANGE_MAX_BYTES => {
                Err(format!("its change is longer than {CHANGE_MAX_BYTES} bytes"))
            }
            _ => Ok(()),
        }
    }
}

impl From<mutation::Answer> for Answer {
    fn from(answer: mutation::Answer) -> Self {
        let change = match answer.change {
            bindings::Change::None => None,
            bindings::Change::JsonPatch(bytes) => Some(Change::JsonPatch(bytes)),
            bindings::Change::Object(bytes) => Some(Change::Object(bytes)),
        };
        Self::new(answer.verdict, change, answer.notes)
    }
}

impl From<validation::Answer> for Answer {
    fn from(answer: validation::Answer) -> Self {
        Self::new(answer.verdict, None, answer.notes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(change: Change, expected: Result<Value, &str>) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
        let changed = change.apply(&object).map(|(changed, _)| changed["data"].clone());
        match expected {
            Ok(data) => assert_eq!(changed, Ok(data)),
            Err(why) => assert!(changed.as_ref().is_err_and(|error| error.starts_with(why)), "{changed:?}"),
        }
    }

    #[test]
    fn a_change_is_a_patch_or_the_whole_object() {
        let patch = |text: &str| Change::JsonPatch(text.as_bytes().to_vec());
        let object = |text: &str| Change::Object(text.as_bytes().to_vec());
        check(patch(r#"[{"op": "add", "path": "/data/b", "value": "2"}]"#), Ok(json!({"a": "1", "b": "2"})));
        check(patch("[]"), Ok(json!({"a": "1"})));
        check(object(r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {}}"#), Ok(json!({})));
        check(patch("garbage"), Err("its change is no JSON: "));
        check(patch("{}"), Err("its patch is no list of operations"));
        check(patch(r#"[{"op": "remove", "path": "/spec"}]"#), Err("its patch does not apply: "));
        check(object("[1, 2"), Err("its change is no JSON: "));
        let other = r#"{"apiVersion": "v1", "kind": "Secret"}"#;
        check(object(other), Err("it has changed the object's kind from \"ConfigMap\" to \"Secret\""));
    }

    #[test]
    fn an_answer_says_no_more_than_anybody_reads() {
        let answer = |warnings: Vec<String>| Answer { warnings, ..Answer::default() };
        assert_eq!(answer(vec!["short".to_owned()]).check(), Ok(()));
        assert!(answer(vec!["x".repeat(NOTE_MAX_BYTES + 1)]).check().is_err());
        assert!(answer(vec![String::new(); NOTES_MAX + 1]).check().is_err());
        let change = Some(Change::Object(vec![b' '; CHANGE_MAX_BYTES + 1]));
        assert!(Answer { change, ..Answer::default() }.check().is_err());
    }
}
