//! Paths of a document: what [`operations`](super::operations) there are, written down in either version.

use serde_json::{Map, Value, json};

use super::operations::{self, Body, Operation, Place, Reply};
use super::parameters::{self, Parameter};
use super::{Dialect, Resource, gvk_value};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const MEDIA_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM_MEDIA_TYPES: &[&str] =
    &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// For custom resources, which have no protobuf.
const CUSTOM_MEDIA_TYPES: &[&str] = &["application/json", "application/yaml"];
const ANY: &[&str] = &["*/*"];
/// For built-in kinds alone: kubectl sends this patch where the document says that it is taken.
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCH_MEDIA_TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", STRATEGIC, "application/apply-patch+yaml"];

/// How operations are written down.
#[derive(Clone, Copy)]
struct Style<'a> {
    tag: &'a str,
    custom: bool,
    dialect: Dialect,
}

/// Adds the paths of `resource` to a document.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource, custom: bool, dialect: Dialect) {
    let (_, tag) = operations::id_and_tag(&resource.gvr.group, &resource.gvr.version);
    for place in operations::places(resource, custom) {
        let rendered = render_place(&place, Style { tag: &tag, custom, dialect });
        paths.insert(place.path, rendered);
    }
}

/// What answers about the resources of a group version: `/apis/apps/v1/`.
pub(super) fn resources_of(group: &str, version: &str, dialect: Dialect) -> (String, Value) {
    let (id, tag) = operations::id_and_tag(group, version);
    let schema = format!("{META}.APIResourceList");
    let operation = operations::discovery(format!("get{id}APIResources"), "get available resources", &schema);
    alone(format!("{}/", operations::root(group, version)), operation, &tag, dialect)
}

/// What answers about a group: `/apis/apps/`.
pub(super) fn about_group(group: &str, dialect: Dialect) -> (String, Value) {
    let (id, tag) = operations::id_and_tag(group, "");
    let schema = format!("{META}.APIGroup");
    let operation = operations::discovery(format!("get{id}APIGroup"), "get information of a group", &schema);
    alone(format!("/apis/{group}/"), operation, &tag, dialect)
}

/// What answers about all groups, and about the server.
pub(super) fn about_server(dialect: Dialect) -> Vec<(String, Value)> {
    let versions = format!("{META}.APIVersions");
    let groups = format!("{META}.APIGroupList");
    let version = "io.k8s.apimachinery.pkg.version.Info";
    let objects = [
        ("/api/", "getCoreAPIVersions", "core", "get available API versions", versions.as_str()),
        ("/apis/", "getAPIVersions", "apis", "get available API versions", groups.as_str()),
        ("/version/", "getCodeVersion", "version", "get the version information for this server", version),
    ];
    let texts = [
        (
            "/.well-known/openid-configuration",
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            &["application/json"][..],
        ),
        (
            "/openid/v1/jwks",
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            &["application/jwk-set+json"][..],
        ),
    ];
    let objects = objects.into_iter().map(|(path, id, tag, deed, schema)| {
        let (path, mut rendered) =
            alone(path.to_owned(), operations::discovery(id.to_owned(), deed, schema), tag, dialect);
        if tag == "version" {
            only_media(&mut rendered["get"], &["application/json"], dialect);
        }
        (path, rendered)
    });
    let texts = texts.into_iter().map(|(path, id, tag, deed, media)| {
        let mut operation = operations::discovery(id.to_owned(), deed, "");
        operation.reply = Reply::Stream;
        let (path, mut rendered) = alone(path.to_owned(), operation, tag, dialect);
        only_media(&mut rendered["get"], media, dialect);
        (path, rendered)
    });
    objects.chain(texts).collect()
}

fn alone(path: String, operation: Operation, tag: &str, dialect: Dialect) -> (String, Value) {
    let place = Place { path, kind: "".into(), operations: vec![operation] };
    let rendered = render_place(&place, Style { tag, custom: false, dialect });
    (place.path, rendered)
}

/// Makes an operation answer in these media types alone.
fn only_media(operation: &mut Value, media: &[&str], dialect: Dialect) {
    match dialect {
        Dialect::V2 => operation["produces"] = media.into(),
        Dialect::V3 => {
            let content = operation["responses"]["200"]["content"].as_object();
            let Some(one) = content.and_then(|content| content.values().next()).cloned() else { return };
            operation["responses"]["200"]["content"] =
                media.iter().map(|media| ((*media).to_owned(), one.clone())).collect::<Map<_, _>>().into();
        }
    }
    let Some(consumes) = operation.get_mut("consumes") else { return };
    match *consumes == json!(ANY) {
        true => drop(operation.as_object_mut().and_then(|operation| operation.remove("consumes"))),
        false => *consumes = media.into(),
    }
}

