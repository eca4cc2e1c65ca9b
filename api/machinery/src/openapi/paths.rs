//! Paths and operations of a resource.

use serde_json::{Map, Value, json};
use wharf_types::Gvk;

use super::parameters::{self, Parameter};
use super::{Dialect, Resource, Subresource, gvk_value};

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM_MEDIA_TYPES: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_MEDIA_TYPES: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml", STRATEGIC];
/// For built-in kinds alone: kubectl sends this patch where the document says that it is taken.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// One operation in neutral form.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    /// `readAppsV1NamespacedDeployment`
    id: String,
    description: String,
    gvk: &'a Gvk,
    parameters: Vec<&'a Parameter>,
    body: Body<'a>,
    /// Status codes of success.
    codes: &'static [u16],
    reply: Reply<'a>,
}

enum Body<'a> {
    None,
    Object(&'a str),
    Optional(&'a str),
    Patch,
}

enum Reply<'a> {
    Object(&'a str),
    /// A list, or a stream of events.
    List(String),
    Text,
}

/// Adds the paths of `resource` to a document.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource, custom: bool, dialect: Dialect) {
    let gvr = &resource.gvr;
    let root = if gvr.group.is_empty() {
        format!("/api/{}", gvr.version)
    } else {
        format!("/apis/{}/{}", gvr.group, gvr.version)
    };
    let prefix = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{prefix}/{}", gvr.resource);
    let item = format!("{collection}/{{name}}");
    let names = Names::of(resource);
    let kind = &resource.gvk.kind;

    let mut place = |path: String, operations: Vec<Operation<'_>>| {
        if !operations.is_empty() {
            let rendered = render_path(&path, kind, &names.tag, operations, (custom, dialect));
            paths.insert(path, rendered);
        }
    };
    place(collection, names.collection_operations(resource));
    place(item.clone(), names.item_operations(resource));
    if resource.namespaced && resource.verbs.contains(&"list") {
        let id = format!("list{}{kind}ForAllNamespaces", names.group);
        place(format!("{root}/{}", gvr.resource), vec![names.list(resource, id)]);
    }
    for subresource in &resource.subresources {
        place(format!("{item}/{}", subresource.name), names.subresource_operations(resource, subresource));
    }
}

/// Parts of operation ids.
struct Names {
    /// `AppsV1`
    group: String,
    /// `NamespacedDeployment`
    object: String,
    /// `apps_v1`
    tag: String,
}

impl Names {
    fn of(resource: &Resource) -> Self {
        let gvr = &resource.gvr;
        let parts = match gvr.group.as_ref() {
            "" => "core",
            group => group.strip_suffix(".k8s.io").unwrap_or(group),
        };
        let camel: String = parts.split(['.', '-']).map(capitalised).collect();
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let mut lower = camel.chars();
        let tag = lower.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(lower).collect::<String>();
        Self {
            group: format!("{camel}{}", capitalised(&gvr.version)),
            object: format!("{scope}{}", resource.gvk.kind),
            tag: format!("{tag}_{}", gvr.version),
        }
    }

