//! What a request's parameters ask of a verb, checked as upstream checks them.
//!
//! Source: `k8s.io/apimachinery/pkg/apis/meta/internalversion/validation` and `meta/v1/validation`.

use serde_json::{Value, json};
use wharf_admission::Operation;
use wharf_machinery::selector::{FieldSelector, LabelSelector};
use wharf_registry::Row;
use wharf_store::Revision;
use wharf_types::field::{self, Path};
use wharf_types::meta::DeleteOptions;
use wharf_types::{ApiError, Gvk};

use crate::managed::{MANAGER_MAX, is_printable};
use crate::query::Query;

/// `metav1.ListOptions`, for lists, watches and deletes of collections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub version: Version,
    pub version_match: Option<VersionMatch>,
    pub limit: usize,
    pub continue_token: Option<String>,
    pub timeout_seconds: Option<u64>,
    pub allow_bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

/// The parameter `resourceVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Unset,
    /// `0`: whatever is at hand.
    Any,
    At(Revision),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

fn meta_kind(kind: &'static str) -> Gvk {
    Gvk { group: "meta.k8s.io".into(), version: "v1".into(), kind: kind.into() }
}

fn refuse(kind: &'static str, errors: field::Errors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&meta_kind(kind), "", &errors)) }
}

impl Version {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" => Ok(Version::Unset),
            "0" => Ok(Version::Any),
            text => text.parse().map(|revision| Version::At(Revision(revision))).map_err(|_| {
                let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                ApiError::bad_request(field::Error::invalid(&Path::new("resourceVersion"), text, why).to_string())
            }),
        }
    }
}

impl ListOptions {
    /// `watch` says which rules hold, not what the query asks for.
    pub fn parse(query: &Query, row: &Row, watch: bool) -> Result<Self, ApiError> {
        let bad = |error: wharf_machinery::selector::ParseError| ApiError::bad_request(error.0);
        let text = |name| query.get(name).unwrap_or_default();
        let fields = FieldSelector::parse(text("fieldSelector")).map_err(bad)?;
        check_fields(&fields, row)?;
        let fields = fields.renamed(|name| row.kind.stored_field(name).to_owned());
        let limit = query.integer("limit")?.unwrap_or_default();
        let timeout = query.integer("timeoutSeconds")?;
        check_versions(query, watch)?;
        Ok(Self {
            labels: LabelSelector::parse(text("labelSelector")).map_err(bad)?,
            fields,
            version: Version::parse(text("resourceVersion"))?,
            version_match: match text("resourceVersionMatch") {
                "Exact" => Some(VersionMatch::Exact),
                "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                _ => None,
            },
            limit: usize::try_from(limit).unwrap_or_default(),
            continue_token: query.get("continue").map(str::to_owned),
            timeout_seconds: timeout.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0),
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
        })
    }

    pub fn selects_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

