//! Everything has an owner: objects must carry a label that names a team, and the namespace's is the default.

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_guest::admission::{Allowed, Denied, Request};

/// `spec.parameters` of the AdmissionPlugin.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parameters {
    /// The label that must be there.
    label: String,
    /// What it may say; empty for anything.
    allowed: Vec<String>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { label: "team".to_owned(), allowed: Vec::new() }
    }
}

/// An object without the label is its namespace's.
fn mutate(request: &Request, object: &mut Value) -> Result<Allowed, Denied> {
    let Parameters { label, .. } = request.parameters();
    if object.is_null() || object["metadata"]["labels"][&label].is_string() {
        return Ok(Allowed::new());
    }
    let Some(owner) = request.namespace_label(&label) else { return Ok(Allowed::new()) };
    object["metadata"]["labels"][&label] = json!(owner);
    Ok(Allowed::new().audit("default", format!("{label}={owner}")))
}

fn validate(request: &Request) -> Result<Allowed, Denied> {
    let Parameters { label, allowed } = request.parameters();
    let object = request.object();
    if object.is_null() {
        return Ok(Allowed::new());
    }
    let Some(owner) = object["metadata"]["labels"][&label].as_str() else {
        return Err(Denied::new(format!("whose is it? set the label {label:?} on it or on its namespace")));
    };
    if !allowed.is_empty() && !allowed.iter().any(|known| known == owner) {
        return Err(Denied::invalid(format!("label {label:?}: {owner:?} is none of {}", allowed.join(", "))));
    }
    let before = request.old_object()["metadata"]["labels"][&label].as_str();
    match before.filter(|before| *before != owner) {
        Some(before) => Ok(Allowed::new().warn(format!("this was {before}'s and is {owner}'s now"))),
        None => Ok(Allowed::new()),
    }
}

wharf_guest::admission_plugin!(mutate = mutate, validate = validate);