/// Parameters that all operations have stand once, at the path.
fn render_place(place: &Place, style: Style<'_>) -> Value {
    let mut shared = parameters::in_path(&place.path, &place.kind);
    if let Some((first, others)) = place.operations.split_first() {
        let everywhere = |parameter: &&Parameter| others.iter().all(|other| other.parameters.contains(parameter));
        shared.extend(first.parameters.iter().filter(everywhere).cloned());
    }
    shared.sort();
    let mut item = Map::new();
    if !shared.is_empty() {
        item.insert("parameters".to_owned(), shared.iter().map(|it| it.render(style.dialect)).collect());
    }
    for operation in &place.operations {
        item.insert(operation.method.to_owned(), render(operation, &shared, style));
    }
    Value::Object(item)
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("{}{schema}", crate::schema::REF_PREFIX) })
}

fn consumes(operation: &Operation, custom: bool) -> Vec<&'static str> {
    match operation.body {
        Body::Patch => PATCH_MEDIA_TYPES.iter().copied().filter(|media| !custom || *media != STRATEGIC).collect(),
        _ if custom => CUSTOM_MEDIA_TYPES.to_vec(),
        // Discovery says that it takes what it answers with.
        _ if operation.action.is_none() && matches!(operation.reply, Reply::Object(_)) => MEDIA_TYPES.to_vec(),
        _ => ANY.to_vec(),
    }
}

fn produces(operation: &Operation, custom: bool) -> Vec<&'static str> {
    match operation.reply {
        Reply::Object(_) | Reply::List(_) if custom => CUSTOM_MEDIA_TYPES.to_vec(),
        Reply::Object(_) => MEDIA_TYPES.to_vec(),
        Reply::List(_) => [MEDIA_TYPES, STREAM_MEDIA_TYPES].concat(),
        Reply::Log => [&["text/plain"], MEDIA_TYPES].concat(),
        Reply::Stream => ANY.to_vec(),
    }
}

/// `shared` parameters stand elsewhere.
fn render(operation: &Operation, shared: &[Parameter], style: Style<'_>) -> Value {
    let Style { tag, custom, dialect } = style;
    let own = operation.parameters.iter().filter(|parameter| !shared.contains(parameter));
    let mut parameters: Vec<Value> = own.map(|parameter| parameter.render(dialect)).collect();
    let mut rendered = json!({ "tags": [tag], "description": operation.description, "operationId": operation.id });
    if let Some((action, gvk)) = &operation.action {
        rendered["x-kubernetes-action"] = (*action).into();
        rendered["x-kubernetes-group-version-kind"] = gvk_value(gvk);
    }
    let delete_options = format!("{META}.DeleteOptions");
    let body = match &operation.body {
        Body::None => None,
        Body::Object(schema) => Some((schema.as_str(), true)),
        Body::DeleteOptions => Some((delete_options.as_str(), false)),
        Body::Patch => Some((PATCH, true)),
    };
    let (consumes, produces) = (consumes(operation, custom), produces(operation, custom));
    let reply = match &operation.reply {
        Reply::Object(schema) | Reply::List(schema) => reference(schema),
        Reply::Log | Reply::Stream => json!({ "type": "string" }),
    };
    let mut responses = Map::new();
    for code in operation.codes {
        responses.insert(code.to_string(), render_reply(*code, &reply, &produces, dialect));
    }
    responses.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    rendered["responses"] = Value::Object(responses);
    match (dialect, body) {
        (Dialect::V2, Some((schema, required))) => {
            let mut body = json!({ "name": "body", "in": "body", "schema": reference(schema) });
            if required {
                body["required"] = true.into();
            }
            parameters.insert(0, body);
        }
        (Dialect::V3, Some((schema, required))) => {
            rendered["requestBody"] = json!({ "content": content(&consumes, &reference(schema)) });
            if required {
                rendered["requestBody"]["required"] = true.into();
            }
        }
        (_, None) => {}
    }
    if dialect == Dialect::V2 {
        rendered["consumes"] = consumes.into();
        rendered["produces"] = produces.into();
        rendered["schemes"] = json!(["https"]);
    }
    if !parameters.is_empty() {
        rendered["parameters"] = parameters.into();
    }
    rendered
}

fn content(media: &[&str], schema: &Value) -> Map<String, Value> {
    media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect()
}

fn render_reply(code: u16, schema: &Value, produces: &[&str], dialect: Dialect) -> Value {
    let description = match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    };
    match dialect {
        Dialect::V2 => json!({ "description": description, "schema": schema }),
        Dialect::V3 => json!({ "description": description, "content": content(produces, schema) }),
    }
}
