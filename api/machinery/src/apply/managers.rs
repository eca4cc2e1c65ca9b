//! Who owns which fields of an object: `metadata.managedFields`, decoded.
//!
//! Source: `k8s.io/apimachinery/pkg/util/managedfields/internal` (`managedfields.go`, `capmanagers.go`).

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;

use super::set::Set;
use crate::tree::Value;

/// Most managers that have written by anything but apply; the oldest are merged into one.
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// Whom the fields of the oldest are then put down to.
const ANCIENT: &str = "ancient-changes";

/// The order of variants is that of their names, by which entries are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells managers apart. One who applies is the same whatever the version; one who updates is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub manager: String,
    pub operation: Operation,
    /// Empty for one who applies.
    pub api_version: String,
    pub subresource: String,
}

impl Id {
    pub fn apply(manager: &str, subresource: &str) -> Self {
        Self {
            manager: manager.to_owned(),
            operation: Operation::Apply,
            api_version: String::new(),
            subresource: subresource.to_owned(),
        }
    }

    pub fn update(manager: &str, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: manager.to_owned(),
            operation: Operation::Update,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub fields: Set,
    /// The version whose fields these are.
    pub api_version: String,
    pub time: Option<Timestamp>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub BTreeMap<Id, Held>);

/// `managedFields` as a client has sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sent {
    /// Not at all, or in a form that is to be ignored.
    #[default]
    Nothing,
    /// `[]` or `[{}]`: everything known is to be forgotten.
    Reset,
    Entries(Managers),
}

impl Sent {
    pub fn read(value: &Value<'_>) -> Self {
        match value {
            Value::List(items) if items.is_empty() => Sent::Reset,
            Value::List(items) if items.len() == 1 && items[0].as_map().is_some_and(|map| map.is_empty()) => {
                Sent::Reset
            }
            value => match Managers::read(value) {
                Ok(managers) if !managers.0.is_empty() => Sent::Entries(managers),
                _ => Sent::Nothing,
            },
        }
    }
}

impl Managers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the JSON of `managedFields`.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        Self::read(&Value::parse(json).map_err(|error| error.to_string())?)
    }

    pub fn read(value: &Value<'_>) -> Result<Self, String> {
        let items = match value {
            Value::Null => return Ok(Self::default()),
            Value::List(items) => items,
            _ => return Err("managedFields is a list".to_owned()),
        };
        let mut managers = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let (id, held) = read_entry(index, item)?;
            managers.insert(id, held);
        }
        Ok(Self(managers))
    }

    /// The JSON of `managedFields`, in upstream's order; none where nobody owns anything.
    pub fn to_json(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let seconds = |held: &Held| held.time.map_or(0, Timestamp::as_second);
        let mut entries: Vec<(&Id, &Held)> = self.0.iter().collect();
        entries.sort_by(|(a, a_held), (b, b_held)| {
            (a.operation, seconds(a_held), &a.manager, &a_held.api_version, &a.subresource).cmp(&(
                b.operation,
                seconds(b_held),
                &b.manager,
                &b_held.api_version,
                &b.subresource,
            ))
        });
        let mut out = String::with_capacity(256 * entries.len());
        for (id, held) in entries {
            out.push(if out.is_empty() { '[' } else { ',' });
            write_entry(&mut out, id, held);
        }
        out.push(']');
        Some(out)
    }

    /// Merges the oldest of too many updaters, version by version, and puts what they own down to the past.
    pub fn cap_updaters(&mut self) {
        let mut updaters: Vec<Id> = self.0.keys().filter(|id| id.operation == Operation::Update).cloned().collect();
        let mut count = updaters.len();
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        let seconds = |id: &Id| self.0.get(id).and_then(|held| held.time).map_or(0, Timestamp::as_second);
        updaters.sort_by_cached_key(|id| (seconds(id), id.clone()));
        let mut first_of: BTreeMap<String, Id> = BTreeMap::new();
        for id in updaters {
            if count <= UPDATE_MANAGERS_MAX {
                break;
            }
            let Some(version) = self.0.get(&id).map(|held| held.api_version.clone()) else { continue };
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, id);
                continue;
            };
            let bucket = Id::update(ANCIENT, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(held) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), held);
            }
            let Some(merged) = self.0.remove(&id) else { continue };
            if let Some(held) = self.0.get_mut(&bucket) {
                held.fields.add(merged.fields);
                held.time = merged.time;
            }
            count -= 1;
        }
    }
}

fn read_entry(index: usize, entry: &Value<'_>) -> Result<(Id, Held), String> {
    let text = |name: &str| match entry.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(&**text),
        Some(_) => Err(format!("{name} is a string")),
    };
    let operation = match text("operation")? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    let api_version = text("apiVersion")?;
    if api_version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match text("fieldsType")? {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
        other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
    }
    let time = match text("time")? {
        "" => None,
        time => Some(time.parse::<Timestamp>().map_err(|error| error.to_string())?),
    };
    let fields = match entry.get("fieldsV1") {
        None | Some(Value::Null) => Set::default(),
        Some(fields) => Set::read(fields).map_err(|why| format!("error decoding set: {why}"))?,
    };
    let id = match operation {
        Operation::Apply => Id::apply(text("manager")?, text("subresource")?),
        Operation::Update => Id::update(text("manager")?, api_version, text("subresource")?),
    };
    Ok((id, Held { fields, api_version: api_version.to_owned(), time }))
}

fn write_entry(out: &mut String, id: &Id, held: &Held) {
    let json = |text: &str| serde_json::to_string(text).unwrap_or_default();
    write!(out, r#"{{"apiVersion":{},"fieldsType":"FieldsV1","fieldsV1":"#, json(&held.api_version))
        .expect("a String takes every write");
    held.fields.write(out);
    if !id.manager.is_empty() {
        write!(out, r#","manager":{}"#, json(&id.manager)).expect("a String takes every write");
    }
    write!(out, r#","operation":"{}""#, id.operation.name()).expect("a String takes every write");
    if !id.subresource.is_empty() {
        write!(out, r#","subresource":{}"#, json(&id.subresource)).expect("a String takes every write");
    }
    if let Some(time) = held.time {
        let time = Timestamp::from_second(time.as_second()).unwrap_or(time);
        write!(out, r#","time":"{time}""#).expect("a String takes every write");
    }
    out.push('}');
}
