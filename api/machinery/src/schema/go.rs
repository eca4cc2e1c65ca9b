//! What Go's structs say of their fields and k8s-openapi's schemas do not: which are pointers, which are written when they are
//! empty, their defaults, and the choices of an enum.
//!
//! It decides what protobuf's zeros mean, which empty structs server-side apply sees in an object, and what OpenAPI v3 adds.
//! The table beside this file is read off the struct definitions, json tags, `+default` and `+enum` markers of `k8s.io/api`,
//! `apimachinery` and `apiextensions-apiserver` v0.36, a type a line, parted by tabs. After a field's name stands what is said of it:
//! `{}` a struct that is always there; `+` a number or boolean that is left out when zero; `*` a text behind a pointer, where
//! empty is not absent; `=JSON` its default, `=` none although it is required; `|TYPE` an enum. Each value of an enum stands on the
//! enum's own line, `VALUE=` and what its comment says of it, in the order of `kube-openapi/pkg/generators/enum.go`.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What is said of one field. All empty where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// A struct that is no pointer: `{}` when it is empty.
    pub always: bool,
    /// A number or boolean that is no pointer and that JSON leaves out when it is zero.
    pub plain: bool,
    /// A text that can be there and empty.
    pub optional_text: bool,
    /// As JSON. Empty: none, although the field is required.
    pub default: Option<&'static str>,
    /// The enum's type.
    choices: Option<&'static str>,
}

impl Field {
    /// The values that the field can have, each with what it means.
    pub fn choices(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let line = self.choices.and_then(|name| LINES.get(name)).copied();
        line.into_iter().flat_map(|line| line.split('\t')).filter_map(|value| value.split_once('='))
    }
}

static LINES: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| include_str!("go.txt").lines().filter_map(|line| line.split_once('\t')).collect());

/// What is said of a field of the type, e.g. `io.k8s.api.core.v1.Container`.
pub fn field(owner: &str, name: &str) -> Field {
    let owner = owner.strip_prefix("io.k8s.").unwrap_or(owner);
    let mut field = Field::default();
    for said in
        LINES.get(owner).into_iter().flat_map(|line| line.split('\t')).filter_map(|said| said.strip_prefix(name))
    {
        match said.split_at_checked(1) {
            Some(("{", _)) => field.always = true,
            Some(("+", "")) => field.plain = true,
            Some(("*", "")) => field.optional_text = true,
            Some(("=", default)) => field.default = Some(default),
            Some(("|", choices)) => field.choices = Some(choices),
            // Another field, whose name begins alike.
            _ => {}
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    const CONTAINER: &str = "io.k8s.api.core.v1.Container";

    #[test]
    fn a_field_is_told_from_another_that_begins_alike() {
        assert!(field(CONTAINER, "stdin").plain && field(CONTAINER, "stdinOnce").plain);
        assert_eq!(field(CONTAINER, "std"), Field::default());
    }

    #[test]
    fn structs_defaults_and_choices_are_read() {
        assert!(field(CONTAINER, "resources").always);
        assert!(!field("io.k8s.api.core.v1.ContainerStatus", "resources").always);
        let policies: Vec<_> = field(CONTAINER, "imagePullPolicy").choices().map(|(value, _)| value).collect();
        assert_eq!(policies, ["Always", "IfNotPresent", "Never"]);
        let (_, meaning) = field("io.k8s.api.core.v1.ServiceSpec", "type").choices().next().expect("types of services");
        assert!(meaning.starts_with("means a service will only be accessible inside the cluster"), "{meaning}");
        assert_eq!(field("io.k8s.api.core.v1.ServicePort", "protocol").default, Some("\"TCP\""));
        assert!(field("io.k8s.api.core.v1.PodSpec", "runtimeClassName").optional_text);
    }

    #[test]
    fn every_type_that_we_have_has_the_fields_that_are_spoken_of() {
        for line in include_str!("go.txt").lines() {
            let (owner, said) = line.split_once('\t').expect("a type and its fields");
            let owner = format!("io.k8s.{owner}");
            for said in said.split('\t').filter(|_| types().knows(&owner)) {
                let name = said.split(['{', '+', '*', '=', '|']).next().unwrap_or_default();
                assert!(types().field(&owner, name).is_some(), "{owner} has no {name}");
                assert!(!said.contains('|') || field(&owner, name).choices().count() > 1, "{owner} {said}");
                let default = field(&owner, name).default.filter(|default| !default.is_empty());
                default.map(|json| serde_json::from_str::<serde_json::Value>(json).expect("a default is JSON"));
            }
        }
    }
}
