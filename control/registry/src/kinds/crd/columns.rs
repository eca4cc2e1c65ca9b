//! Printer columns, subresources and selectable fields of a version.

use wharf_machinery::jsonpath::JsonPath;
use wharf_machinery::structural::Schema;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinitionVersion, CustomResourceSubresourceScale, SelectableField,
};

const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Most selectable fields of a version: upstream's `MaxSelectableFields`.
const SELECTABLE_MAX: usize = 8;

pub fn validate(version: &CustomResourceDefinitionVersion, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (index, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        errors.extend(one_column(column, &path.child("additionalPrinterColumns").index(index)));
    }
    if let Some(scale) = version.subresources.as_ref().and_then(|named| named.scale.as_ref()) {
        errors.extend(scale_paths(scale, &path.child("subresources").child("scale")));
    }
    if let Some(fields) = &version.selectable_fields {
        let schema = crate::custom::schema_of(version).map(|schema| Schema::new(&schema)).unwrap_or_default();
        errors.extend(selectable(fields, &schema, &path.child("selectableFields")));
    }
    errors
}

fn one_column(column: &CustomResourceColumnDefinition, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if column.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let kind = column.type_.as_str();
    if kind.is_empty() {
        errors.push(Error::required(&path.child("type"), format!("must be one of {}", TYPES.join(","))));
    } else if !TYPES.contains(&kind) {
        errors.push(Error::invalid(&path.child("type"), kind, format!("must be one of {}", TYPES.join(","))));
    }
    let format = column.format.as_deref().unwrap_or_default();
    if !format.is_empty() && !FORMATS.contains(&format) {
        errors.push(Error::invalid(&path.child("format"), format, format!("must be one of {}", FORMATS.join(","))));
    }
    let written = column.json_path.as_str();
    let at = path.child("jsonPath");
    if written.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if !written.starts_with('.') || written == "." {
        errors.push(Error::invalid(&at, written, "must be a simple json path starting with ."));
    } else if let Err(error) = JsonPath::parse(written) {
        errors.push(Error::invalid(&at, written, format!("must be a simple json path: {error}")));
    }
    errors
}

fn scale_paths(scale: &CustomResourceSubresourceScale, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut check = |field: &str, written: &str, under: &[&str], required: bool| {
        let at = path.child(field);
        let places = under.join(" or ");
        if written.is_empty() {
            if required {
                errors.push(Error::required(&at, format!("should be a json path under {places}")));
            }
        } else if !is_field_path(written) {
            errors.push(Error::invalid(&at, written, "must be a simple json path starting with ."));
        } else if !under.iter().any(|place| written.starts_with(&format!("{place}."))) {
            errors.push(Error::invalid(&at, written, format!("should be a json path under {places}")));
        }
    };
    check("specReplicasPath", &scale.spec_replicas_path, &[".spec"], true);
    check("statusReplicasPath", &scale.status_replicas_path, &[".status"], true);
    let selector = scale.label_selector_path.as_deref().unwrap_or_default();
    check("labelSelectorPath", selector, &[".spec", ".status"], false);
    errors
}

fn is_field_path(written: &str) -> bool {
    written.starts_with('.')
        && JsonPath::parse(written).is_ok_and(|path| path.fields().is_some_and(|names| !names.is_empty()))
}

fn selectable(fields: &[SelectableField], schema: &Schema, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if fields.len() > SELECTABLE_MAX {
        errors.push(Error::too_many(path, fields.len(), SELECTABLE_MAX));
    }
    for (index, field) in fields.iter().enumerate() {
        let at = path.index(index).child("jsonPath");
        let written = field.json_path.as_str();
        if written.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        if fields[..index].iter().any(|other| other.json_path == written) {
            errors.push(Error::duplicate(&path.index(index), written));
        }
        let parsed = JsonPath::parse(written).ok().filter(|_| written.starts_with('.'));
        let Some(names) = parsed.as_ref().and_then(JsonPath::fields) else {
            errors.push(Error::invalid(&at, written, "is an invalid path: does not refer to a valid field"));
            continue;
        };
        if names.first() == Some(&"metadata") {
            errors.push(Error::invalid(&at, written, "must not point to fields in metadata"));
            continue;
        }
        let mut node = Some(schema);
        for name in names {
            node = node.and_then(|node| node.properties.get(name));
        }
        match node {
            None => errors.push(Error::invalid(&at, written, "is an invalid path: does not refer to a valid field")),
            Some(node) if !matches!(node.kind.as_str(), "string" | "boolean" | "integer") => {
                let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                errors.push(Error::invalid(&at, written, why));
            }
            Some(_) => {}
        }
    }
    errors
}
