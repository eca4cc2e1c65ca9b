//! What a definition's spec must hold, and what an update may not change.
//!
//! Source: `apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go`.

use std::collections::BTreeSet;

use wharf_machinery::names::{dns1035_label, dns1123_subdomain};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, WebhookClientConfig,
};

use super::{columns, names, schema};
use crate::checks::{immutable, json};

pub fn validate(spec: &CustomResourceDefinitionSpec, path: &Path) -> Errors {
    let mut errors = group(&spec.group, &path.child("group"));
    match spec.scope.as_str() {
        "" => errors.push(Error::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    if spec.preserve_unknown_fields == Some(true) {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(Error::invalid(&path.child("preserveUnknownFields"), true, why));
    }
    errors.extend(versions(spec, &path.child("versions")));
    errors.extend(names::required(&spec.names, &path.child("names")));
    errors.extend(names::validate(&spec.names, &path.child("names")));
    errors.extend(conversion(spec.conversion.as_ref(), &path.child("conversion")));
    errors
}

fn group(group: &str, path: &Path) -> Errors {
    if group.is_empty() {
        return vec![Error::required(path, "")];
    }
    let found = dns1123_subdomain(group);
    if !found.is_empty() {
        return vec![Error::invalid(path, group, found.join(","))];
    }
    let bare = !group.contains('.');
    bare.then(|| Error::invalid(path, group, "should be a domain with at least one dot")).into_iter().collect()
}

fn versions(spec: &CustomResourceDefinitionSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let held = &spec.versions;
    for (index, version) in held.iter().enumerate() {
        errors.extend(one_version(version, &path.index(index)));
    }
    let unique: BTreeSet<&str> = held.iter().map(|version| version.name.as_str()).collect();
    if unique.len() != held.len() {
        errors.push(Error::invalid(path, json(held), "must contain unique version names"));
    }
    if held.iter().filter(|version| version.storage).count() != 1 {
        errors.push(Error::invalid(path, json(held), "must have exactly one version marked as storage version"));
    }
    errors
}

fn one_version(version: &CustomResourceDefinitionVersion, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let found = dns1035_label(&version.name);
    if !found.is_empty() {
        errors.push(Error::invalid(&path.child("name"), &version.name, found.join(",")));
    }
    if let Some(warning) = &version.deprecation_warning {
        errors.extend(deprecation(version.deprecated == Some(true), warning, &path.child("deprecationWarning")));
    }
    let at = path.child("schema").child("openAPIV3Schema");
    let has_status = version.subresources.as_ref().is_some_and(|named| named.status.is_some());
    match crate::custom::schema_of(version) {
        Some(written) => errors.extend(schema::validate(&written, has_status, &at)),
        None => errors.push(Error::required(&at, "schemas are required")),
    }
    errors.extend(columns::validate(version, path));
    errors
}

fn deprecation(deprecated: bool, warning: &str, path: &Path) -> Errors {
    const MAX: usize = 256;
    let why = if !deprecated {
        "can only be set for deprecated versions"
    } else if warning.is_empty() {
        "must not be empty"
    } else if warning.chars().any(|letter| letter.is_control()) {
        "must only contain printable UTF-8 characters; non-printable characters found at indices"
    } else if warning.len() > MAX {
        return vec![Error::too_long(path, MAX)];
    } else {
        return Vec::new();
    };
    vec![Error::invalid(path, warning, why)]
}

fn conversion(conversion: Option<&CustomResourceConversion>, path: &Path) -> Errors {
    let Some(conversion) = conversion else { return Vec::new() };
    let mut errors = Vec::new();
    match conversion.strategy.as_str() {
        "" => errors.push(Error::required(&path.child("strategy"), "")),
        "None" => {
            if conversion.webhook.is_some() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(Error::forbidden(&path.child("webhook"), why));
            }
        }
        "Webhook" => {
            let webhook = conversion.webhook.as_ref();
            match webhook.and_then(|webhook| webhook.client_config.as_ref()) {
                Some(client) => errors.extend(client_config(client, &path.child("webhook").child("clientConfig"))),
                None => errors.push(Error::required(
                    &path.child("webhook").child("clientConfig"),
                    "required when strategy is set to Webhook",
                )),
            }
            let versions = webhook.map(|webhook| webhook.conversion_review_versions.as_slice()).unwrap_or_default();
            errors.extend(review_versions(versions, &path.child("webhook").child("conversionReviewVersions")));
        }
        other => errors.push(Error::not_supported(&path.child("strategy"), other, &["None", "Webhook"])),
    }
    errors
}

fn review_versions(versions: &[String], path: &Path) -> Errors {
    const ACCEPTED: [&str; 2] = ["v1", "v1beta1"];
    if versions.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            errors.push(Error::invalid(&path.index(index), version, "duplicate version"));
        }
        let found = dns1035_label(version);
        if !found.is_empty() {
            errors.push(Error::invalid(&path.index(index), version, found.join(",")));
        }
    }
    if errors.is_empty() && !versions.iter().any(|version| ACCEPTED.contains(&version.as_str())) {
        let why = format!("must include at least one of {}", ACCEPTED.join(", "));
        errors.push(Error::invalid(path, json(&versions), why));
    }
    errors
}

fn client_config(client: &WebhookClientConfig, path: &Path) -> Errors {
    match (&client.url, &client.service) {
        (Some(url), None) => {
            let path = path.child("url");
            if url.starts_with("https://") && url.len() > "https://".len() {
                Vec::new()
            } else if url.contains("://") {
                vec![Error::invalid(
                    &path,
                    url,
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                )]
            } else {
                vec![Error::invalid(&path, url, "url must be a valid URL; desired format: https://host[/path]")]
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            let mut errors = Vec::new();
            for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                if value.is_empty() {
                    errors.push(Error::required(&path.child(field), format!("service {field} is required")));
                }
            }
            if let Some(route) = service.path.as_deref().filter(|route| !route.starts_with('/')) {
                errors.push(Error::invalid(&path.child("path"), route, "must start with a '/'"));
            }
            if let Some(port) = service.port.filter(|port| !(1..=65535).contains(port)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(Error::invalid(&path.child("port"), port, why));
            }
            errors
        }
        _ => vec![Error::required(&path.child("url"), "exactly one of url or service is required")],
    }
}

pub fn validate_update(
    spec: &CustomResourceDefinitionSpec,
    old: &CustomResourceDefinitionSpec,
    established: bool,
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    if established {
        // They are part of what is stored.
        errors.extend(immutable(&spec.scope, &old.scope, &path.child("scope")));
        errors.extend(immutable(&spec.names.kind, &old.names.kind, &path.child("names").child("kind")));
    }
    errors.extend(immutable(&spec.group, &old.group, &path.child("group")));
    errors.extend(immutable(&spec.names.plural, &old.names.plural, &path.child("names").child("plural")));
    errors
}
