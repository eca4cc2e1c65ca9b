//! Version 3 made of a version 2 document, for servers that publish no other.
//!
//! Source: `kube-openapi/pkg/openapiconv`, as kube-aggregator uses it. What is lost is lost there too: value types that version 2
//! has no words for. Parameters that the document shares are written out where they are used.

use serde_json::{Map, Value, json};

use super::schemas;

const V2_RESPONSES: &str = "#/responses/";
const V3_RESPONSES: &str = "#/components/responses/";
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// The document in version 3.
pub fn v2_to_v3(v2: &Value) -> Value {
    let mut components = Map::new();
    if let Some(definitions) = v2.get("definitions") {
        let mut definitions = definitions.clone();
        schemas::refer_v3(&mut definitions);
        components.insert("schemas".to_owned(), definitions);
    }
    if let Some(held) = v2["securityDefinitions"].as_object() {
        let schemes = held.iter().map(|(name, scheme)| (name.clone(), security_scheme(scheme)));
        components.insert("securitySchemes".to_owned(), schemes.collect::<Map<_, _>>().into());
    }
    if let Some(held) = v2["responses"].as_object() {
        let produces = texts(&v2["produces"]);
        let responses = held.iter().map(|(name, held)| (name.clone(), response(held, &produces)));
        components.insert("responses".to_owned(), responses.collect::<Map<_, _>>().into());
    }
    let paths: Map<String, Value> =
        entries(&v2["paths"]).map(|(path, item)| (path.clone(), path_item(item, &v2["parameters"]))).collect();
    let mut v3 = json!({ "openapi": "3.0.0", "info": v2["info"], "paths": paths, "components": components });
    copy(v2, &mut v3, &["externalDocs"]);
    v3
}

fn path_item(v2: &Value, shared: &Value) -> Value {
    let mut v3 = extensions(v2);
    for (method, operation) in METHODS.into_iter().filter_map(|method| Some((method, v2.get(method)?))) {
        v3[method] = self::operation(operation, shared);
    }
    let parameters = list(&v2["parameters"]).iter().map(|one| parameter(written_out(one, shared)));
    let parameters: Vec<Value> = parameters.collect();
    if !parameters.is_empty() {
        v3["parameters"] = parameters.into();
    }
    v3
}

fn operation(v2: &Value, shared: &Value) -> Value {
    let mut v3 = extensions(v2);
    copy(v2, &mut v3, &["tags", "summary", "description", "externalDocs", "operationId", "deprecated"]);
    let mut parameters = Vec::new();
    for one in list(&v2["parameters"]).iter().map(|one| written_out(one, shared)) {
        match one.get("schema") {
            Some(schema) if one["name"] == "body" => {
                v3["requestBody"] = json!({ "content": content(&texts(&v2["consumes"]), schema) });
            }
            _ => parameters.push(parameter(one)),
        }
    }
    if !parameters.is_empty() {
        v3["parameters"] = parameters.into();
    }
    let produces = texts(&v2["produces"]);
    v3["responses"] = entries(&v2["responses"])
        .map(|(code, held)| match code.starts_with("x-") {
            true => (code.clone(), held.clone()),
            false => (code.clone(), response(held, &produces)),
        })
        .collect::<Map<_, _>>()
        .into();
    v3
}

fn response(v2: &Value, produces: &[&str]) -> Value {
    let mut v3 = extensions(v2);
    copy(v2, &mut v3, &["description"]);
    if let Some(reference) = v2["$ref"].as_str() {
        v3["$ref"] = reference.replacen(V2_RESPONSES, V3_RESPONSES, 1).into();
    }
    if let Some(schema) = v2.get("schema") {
        v3["content"] = content(produces, schema);
    }
    v3
}

fn content(media: &[&str], schema: &Value) -> Value {
    let mut schema = schema.clone();
    schemas::refer_v3(&mut schema);
    media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
}

