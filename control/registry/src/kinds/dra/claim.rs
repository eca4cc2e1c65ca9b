//! ResourceClaims: devices that somebody asks for, and those that they got.
//!
//! Source: `pkg/apis/resource/{v1,validation}`, `pkg/registry/resource/resourceclaim`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{
    DeviceClaim, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceToleration, ResourceClaim, ResourceClaimSpec,
    ResourceClaimStatus,
};

use super::super::{created, name};
use super::{
    CONFIG_MAX, default_tolerations, each, each_once, status, validate_config, validate_fully_qualified,
    validate_selectors, validate_toleration,
};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ResourceClaims;

pub const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const TOLERATIONS_MAX: usize = 16;
const EXACT: &str = "ExactCount";
const ALL: &str = "All";
const NOT_A_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

impl Strategy for ResourceClaims {
    type Object = ResourceClaim;

    fn default(&self, claim: &mut ResourceClaim) {
        default_spec(&mut claim.spec);
    }

    fn prepare_for_create(&self, claim: &mut ResourceClaim) {
        claim.status = Some(ResourceClaimStatus::default());
    }

    fn prepare_for_update(&self, claim: &mut ResourceClaim, old: &ResourceClaim) {
        claim.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, claim: &mut ResourceClaim, old: &ResourceClaim) {
        claim.spec.clone_from(&old.spec);
        super::super::keep_meta(&mut claim.metadata, &old.metadata);
        let held = old.status.clone().unwrap_or_default();
        status::drop_deallocated(claim.status.get_or_insert_default(), &held);
    }

    fn validate(&self, claim: &ResourceClaim) -> Errors {
        validate_spec(&claim.spec, &Path::new("spec"))
    }

    fn validate_update(&self, new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        checks::immutable(&new.spec, &old.spec, &Path::new("spec"))
    }

    fn validate_status_update(&self, new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        let requests = Requests::of(new.spec.devices.as_ref());
        status::validate_update(new, old, &requests, &Path::new("status"))
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        vec![name(&claim.metadata), state(claim).into(), created(&claim.metadata, now)]
    }
}

/// `allocated,reserved`
fn state(claim: &ResourceClaim) -> String {
    let status = claim.status.as_ref();
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    let reserved = status.is_some_and(|status| status.reserved_for.as_ref().is_some_and(|pods| !pods.is_empty()));
    let words = [
        (claim.metadata.deletion_timestamp.is_some(), "deleted"),
        (allocated, "allocated"),
        (allocated && reserved, "reserved"),
        (!allocated, "pending"),
    ];
    words.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word).collect::<Vec<_>>().join(",")
}

pub fn default_spec(spec: &mut ResourceClaimSpec) {
    for request in spec.devices.iter_mut().flat_map(|devices| devices.requests.iter_mut().flatten()) {
        if let Some(exact) = &mut request.exactly {
            default_count(&mut exact.allocation_mode, &mut exact.count);
            default_tolerations(exact.tolerations.as_mut());
        }
        for alternative in request.first_available.iter_mut().flatten() {
            default_count(&mut alternative.allocation_mode, &mut alternative.count);
            default_tolerations(alternative.tolerations.as_mut());
        }
    }
}

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    let mode = mode.get_or_insert_default();
    if mode.is_empty() {
        *mode = EXACT.to_owned();
    }
    if mode == EXACT && count.is_none_or(|count| count == 0) {
        *count = Some(1);
    }
}

/// The names of a claim's requests, each with those of its alternatives.
pub struct Requests<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Requests<'a> {
    pub fn of(claim: Option<&'a DeviceClaim>) -> Self {
        let requests = claim.into_iter().flat_map(|claim| claim.requests.iter().flatten());
        let named = requests.map(|request| {
            let alternatives = request.first_available.iter().flatten();
            (request.name.as_str(), alternatives.map(|alternative| alternative.name.as_str()).collect())
        });
        Self(named.collect())
    }

    /// Checks what may be `request` or `request/alternative`.
    pub fn check(&self, name: &str, path: &Path) -> Errors {
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            return vec![Error::invalid(path, name, NOT_A_REQUEST)];
        }
        let mut errors: Errors = parts.iter().flat_map(|part| checks::dns1123_label(part, path)).collect();
        let alternatives = self.0.get(parts[0]);
        let found = alternatives.is_some_and(|all| parts.get(1).is_none_or(|second| all.contains(second)));
        if !found {
            errors.push(Error::invalid(path, name, NOT_A_REQUEST));
        }
        errors
    }

    pub fn check_all(&self, names: Option<&Vec<String>>, path: &Path) -> Errors {
        let names = names.map(Vec::as_slice).unwrap_or_default();
        each_once(names, REQUESTS_MAX, path, String::clone, |name, path| self.check(name, path))
    }
}