    fn list<'a>(&self, resource: &'a Resource, id: String) -> Operation<'a> {
        Operation {
            method: "get",
            action: "list",
            id,
            description: format!("list or watch objects of kind {}", resource.gvk.kind),
            gvk: &resource.gvk,
            parameters: parameters::LIST.iter().collect(),
            body: Body::None,
            codes: &[200],
            reply: Reply::List(format!("{}List", resource.schema)),
        }
    }

    fn collection_operations<'a>(&self, resource: &'a Resource) -> Vec<Operation<'a>> {
        let Self { group, object, .. } = self;
        let kind = &resource.gvk.kind;
        let mut operations = Vec::new();
        for verb in &resource.verbs {
            operations.push(match *verb {
                "list" => self.list(resource, format!("list{group}{object}")),
                "create" => Operation {
                    method: "post",
                    action: "post",
                    id: format!("create{group}{object}"),
                    description: format!("create {}", with_article(kind)),
                    gvk: &resource.gvk,
                    parameters: parameters::WRITE.iter().collect(),
                    body: Body::Object(&resource.schema),
                    codes: &[200, 201, 202],
                    reply: Reply::Object(&resource.schema),
                },
                "deletecollection" => Operation {
                    method: "delete",
                    action: "deletecollection",
                    id: format!("delete{group}Collection{object}"),
                    description: format!("delete collection of {kind}"),
                    gvk: &resource.gvk,
                    parameters: parameters::DELETE_COLLECTION.iter().collect(),
                    body: Body::Optional(DELETE_OPTIONS),
                    codes: &[200],
                    reply: Reply::Object(STATUS),
                },
                _ => continue,
            });
        }
        operations
    }

    fn item_operations<'a>(&self, resource: &'a Resource) -> Vec<Operation<'a>> {
        let Self { group, object, .. } = self;
        let mut operations = self.object_operations(&resource.verbs, object, &resource.gvk, &resource.schema, "");
        if resource.verbs.contains(&"delete") {
            operations.push(Operation {
                method: "delete",
                action: "delete",
                id: format!("delete{group}{object}"),
                description: format!("delete {}", with_article(&resource.gvk.kind)),
                gvk: &resource.gvk,
                parameters: parameters::DELETE.iter().collect(),
                body: Body::Optional(DELETE_OPTIONS),
                codes: &[200, 202],
                reply: Reply::Object(STATUS),
            });
        }
        operations
    }

    /// Read, replace and patch, which objects and their subresources have in common.
    fn object_operations<'a>(
        &self,
        verbs: &[&'static str],
        object: &str,
        gvk: &'a Gvk,
        schema: &'a str,
        what: &str,
    ) -> Vec<Operation<'a>> {
        let group = &self.group;
        let mut operations = Vec::new();
        for verb in verbs {
            let (method, action, word, parameters, body, codes): (_, _, _, &[Parameter], _, &'static [u16]) =
                match *verb {
                    "get" => ("get", "get", "read", &[], Body::None, &[200]),
                    "update" => ("put", "put", "replace", parameters::WRITE, Body::Object(schema), &[200, 201]),
                    "patch" => ("patch", "patch", "patch", parameters::PATCH, Body::Patch, &[200, 201]),
                    _ => continue,
                };
            let deed = if word == "patch" { "partially update" } else { word };
            operations.push(Operation {
                method,
                action,
                id: format!("{word}{group}{object}"),
                description: format!("{deed} {what}the specified {}", gvk.kind),
                gvk,
                parameters: parameters.iter().collect(),
                body,
                codes,
                reply: Reply::Object(schema),
            });
        }
        operations
    }

    fn subresource_operations<'a>(&self, resource: &'a Resource, subresource: &'a Subresource) -> Vec<Operation<'a>> {
        let group = &self.group;
        let name = &subresource.name;
        let object = format!("{}{}", self.object, capitalised(name));
        let own = parameters::of_subresource(name);
        if subresource.verbs.contains(&"connect") {
            let operation = |method: &'static str| Operation {
                method,
                action: "connect",
                id: format!("connect{group}{}{object}", capitalised(method)),
                description: format!("connect {} requests to {name} of {}", method.to_uppercase(), resource.gvk.kind),
                gvk: &resource.gvk,
                parameters: own.iter().collect(),
                body: Body::None,
                codes: &[200],
                reply: Reply::Text,
            };
            return vec![operation("get"), operation("post")];
        }
        let Some((gvk, schema)) = &subresource.body else {
            return vec![Operation {
                method: "get",
                action: "get",
                id: format!("read{group}{object}"),
                description: format!("read {name} of the specified {}", resource.gvk.kind),
                gvk: &resource.gvk,
                parameters: own.iter().collect(),
                body: Body::None,
                codes: &[200],
                reply: Reply::Text,
            }];
        };
        let mut operations = self.object_operations(&subresource.verbs, &object, gvk, schema, &format!("{name} of "));
        if subresource.verbs.contains(&"create") {
            operations.push(Operation {
                method: "post",
                action: "post",
                id: format!("create{group}{object}"),
                description: format!("create {name} of {}", with_article(&resource.gvk.kind)),
                gvk,
                parameters: parameters::WRITE.iter().collect(),
                body: Body::Object(schema),
                codes: &[200, 201, 202],
                reply: Reply::Object(schema),
            });
        }
        operations
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// `style`: whether the kind is a custom one, and how the document is written down.
fn render_path(
    path: &str,
    kind: &str,
    tag: &str,
    operations: Vec<Operation<'_>>,
    style @ (_, dialect): (bool, Dialect),
) -> Value {
    let mut shared = Vec::new();
    if path.contains("{name}") {
        shared.push(parameters::in_path("name", &format!("name of the {kind}"), dialect));
    }
    if path.contains("{namespace}") {
        let description = "object name and auth scope, such as for teams and projects";
        shared.push(parameters::in_path("namespace", description, dialect));
    }
    shared.push(parameters::pretty(dialect));
    let mut item = Map::from_iter([("parameters".to_owned(), Value::from(shared))]);
    for operation in operations {
        item.insert(operation.method.to_owned(), render(&operation, tag, style));
    }
    Value::Object(item)
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("{}{schema}", crate::schema::REF_PREFIX) })
}