fn check_versions(query: &Query, watch: bool) -> Result<(), ApiError> {
    let text = |name| query.get(name).unwrap_or_default();
    let (version_match, version) = (text("resourceVersionMatch"), text("resourceVersion"));
    let initial = query.optional_flag("sendInitialEvents").is_some();
    let path = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if watch {
        if initial && version_match != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(field::Error::forbidden(&path, why));
        }
        if !version_match.is_empty() {
            if !initial {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(field::Error::forbidden(&path, why));
            }
            if version_match != "NotOlderThan" {
                errors.push(field::Error::not_supported(&path, version_match, &["NotOlderThan"]));
            }
            if !text("continue").is_empty() {
                errors.push(field::Error::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
        }
        return refuse("ListOptions", errors);
    }
    if !version_match.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(field::Error::forbidden(&path, why));
        }
        if !text("continue").is_empty() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            errors.push(field::Error::not_supported(&path, version_match, &["Exact", "NotOlderThan", ""]));
        }
        if version_match == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(field::Error::forbidden(&path, why));
        }
    }
    if initial {
        let path = Path::new("sendInitialEvents");
        errors.push(field::Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    refuse("ListOptions", errors)
}

/// Refuses fields that the kind does not index, in the words of the kind's conversion.
fn check_fields(selector: &FieldSelector, row: &Row) -> Result<(), ApiError> {
    let known = row.kind.field_names();
    for term in selector.terms() {
        let field = term.field.as_str();
        let is_custom = row.kind.is_custom();
        let has_namespace = row.namespaced() || !is_custom;
        if field == "metadata.name" || (field == "metadata.namespace" && has_namespace) || known.contains(&field) {
            continue;
        }
        let message = match (known.is_empty(), row.gvr.group.is_empty()) {
            _ if is_custom => format!("field label not supported: {field}"),
            (true, _) => {
                format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            }
            (false, true) => format!("field label not supported: {field}"),
            (false, false) => format!("field label {field:?} not supported for {}", row.gvk.kind),
        };
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// What `fieldValidation` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// An apply takes what others own.
    pub force: bool,
}

impl WriteOptions {
    /// `kind` is that of the options, for the message.
    pub fn parse(query: &Query, kind: &'static str) -> Result<Self, ApiError> {
        Self::parse_after(query, kind, Vec::new())
    }

    /// The options of a patch, of which some are for an apply only.
    pub fn parse_patch(query: &Query, is_apply: bool) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let manager = Path::new("fieldManager");
        if is_apply && query.get("fieldManager").is_none() {
            errors.push(field::Error::required(&manager, "is required for apply patch"));
        }
        if !is_apply && query.optional_flag("force").is_some() {
            errors.push(field::Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        Self::parse_after(query, "PatchOptions", errors)
    }

    fn parse_after(query: &Query, kind: &'static str, mut errors: field::Errors) -> Result<Self, ApiError> {
        errors.extend(manager_errors(query.get("fieldManager").unwrap_or_default()));
        errors.extend(dry_run_errors(query.all("dryRun")));
        let path = Path::new("fieldValidation");
        let validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(field::Error::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        refuse(kind, errors)?;
        Ok(Self { dry_run: !query.all("dryRun").is_empty(), validation, force: query.flag("force") })
    }
}

/// The options of a write as admission sees them: of a patch, those of the create or update that it comes to. A DELETE's are
/// in its body.
pub fn admitted(query: &Query, operation: Operation) -> Option<Value> {
    let kind = match operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete | Operation::Connect => return None,
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    let dry_run = query.all("dryRun");
    if !dry_run.is_empty() {
        options["dryRun"] = json!(dry_run);
    }
    for name in ["fieldManager", "fieldValidation"] {
        if let Some(value) = query.get(name).filter(|value| !value.is_empty()) {
            options[name] = json!(value);
        }
    }
    Some(options)
}

/// Source: `ValidateFieldManager`.
fn manager_errors(manager: &str) -> field::Errors {
    let path = Path::new("fieldManager");
    let mut errors = Vec::new();
    if manager.len() > MANAGER_MAX {
        errors.push(field::Error::too_long(&path, MANAGER_MAX));
    }
    for (position, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
        let why = format!("invalid character U+{:04X} (at position {position})", u32::from(c));
        errors.push(field::Error::invalid(&path, manager, why));
    }
    errors
}

fn dry_run_errors(values: &[String]) -> field::Errors {
    if values.iter().all(|value| value == "All") {
        return Vec::new();
    }
    vec![field::Error::not_supported(&Path::new("dryRun"), serde_json::Value::from(values.to_vec()), &["All"])]
}

/// The options of a DELETE, from its query; a body overrides them altogether.
pub fn delete_options(query: &Query) -> Result<DeleteOptions, ApiError> {
    let dry_run = query.all("dryRun");
    Ok(DeleteOptions {
        dry_run: (!dry_run.is_empty()).then(|| dry_run.to_vec()),
        grace_period_seconds: query.integer("gracePeriodSeconds")?,
        orphan_dependents: query.optional_flag("orphanDependents"),
        propagation_policy: query.get("propagationPolicy").map(str::to_owned),
        ..DeleteOptions::default()
    })
}

pub fn validate_delete(options: &DeleteOptions) -> Result<(), ApiError> {
    let path = Path::new("propagationPolicy");
    let mut errors = Vec::new();
    if let Some(policy) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(field::Error::invalid(&path, policy, why));
        }
        if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
            errors.push(field::Error::not_supported(&path, policy, &["Foreground", "Background", "Orphan", "nil"]));
        }
    }
    errors.extend(dry_run_errors(options.dry_run.as_deref().unwrap_or_default()));
    refuse("DeleteOptions", errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_maps() -> Row {
        let mut rows = wharf_registry::builtin::rows().into_iter();
        rows.find(|row| row.gvr.resource == "configmaps").expect("configmaps are built in")
    }

    fn check(query: &str, watch: bool, expected: Result<(), &str>) {
        let parsed = ListOptions::parse(&Query::parse(query), &config_maps(), watch);
        let got = parsed.map(drop).map_err(|error| error.message);
        assert_eq!(got, expected.map_err(str::to_owned), "{query}");
    }

    #[test]
    fn list_parameters_are_refused_in_upstreams_words() {
        check("limit=5&labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", false, Ok(()));
        check("resourceVersion=5&resourceVersionMatch=Exact", false, Ok(()));
        check(
            "resourceVersionMatch=Exact",
            false,
            Err(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
        );
        check(
            "sendInitialEvents=true",
            false,
            Err(
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ),
        );
        check(
            "sendInitialEvents=true",
            true,
            Err(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
        );
        check(
            "fieldSelector=spec.x%3D1",
            false,
            Err("\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        );
        check("fieldSelector=nonsense", false, Err("invalid selector: 'nonsense'; can't understand 'nonsense'"));
        check("limit=x", false, Err("strconv.ParseInt: parsing \"x\": invalid syntax"));
    }

    #[test]
    fn write_parameters_are_refused_in_upstreams_words() {
        let parse =
            |query: &str| WriteOptions::parse(&Query::parse(query), "CreateOptions").map_err(|error| error.message);
        assert!(parse("dryRun=All&fieldValidation=Strict").unwrap().dry_run);
        assert_eq!(
            parse("dryRun=Some").unwrap_err(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
        assert!(parse("fieldValidation=Loud").unwrap_err().contains("fieldValidation: Unsupported value: \"Loud\""));
    }
}