pub fn validate_spec(spec: &ResourceClaimSpec, path: &Path) -> Errors {
    let Some(claim) = &spec.devices else { return Vec::new() };
    let (path, requests) = (path.child("devices"), Requests::of(Some(claim)));
    let all = claim.requests.as_deref().unwrap_or_default();
    let mut errors =
        each_once(all, REQUESTS_MAX, &path.child("requests"), |request| request.name.clone(), validate_request);
    let constraints = claim.constraints.as_deref().unwrap_or_default();
    errors.extend(each(constraints, CONSTRAINTS_MAX, &path.child("constraints"), |constraint, path| {
        validate_constraint(constraint, &requests, path)
    }));
    let configs = claim.config.as_deref().unwrap_or_default();
    errors.extend(each(configs, CONFIG_MAX, &path.child("config"), |config, path| {
        let mut errors = requests.check_all(config.requests.as_ref(), &path.child("requests"));
        errors.extend(validate_config(config.opaque.as_ref(), path));
        errors
    }));
    errors
}

fn validate_request(request: &DeviceRequest, path: &Path) -> Errors {
    let mut errors = checks::dns1123_label(&request.name, &path.child("name"));
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    match (&request.exactly, alternatives.is_empty()) {
        (None, true) => {
            errors.push(Error::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
        }
        (Some(_), false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(Error::invalid(path, Value::Null, why));
        }
        (Some(exact), true) => {
            let asked = Asked {
                class: &exact.device_class_name,
                selectors: exact.selectors.as_deref().unwrap_or_default(),
                mode: exact.allocation_mode.as_deref().unwrap_or_default(),
                count: exact.count.unwrap_or_default(),
                tolerations: exact.tolerations.as_deref().unwrap_or_default(),
            };
            errors.extend(asked.validate(&path.child("exactly")));
        }
        (None, false) => {
            let at = path.child("firstAvailable");
            let key = |alternative: &wharf_types::k8s::api::resource::v1::DeviceSubRequest| alternative.name.clone();
            errors.extend(each_once(alternatives, ALTERNATIVES_MAX, &at, key, |alternative, path| {
                let mut errors = checks::dns1123_label(&alternative.name, &path.child("name"));
                let asked = Asked {
                    class: &alternative.device_class_name,
                    selectors: alternative.selectors.as_deref().unwrap_or_default(),
                    mode: alternative.allocation_mode.as_deref().unwrap_or_default(),
                    count: alternative.count.unwrap_or_default(),
                    tolerations: alternative.tolerations.as_deref().unwrap_or_default(),
                };
                errors.extend(asked.validate(path));
                errors
            }));
        }
    }
    errors
}

/// What a request and each of its alternatives say.
struct Asked<'a> {
    class: &'a str,
    selectors: &'a [DeviceSelector],
    mode: &'a str,
    count: i64,
    tolerations: &'a [DeviceToleration],
}

impl Asked<'_> {
    fn validate(&self, path: &Path) -> Errors {
        let at = path.child("deviceClassName");
        let mut errors = match self.class {
            "" => vec![Error::required(&at, "")],
            class => checks::dns1123_subdomain(class, &at),
        };
        errors.extend(validate_selectors(self.selectors, &path.child("selectors")));
        let at = path.child("count");
        match (self.mode, self.count) {
            (ALL, 0) | (EXACT, 1..) => {}
            (ALL, count) => {
                let why = format!("must not be specified when allocationMode is '{ALL}'");
                errors.push(Error::invalid(&at, count, why));
            }
            (EXACT, count) => errors.push(Error::invalid(&at, count, "must be greater than zero")),
            (mode, _) => errors.push(Error::not_supported(&path.child("allocationMode"), mode, &[ALL, EXACT])),
        }
        let at = path.child("tolerations");
        errors.extend(each(self.tolerations, TOLERATIONS_MAX, &at, validate_toleration));
        errors
    }
}

