//! APIServices: which server answers for a version of a group; without a service, this one.
//!
//! Source: `k8s.io/kube-aggregator/pkg/apis/apiregistration/{v1,validation}`, `pkg/registry/apiservice`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus, ServiceReference,
};
use wharf_types::meta::Time;

use super::{created, name, rbac};
use crate::checks;
use crate::strategy::{AGE, Asked, Column, NAME, Strategy};

#[derive(Debug)]
pub struct APIServices;

const STATUSES: &[&str] = &["True", "False", "Unknown"];
const GROUP_PRIORITY_MAX: i32 = 20_000;
const VERSION_PRIORITY_MAX: i32 = 1000;
const PORT: i32 = 443;

impl Strategy for APIServices {
    type Object = APIService;

    fn default(&self, service: &mut APIService) {
        if let Some(reference) = service.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
            reference.port.get_or_insert(PORT);
        }
    }

    /// A local one is available by being there.
    fn prepare_for_create(&self, service: &mut APIService) {
        let local = service.spec.as_ref().is_none_or(|spec| spec.service.is_none());
        let conditions = local.then(|| vec![local_condition()]);
        service.status = Some(APIServiceStatus { conditions });
    }

    fn stamp(&self, service: &mut APIService, old: Option<&APIService>, asked: &Asked<'_>) {
        let conditions = service.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
        for condition in conditions.filter(|_| old.is_none()) {
            condition.last_transition_time.get_or_insert(Time(asked.now));
        }
    }

    fn prepare_for_update(&self, service: &mut APIService, old: &APIService) {
        service.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, service: &mut APIService, old: &APIService) {
        service.spec.clone_from(&old.spec);
        super::keep_meta(&mut service.metadata, &old.metadata);
    }

    fn validate(&self, service: &APIService) -> Errors {
        let (empty, path) = (APIServiceSpec::default(), Path::new("spec"));
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let mut errors = validate_own_name(service.metadata.name.as_deref().unwrap_or_default(), spec);
        let (group, version) = (spec.group.as_deref().unwrap_or_default(), spec.version.as_deref().unwrap_or_default());
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(Error::required(&path.child("group"), why));
        }
        if !group.is_empty() {
            errors.extend(checks::dns1123_subdomain(group, &path.child("group")));
        }
        errors.extend(checks::invalid(names::dns1035_label(version), &path.child("version"), version));
        for (priority, field, max) in [
            (spec.group_priority_minimum, "groupPriorityMinimum", GROUP_PRIORITY_MAX),
            (spec.version_priority, "versionPriority", VERSION_PRIORITY_MAX),
        ] {
            if !(1..=max).contains(&priority) {
                let why = format!("must be positive and less than {max}");
                errors.push(Error::invalid(&path.child(field), priority, why));
            }
        }
        errors.extend(match &spec.service {
            None => validate_local(spec, &path),
            Some(reference) => validate_remote(spec, reference, &path),
        });
        errors
    }

    fn validate_status_update(&self, new: &APIService, _old: &APIService) -> Errors {
        let path = Path::new("status").child("conditions");
        let conditions = new.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let check = |(index, condition): (usize, &APIServiceCondition)| {
            checks::one_of(&condition.status, STATUSES, &path.index(index).child("status"))
        };
        conditions.enumerate().flat_map(check).collect()
    }

    /// The name is fixed by the spec; see `validate`.
    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new("Service", "string", "The reference to the service that hosts this API endpoint."),
            Column::new("Available", "string", "Whether this service is available."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, service: &APIService, now: Timestamp) -> Vec<Value> {
        let reference = service.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let shown = reference.map_or_else(
            || "Local".to_owned(),
            |service| {
                let part = |part: &Option<String>| part.clone().unwrap_or_default();
                format!("{}/{}", part(&service.namespace), part(&service.name))
            },
        );
        vec![name(&service.metadata), shown.into(), available(service).into(), created(&service.metadata, now)]
    }
}

/// What the condition of a local APIService says, but since when.
fn local_condition() -> APIServiceCondition {
    APIServiceCondition {
        type_: "Available".to_owned(),
        status: "True".to_owned(),
        reason: Some("Local".to_owned()),
        message: Some("Local APIServices are always available".to_owned()),
        last_transition_time: None,
    }
}