fn render(operation: &Operation<'_>, tag: &str, (custom, dialect): (bool, Dialect)) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|parameter| parameter.render(dialect)).collect();
    let mut rendered = json!({
        "tags": [tag],
        "description": operation.description,
        "operationId": operation.id,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": gvk_value(operation.gvk),
    });
    let (schema, required) = match operation.body {
        Body::None => (None, false),
        Body::Object(schema) => (Some(schema), true),
        Body::Optional(schema) => (Some(schema), false),
        Body::Patch => (Some(PATCH), true),
    };
    let consumes: Vec<&str> = match operation.body {
        Body::Patch => PATCH_MEDIA_TYPES.into_iter().filter(|media| !custom || *media != STRATEGIC).collect(),
        _ => vec!["*/*"],
    };
    let produces: Vec<&str> = match operation.reply {
        Reply::Object(_) => MEDIA_TYPES.to_vec(),
        Reply::List(_) => MEDIA_TYPES.iter().chain(&STREAM_MEDIA_TYPES).copied().collect(),
        Reply::Text => vec!["*/*"],
    };
    let reply = match &operation.reply {
        Reply::Object(schema) => reference(schema),
        Reply::List(schema) => reference(schema),
        Reply::Text => json!({ "type": "string" }),
    };
    let mut responses = Map::new();
    for code in operation.codes {
        responses.insert(code.to_string(), render_reply(*code, &reply, &produces, dialect));
    }
    responses.insert("401".to_owned(), json!({ "description": "Unauthorized" }));
    rendered["responses"] = Value::Object(responses);
    match (dialect, schema) {
        (Dialect::V2, Some(schema)) => {
            let mut body = json!({ "name": "body", "in": "body", "schema": reference(schema) });
            if required {
                body["required"] = true.into();
            }
            parameters.insert(0, body);
        }
        (Dialect::V3, Some(schema)) => {
            let content: Map<String, Value> =
                consumes.iter().map(|media| ((*media).to_owned(), json!({ "schema": reference(schema) }))).collect();
            rendered["requestBody"] = json!({ "content": content });
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

fn render_reply(code: u16, schema: &Value, produces: &[&str], dialect: Dialect) -> Value {
    let description = match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    };
    match dialect {
        Dialect::V2 => json!({ "description": description, "schema": schema }),
        Dialect::V3 => {
            let content: Map<String, Value> =
                produces.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
            json!({ "description": description, "content": content })
        }
    }
}