fn validate_constraint(constraint: &DeviceConstraint, requests: &Requests<'_>, path: &Path) -> Errors {
    let mut errors = requests.check_all(constraint.requests.as_ref(), &path.child("requests"));
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => errors.extend(validate_fully_qualified(name, &path.child("matchAttribute"))),
        (None, Some(name)) => errors.extend(validate_fully_qualified(name, &path.child("distinctAttribute"))),
        (None, None) => {
            // Upstream's words, though nothing is set.
            let why =
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(Error::required(path, why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update, created};

    fn claim(devices: &str) -> String {
        format!("{{metadata: {{name: c}}, spec: {{devices: {devices}}}}}")
    }

    const ONE: &str = "{requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com}}]}";

    #[test]
    fn a_claim_asks_for_one_device_unless_it_says_more() {
        created(
            &ResourceClaims,
            &claim(ONE),
            r#"{"metadata": {"name": "c"}, "status": {}, "spec": {"devices": {"requests": [{"name": "gpu",
                "exactly": {"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1}}]}}}"#,
        );
    }

    #[test]
    fn requests_have_names_and_one_form() {
        check(&ResourceClaims, &claim(ONE), &[]);
        check_starts(
            &ResourceClaims,
            &claim(
                "{requests: [{name: a}, {name: a, exactly: {deviceClassName: '', allocationMode: All, count: 2}}, {name: B, exactly: {deviceClassName: c, allocationMode: Some}}]}",
            ),
            &[
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].exactly.deviceClassName: Required value",
                "spec.devices.requests[1].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[2].name: Invalid value: \"B\": a lowercase RFC 1123 label",
                "spec.devices.requests[2].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
            ],
        );
    }

    #[test]
    fn expressions_are_compiled() {
        let with = |expression: &str| {
            claim(&format!(
                "{{requests: [{{name: a, exactly: {{deviceClassName: c, selectors: [{{cel: {{expression: '{expression}'}}}}]}}}}]}}"
            ))
        };
        check(&ResourceClaims, &with("device.driver == \"gpu.example.com\""), &[]);
        check_starts(
            &ResourceClaims,
            &with("device.driver =="),
            &[
                "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \"device.driver ==\": compilation failed",
            ],
        );
    }

    #[test]
    fn constraints_are_about_requests_of_the_claim() {
        check(
            &ResourceClaims,
            &claim(
                "{requests: [{name: a, firstAvailable: [{name: x, deviceClassName: c}]}], constraints: [{requests: [a, a/x, a/y, b], matchAttribute: model}, {}]}",
            ),
            &[
                &format!("spec.devices.constraints[0].requests[2]: Invalid value: \"a/y\": {NOT_A_REQUEST}"),
                &format!("spec.devices.constraints[0].requests[3]: Invalid value: \"b\": {NOT_A_REQUEST}"),
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
                "spec.devices.constraints[1]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ],
        );
    }

    #[test]
    fn a_claim_stays_what_it_is() {
        check_update(&ResourceClaims, &claim(ONE), &claim(ONE), &[]);
        check_update(
            &ResourceClaims,
            &claim(ONE),
            &claim("{}"),
            &["spec: Invalid value: {\"devices\":{}}: field is immutable"],
        );
    }

    #[test]
    fn claims_show_their_state() {
        check_cells(&ResourceClaims, &claim(ONE), "c | pending | <unknown>");
        let allocated = claim(ONE)
            .replace("spec:", "status: {allocation: {}, reservedFor: [{resource: pods, name: p, uid: u}]}, spec:");
        check_cells(&ResourceClaims, &allocated, "c | allocated,reserved | <unknown>");
    }
}