/// `True`, or why not.
fn available(service: &APIService) -> String {
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    match conditions.into_iter().find(|condition| condition.type_ == "Available") {
        None => "Unknown".to_owned(),
        Some(condition) if condition.status == "True" => condition.status.clone(),
        Some(condition) => {
            format!("{} ({})", condition.status, condition.reason.as_deref().unwrap_or_default())
        }
    }
}

/// `v1.apps`; with a generated name there is none that could be right.
fn validate_own_name(own: &str, spec: &APIServiceSpec) -> Errors {
    let path = Path::new("metadata").child("name");
    if own.is_empty() {
        return Vec::new();
    }
    let bad = rbac::validate_name(own);
    if !bad.is_empty() {
        return checks::invalid(bad, &path, own);
    }
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let wanted = format!("{}.{}", part(&spec.version), part(&spec.group));
    if own == wanted {
        return Vec::new();
    }
    vec![Error::invalid(&path, own, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"))]
}

fn validate_local(spec: &APIServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    if bundle > 0 {
        let why = "local APIServices may not have a caBundle";
        errors.push(Error::invalid(&path.child("caBundle"), format!("{bundle} bytes"), why));
    }
    if spec.insecure_skip_tls_verify == Some(true) {
        let why = "local APIServices may not have insecureSkipTLSVerify";
        errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, why));
    }
    errors
}

fn validate_remote(spec: &APIServiceSpec, service: &ServiceReference, path: &Path) -> Errors {
    let at = path.child("service");
    let mut errors = Vec::new();
    for (value, field) in [(&service.namespace, "namespace"), (&service.name, "name")] {
        if value.as_deref().unwrap_or_default().is_empty() {
            errors.push(Error::required(&at.child(field), ""));
        }
    }
    let port = service.port.unwrap_or_default();
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&at.child("port"), port, why));
    }
    let bundled = spec.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty());
    if bundled && spec.insecure_skip_tls_verify == Some(true) {
        let why = "may not be true if caBundle is present";
        errors.push(Error::invalid(&path.child("insecureSkipTLSVerify"), true, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, created};

    const LOCAL: &str = "{metadata: {name: v1.apps}, spec: {group: apps, version: v1, groupPriorityMinimum: 17800, versionPriority: 15}}";
    const REMOTE: &str = "{metadata: {name: v1.example.com}, spec: {group: example.com, version: v1, groupPriorityMinimum: 1, versionPriority: 1, service: {namespace: n, name: s}}}";

    #[test]
    fn a_name_is_version_and_group() {
        check(&APIServices, LOCAL, &[]);
        check(
            &APIServices,
            &LOCAL.replace("name: v1.apps", "name: mine"),
            &["metadata.name: Invalid value: \"mine\": must be `spec.version+\".\"+spec.group`: \"v1.apps\""],
        );
        check(
            &APIServices,
            "{metadata: {name: v2.}, spec: {version: v2, groupPriorityMinimum: 20001, versionPriority: 0}}",
            &[
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
            ],
        );
    }

    #[test]
    fn trust_is_for_remote_servers() {
        check(
            &APIServices,
            &LOCAL.replace("version: v1,", "version: v1, caBundle: aGVsbG8=, insecureSkipTLSVerify: true,"),
            &[
                "spec.caBundle: Invalid value: \"5 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
            ],
        );
        check(
            &APIServices,
            &REMOTE
                .replace("{namespace: n, name: s}", "{port: 70000}, caBundle: aGVsbG8=, insecureSkipTLSVerify: true"),
            &[
                "spec.service.namespace: Required value",
                "spec.service.name: Required value",
                "spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ],
        );
    }

    #[test]
    fn a_local_one_is_available_at_once() {
        created(
            &APIServices,
            LOCAL,
            r#"{"metadata": {"name": "v1.apps"},
                "spec": {"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15},
                "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                    "message": "Local APIServices are always available"}]}}"#,
        );
    }

    #[test]
    fn services_show_who_answers() {
        check_cells(&APIServices, LOCAL, "v1.apps | Local | Unknown | <unknown>");
        let down = REMOTE.replace(
            "spec:",
            "status: {conditions: [{type: Available, status: 'False', reason: MissingEndpoints}]}, spec:",
        );
        check_cells(&APIServices, &down, "v1.example.com | n/s | False (MissingEndpoints) | <unknown>");
    }
}