/// Type and format are a schema now.
fn parameter(v2: &Value) -> Value {
    let mut v3 = extensions(v2);
    copy(v2, &mut v3, &["name", "in", "description", "required", "allowEmptyValue"]);
    let mut schema = v2.get("schema").cloned().unwrap_or_else(|| {
        let mut schema = json!({});
        copy(v2, &mut schema, &["type", "format", "uniqueItems"]);
        schema
    });
    schemas::refer_v3(&mut schema);
    v3["schema"] = schema;
    v3
}

fn written_out<'a>(parameter: &'a Value, shared: &'a Value) -> &'a Value {
    let named = parameter["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/parameters/"));
    named.and_then(|name| shared.get(name)).unwrap_or(parameter)
}

fn security_scheme(v2: &Value) -> Value {
    let mut v3 = extensions(v2);
    copy(v2, &mut v3, &["description", "type", "name", "in"]);
    if let Some(flow) = v2["flow"].as_str().filter(|flow| !flow.is_empty()) {
        let mut told = json!({});
        copy(v2, &mut told, &["authorizationUrl", "tokenUrl", "scopes"]);
        v3["flows"] = json!({ flow: told });
    }
    v3
}

fn extensions(of: &Value) -> Value {
    let found = entries(of).filter(|(name, _)| name.starts_with("x-"));
    found.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
}

fn copy(from: &Value, to: &mut Value, fields: &[&str]) {
    for (field, value) in fields.iter().filter_map(|field| Some((*field, from.get(field)?))) {
        to[field] = value.clone();
    }
}

fn entries(of: &Value) -> impl Iterator<Item = (&String, &Value)> {
    of.as_object().into_iter().flatten()
}

fn list(of: &Value) -> &[Value] {
    of.as_array().map_or(&[], Vec::as_slice)
}

fn texts(of: &Value) -> Vec<&str> {
    list(of).iter().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flunders() -> Value {
        json!({
            "swagger": "2.0",
            "info": {"title": "Wardle", "version": "v0.1.0"},
            "paths": {"/apis/wardle/v1/flunders": {
                "parameters": [{"$ref": "#/parameters/pretty-1"}],
                "post": {
                    "operationId": "createWardleV1Flunder", "x-kubernetes-action": "post",
                    "consumes": ["application/json"], "produces": ["application/json", "application/yaml"],
                    "parameters": [
                        {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/Flunder"}},
                        {"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true},
                    ],
                    "responses": {"201": {"description": "Created", "schema": {"$ref": "#/definitions/Flunder"}}},
                },
            }},
            "parameters": {"pretty-1": {"name": "pretty", "in": "query", "type": "string"}},
            "definitions": {
                "Flunder": {"properties": {"spec": {"$ref": "#/definitions/Spec", "description": "What is wanted."}}},
                "Spec": {"type": "object"},
            },
            "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        })
    }

    #[test]
    fn bodies_and_replies_are_told_by_media_type() {
        let v3 = v2_to_v3(&flunders());
        let post = &v3["paths"]["/apis/wardle/v1/flunders"]["post"];
        let schema = json!({"schema": {"$ref": "#/components/schemas/Flunder"}});
        assert_eq!(post["requestBody"], json!({"content": {"application/json": schema}}));
        assert_eq!(
            post["responses"]["201"],
            json!({"description": "Created", "content": {"application/json": schema, "application/yaml": schema}})
        );
        assert_eq!(post["x-kubernetes-action"], "post");
        assert!(post.get("consumes").is_none() && v3.get("swagger").is_none());
    }

    #[test]
    fn parameters_have_schemas_and_references_stand_alone() {
        let v3 = v2_to_v3(&flunders());
        let item = &v3["paths"]["/apis/wardle/v1/flunders"];
        let dry_run = json!({"name": "dryRun", "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        assert_eq!(item["post"]["parameters"], json!([dry_run]));
        assert_eq!(item["parameters"], json!([{"name": "pretty", "in": "query", "schema": {"type": "string"}}]));
        let spec = &v3["components"]["schemas"]["Flunder"]["properties"]["spec"];
        assert_eq!(spec, &json!({"description": "What is wanted.", "allOf": [{"$ref": "#/components/schemas/Spec"}]}));
        assert_eq!(v3["components"]["securitySchemes"]["BearerToken"]["name"], "authorization");
    }
}
