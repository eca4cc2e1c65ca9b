//! IPAddresses: which Service has a cluster address. The name is the address.
//!
//! Source: `ValidateIPAddress` of `pkg/apis/networking/validation`. The API server makes them as Services take addresses.

use jiff::Timestamp;
use serde_json::Value;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::networking::v1::IPAddress;

use super::name;
use crate::checks;
use crate::strategy::{Column, NAME, Strategy};

#[derive(Debug)]
pub struct IPAddresses;

impl Strategy for IPAddresses {
    type Object = IPAddress;

    fn validate(&self, address: &IPAddress) -> Errors {
        let parent = &address.spec.parent_ref;
        let path = Path::new("spec").child("parentRef");
        let mut errors = Vec::new();
        if let Some(group) = parent.group.as_deref().filter(|group| !group.is_empty()) {
            errors.extend(checks::dns1123_subdomain(group, &path.child("group")));
        }
        for (field, value, required) in [
            ("resource", parent.resource.as_str(), true),
            ("name", parent.name.as_str(), true),
            ("namespace", parent.namespace.as_deref().unwrap_or_default(), false),
        ] {
            let path = path.child(field);
            match value {
                "" if required => errors.push(Error::required(&path, "")),
                value => errors.extend(checks::invalid(names::path_segment(value), &path, value)),
            }
        }
        errors
    }

    fn validate_update(&self, new: &IPAddress, old: &IPAddress) -> Errors {
        let path = Path::new("spec").child("parentRef");
        checks::immutable(&new.spec.parent_ref, &old.spec.parent_ref, &path)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        checks::strict_ip(name)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "ParentRef",
                "string",
                "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, address: &IPAddress, _now: Timestamp) -> Vec<Value> {
        let parent = &address.spec.parent_ref;
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut shown = parent.resource.to_lowercase();
        shown.extend(filled(&parent.group).map(|group| format!(".{}", group.to_lowercase())));
        shown.extend(filled(&parent.namespace).map(|namespace| format!("/{namespace}")));
        vec![name(&address.metadata), format!("{shown}/{}", parent.name).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const ADDRESS: &str =
        "{metadata: {name: 10.1.2.3}, spec: {parentRef: {resource: services, namespace: ns, name: web}}}";

    #[test]
    fn an_address_has_a_parent_that_stays() {
        check(&IPAddresses, ADDRESS, &[]);
        check(
            &IPAddresses,
            "{spec: {parentRef: {group: A, resource: '', name: a/b, namespace: '..'}}}",
            &[
                "spec.parentRef.group: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.parentRef.namespace: Invalid value: \"..\": may not be '..'",
            ],
        );
        check_update(
            &IPAddresses,
            ADDRESS,
            &ADDRESS.replace("name: web", "name: other"),
            &[
                "spec.parentRef: Invalid value: {\"name\":\"other\",\"namespace\":\"ns\",\"resource\":\"services\"}: field is immutable",
            ],
        );
    }

    #[test]
    fn the_name_is_an_address_in_its_one_form() {
        assert!(IPAddresses.validate_name("10.1.2.3").is_empty());
        assert_eq!(IPAddresses.validate_name("web"), [checks::NOT_AN_IP]);
        assert_eq!(IPAddresses.validate_name("2001:DB8::0"), ["must be in canonical form (\"2001:db8::\")"]);
    }

    #[test]
    fn cells_show_the_parent() {
        check_cells(&IPAddresses, ADDRESS, "10.1.2.3 | services/ns/web");
    }
}
