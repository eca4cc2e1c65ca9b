//! The v2 document as protobuf, which is the only form that client-go asks for.
//!
//! The message is gnostic's `openapi.v2.Document`; only fields that our documents use are written. Its wire format is so
//! small that a writer is less than a dependency. Field numbers: `gnostic/openapiv2/OpenAPIv2.proto`.

use serde_json::{Map, Value};

/// The media type that a reply in this form has.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How clients ask for it; with its `@` it is no media type that Go would parse in a reply.
pub const V2_PROTOBUF_ACCEPTED: [&str; 2] = [V2_PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"];

/// Encodes a document that [`super::v2`] has made.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    // In `Paths` the paths are field 2; extensions, of which there are none, are field 1.
    out.message(8, |paths| paths.named(2, &document["paths"], path_item));
    out.message(9, |definitions| definitions.named(1, &document["definitions"], schema));
    out.message(10, |shared| shared.named(1, &document["parameters"], either));
    for requirement in items(&document["security"]) {
        out.message(12, |out| out.named(1, requirement, |names, value| names.texts(1, value)));
    }
    out.message(13, |out| {
        out.named(1, &document["securityDefinitions"], |item, value| {
            item.message(2, |key| {
                key.text(1, &value["type"]);
                key.text(2, &value["name"]);
                key.text(3, &value["in"]);
                key.text(4, &value["description"]);
            });
        });
    });
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (number, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if let Some(value) = item.get(method) {
            out.message(number, |out| operation(out, value));
        }
    }
    for value in items(&item["parameters"]) {
        out.message(9, |out| parameter(out, value));
    }
}

fn operation(out: &mut Message, value: &Value) {
    out.texts(1, &value["tags"]);
    out.text(3, &value["description"]);
    out.text(5, &value["operationId"]);
    out.texts(6, &value["produces"]);
    out.texts(7, &value["consumes"]);
    for value in items(&value["parameters"]) {
        out.message(8, |out| parameter(out, value));
    }
    out.message(9, |responses| {
        responses.named(1, &value["responses"], |out, value| {
            out.message(1, |response| {
                response.text(1, &value["description"]);
                if let Some(value) = value.get("schema") {
                    response.message(2, |item| item.message(1, |out| schema(out, value)));
                }
            });
        });
    });
    out.texts(10, &value["schemes"]);
    out.extensions(13, value);
}

/// `ParametersItem { Parameter | JsonReference }`
fn parameter(out: &mut Message, value: &Value) {
    match value["$ref"].is_string() {
        true => out.message(2, |reference| reference.text(1, &value["$ref"])),
        false => out.message(1, |out| either(out, value)),
    }
}

/// `Parameter { BodyParameter | NonBodyParameter { query | path } }`
fn either(out: &mut Message, value: &Value) {
    match value["in"].as_str() {
        Some("body") => out.message(1, |body| {
            body.text(2, &value["name"]);
            body.text(3, &value["in"]);
            body.flag(4, &value["required"]);
            body.message(5, |out| schema(out, &value["schema"]));
        }),
        place => {
            // Query parameters have one field more than those in the path, so later numbers differ.
            let (kind, later) = if place == Some("path") { (4, 0) } else { (3, 1) };
            out.message(2, |out| {
                out.message(kind, |out| {
                    out.flag(1, &value["required"]);
                    out.text(2, &value["in"]);
                    out.text(3, &value["description"]);
                    out.text(4, &value["name"]);
                    out.text(5 + later, &value["type"]);
                    out.flag(19 + later, &value["uniqueItems"]);
                });
            });
        }
    }
}

fn schema(out: &mut Message, value: &Value) {
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(3, &value["title"]);
    out.text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.any(5, default);
    }
    out.text(13, &value["pattern"]);
    out.flag(16, &value["uniqueItems"]);
    out.texts(19, &value["required"]);
    for choice in items(&value["enum"]) {
        out.any(20, choice);
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => out.message(21, |item| item.varint_field(2, u64::from(*allowed))),
        Some(value) => out.message(21, |item| item.message(1, |out| schema(out, value))),
        None => {}
    }
    if value["type"].is_string() {
        out.message(22, |item| item.text(1, &value["type"]));
    }
    if let Some(value) = value.get("items") {
        out.message(23, |item| item.message(1, |out| schema(out, value)));
    }
    for value in items(&value["allOf"]) {
        out.message(24, |out| schema(out, value));
    }
    if value["properties"].is_object() {
        out.message(25, |out| out.named(1, &value["properties"], schema));
    }
    out.extensions(31, value);
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// A message being written. Absent and empty values are left out, as proto3 has it.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint_field(&mut self, number: u64, value: u64) {
        self.varint(number << 3 | VARINT);
        self.varint(value);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: &Value) {
        for text in items(value).iter().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint_field(number, 1);
        }
    }

    fn message(&mut self, number: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A map: one message of name and value for each entry.
    fn named(&mut self, number: u64, map: &Value, write: impl Fn(&mut Message, &Value)) {
        for (name, value) in map.as_object().unwrap_or(&Map::new()) {
            self.message(number, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |out| write(out, value));
            });
        }
    }

    /// A value of any kind, as YAML; JSON is YAML.
    fn any(&mut self, number: u64, value: &Value) {
        let yaml = format!("{value}\n");
        self.message(number, |any| any.bytes(2, yaml.as_bytes()));
    }

    fn extensions(&mut self, number: u64, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.message(number, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.any(2, value);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The fields of a message: numbers and, of those with a length, the bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (first, rest) = bytes.split_first().expect("a varint");
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                if first & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                VARINT => {
                    varint(&mut bytes);
                    &[][..]
                }
                LENGTH_DELIMITED => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    value
                }
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, value));
        }
        found
    }

    fn field<'a>(message: &'a [u8], path: &[u64]) -> &'a [u8] {
        path.iter().fold(message, |message, number| {
            fields(message).into_iter().find(|(found, _)| found == number).unwrap_or_else(|| panic!("no {number}")).1
        })
    }

    #[test]
    fn definitions_carry_types_references_and_extensions() {
        let long = "x".repeat(300);
        let document = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": {"A": {
            "description": long, "required": ["b"],
            "properties": {"b": {"type": "array", "items": {"$ref": "#/definitions/B"}, "x-kubernetes-list-type": "map"}},
        }}});
        let encoded = v2_protobuf(&document);
        let named = field(&encoded, &[9, 1]);
        assert_eq!(field(named, &[1]), b"A");
        let a = field(named, &[2]);
        assert_eq!(field(a, &[4]).len(), 300);
        assert_eq!(field(a, &[19]), b"b");
        let b = field(a, &[25, 1, 2]);
        assert_eq!(field(b, &[22, 1]), b"array");
        assert_eq!(field(b, &[23, 1, 1]), b"#/definitions/B");
        assert_eq!((field(b, &[31, 1]), field(b, &[31, 2, 2])), (&b"x-kubernetes-list-type"[..], &b"\"map\"\n"[..]));
    }

    #[test]
    fn operations_carry_parameters_and_replies() {
        let document = json!({"paths": {"/p": {"patch": {
            "operationId": "id",
            "parameters": [{"name": "q", "in": "query", "type": "string"}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}}},
        }}}});
        let operation = v2_protobuf(&document);
        let operation = field(&operation, &[8, 2, 2, 8]);
        assert_eq!(field(operation, &[5]), b"id");
        assert_eq!(field(operation, &[8, 1, 2, 3, 4]), b"q");
        assert_eq!(field(operation, &[8, 1, 2, 3, 6]), b"string");
        assert_eq!(field(operation, &[9, 1, 1]), b"200");
        assert_eq!(field(operation, &[9, 1, 2, 1, 2, 1, 1]), b"#/definitions/A");
    }
}
