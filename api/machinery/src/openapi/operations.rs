//! What can be done at which path: a resource's operations in neutral form, as `apiserver/pkg/endpoints/installer.go` has them.
//!
//! Custom resources have fewer paths, media types and codes: `apiextensions-apiserver/pkg/controller/openapi/builder`.

use std::borrow::Cow;

use wharf_types::Gvk;

use super::parameters::{self, Parameter};
use super::{Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const SCALE: &str = "Scale";
const STREAMS: &[&str] = &["get", "post"];
const ALL_METHODS: &[&str] = &["get", "head", "post", "put", "patch", "delete", "options"];

/// One operation in neutral form.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// None for what is no operation on objects.
    pub(super) action: Option<(&'static str, Gvk)>,
    /// `readAppsV1NamespacedDeployment`
    pub(super) id: String,
    pub(super) description: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Body,
    /// Status codes of success.
    pub(super) codes: &'static [u16],
    pub(super) reply: Reply,
}

pub(super) enum Body {
    None,
    Object(String),
    DeleteOptions,
    Patch,
}

pub(super) enum Reply {
    Object(String),
    /// A list, or a stream of events.
    List(String),
    /// A container's log.
    Log,
    /// Whatever somebody else answers.
    Stream,
}

/// What somebody can ask for at one path.
pub(super) struct Place {
    pub(super) path: String,
    /// The kind whose name stands in the path.
    pub(super) kind: Cow<'static, str>,
    pub(super) operations: Vec<Operation>,
}

/// All places of a resource.
pub(super) fn places(resource: &Resource, custom: bool) -> Vec<Place> {
    let gvr = &resource.gvr;
    let root = root(&gvr.group, &gvr.version);
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let plural = &gvr.resource;
    let item = format!("{root}{scope}/{plural}/{{name}}");
    let named = Named::of(resource, custom);
    let kind = &resource.gvk.kind;
    let place = |path: String, operations| Place { path, kind: kind.clone(), operations };

    let mut places =
        vec![place(format!("{root}{scope}/{plural}"), named.on_collection()), place(item.clone(), named.on_item())];
    let everywhere = resource.namespaced && resource.verbs.contains(&"list");
    if everywhere {
        places.push(place(format!("{root}/{plural}"), vec![named.list(&format!("{kind}ForAllNamespaces"))]));
    }
    if resource.verbs.contains(&"watch") && !custom {
        let watches = |path: String, what: String, one: bool| place(path, vec![named.watch(&what, one)]);
        let object = &named.object;
        places.push(watches(format!("{root}/watch{scope}/{plural}"), format!("{object}List"), false));
        places.push(watches(format!("{root}/watch{scope}/{plural}/{{name}}"), object.clone(), true));
        if everywhere {
            places.push(watches(format!("{root}/watch/{plural}"), format!("{kind}ListForAllNamespaces"), false));
        }
    }
    for subresource in &resource.subresources {
        let path = format!("{item}/{}", subresource.name);
        match Connection::of(kind, &subresource.name) {
            Some(connection) => {
                if connection.with_path {
                    let operations = named.connections(subresource, &connection, "WithPath");
                    let kind = connection.options.clone().into();
                    places.push(Place { path: format!("{path}/{{path}}"), kind, operations });
                }
                let operations = named.connections(subresource, &connection, "");
                places.push(Place { path, kind: connection.options.into(), operations });
            }
            None => {
                let of = subresource.body.as_ref().map_or(&resource.gvk, |(gvk, _)| gvk);
                let kind = if custom { kind.clone() } else { of.kind.clone() };
                places.push(Place { path, kind, operations: named.on_subresource(subresource) });
            }
        }
    }
    places.retain(|place| !place.operations.is_empty());
    places
}

/// Where a group version's paths begin: `/api/v1`, `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// Group and version as ids have them (`AppsV1`) and as tags do (`apps_v1`).
pub(super) fn id_and_tag(group: &str, version: &str) -> (String, String) {
    let parts = match group {
        "" => "core",
        group => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    let camel: String = parts.split(['.', '-']).map(capitalised).collect();
    let mut letters = camel.chars();
    let tag: String = letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect();
    let tag = if version.is_empty() { tag } else { format!("{tag}_{version}") };
    (format!("{camel}{}", capitalised(version)), tag)
}

/// Text that answers about what there is, for everyone.
pub(super) fn discovery(id: String, description: &str, schema: &str) -> Operation {
    Operation {
        method: "get",
        action: None,
        id,
        description: description.to_owned(),
        parameters: Vec::new(),
        body: Body::None,
        codes: &[200],
        reply: Reply::Object(schema.to_owned()),
    }
}

/// A subresource that is a connection to something else.
struct Connection {
    /// The kind of its options.
    options: String,
    methods: &'static [&'static str],
    with_path: bool,
}

impl Connection {
    fn of(kind: &str, subresource: &str) -> Option<Self> {
        let (word, methods, with_path) = match subresource {
            "exec" => ("Exec", STREAMS, false),
            "attach" => ("Attach", STREAMS, false),
            "portforward" => ("PortForward", STREAMS, false),
            "proxy" => ("Proxy", ALL_METHODS, true),
            _ => return None,
        };
        Some(Self { options: format!("{kind}{word}Options"), methods, with_path })
    }
}

/// A resource and the parts of its operations' ids.
struct Named<'a> {
    resource: &'a Resource,
    custom: bool,
    /// `AppsV1`
    group: String,
    /// `NamespacedDeployment`
    object: String,
}

impl<'a> Named<'a> {
    fn of(resource: &'a Resource, custom: bool) -> Self {
        let (group, _) = id_and_tag(&resource.gvr.group, &resource.gvr.version);
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        Self { resource, custom, group, object: format!("{scope}{}", resource.gvk.kind) }
    }

    /// `what` is the rest of the id.
    fn list(&self, what: &str) -> Operation {
        let Resource { gvk, schema, verbs, .. } = self.resource;
        let deed = if verbs.contains(&"watch") && !self.custom { "list or watch" } else { "list" };
        Operation {
            method: "get",
            action: Some(("list", gvk.clone())),
            id: format!("list{}{what}", self.group),
            description: format!("{deed} objects of kind {}", gvk.kind),
            parameters: with_pretty(parameters::of("ListOptions")),
            body: Body::None,
            codes: &[200],
            reply: Reply::List(format!("{schema}List")),
        }
    }

    /// The deprecated way to watch: `one` object, or all.
    fn watch(&self, what: &str, one: bool) -> Operation {
        let kind = &self.resource.gvk.kind;
        let (action, description) = if one {
            let instead = "deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.";
            ("watch", format!("watch changes to an object of kind {kind}. {instead}"))
        } else {
            let instead = "deprecated: use the 'watch' parameter with a list operation instead.";
            ("watchlist", format!("watch individual changes to a list of {kind}. {instead}"))
        };
        Operation {
            method: "get",
            action: Some((action, self.resource.gvk.clone())),
            id: format!("watch{}{what}", self.group),
            description,
            parameters: with_pretty(parameters::of("ListOptions")),
            body: Body::None,
            codes: &[200],
            reply: Reply::List(format!("{META}.WatchEvent")),
        }
    }

    fn on_collection(&self) -> Vec<Operation> {
        let Self { resource, group, object, .. } = self;
        let Resource { gvk, schema, .. } = resource;
        let operation = |verb: &&'static str| {
            Some(match *verb {
                "list" => self.list(object),
                "create" => Operation {
                    method: "post",
                    action: Some(("post", gvk.clone())),
                    id: format!("create{group}{object}"),
                    description: format!("create{}", with_article(&gvk.kind)),
                    parameters: with_pretty(parameters::of("CreateOptions")),
                    body: Body::Object(schema.clone()),
                    codes: &[200, 201, 202],
                    reply: Reply::Object(schema.clone()),
                },
                "deletecollection" => Operation {
                    method: "delete",
                    action: Some(("deletecollection", gvk.clone())),
                    id: format!("delete{group}Collection{object}"),
                    description: format!("delete collection of {}", gvk.kind),
                    parameters: self.deletes_many(),
                    body: if self.custom { Body::None } else { Body::DeleteOptions },
                    codes: &[200],
                    reply: Reply::Object(format!("{META}.Status")),
                },
                _ => return None,
            })
        };
        resource.verbs.iter().filter_map(operation).collect()
    }

    fn deletes_many(&self) -> Vec<Parameter> {
        let mut all = parameters::of("ListOptions");
        if !self.custom {
            all.retain(|parameter| !["watch", "allowWatchBookmarks"].contains(&parameter.name));
            all.extend(parameters::of("DeleteOptions"));
        }
        with_pretty(all)
    }

    fn on_item(&self) -> Vec<Operation> {
        let Self { resource, group, object, .. } = self;
        let Resource { gvk, schema, .. } = resource;
        let mut operations = self.on_object(&resource.verbs, object, (gvk, schema), "");
        if resource.verbs.contains(&"delete") {
            let reply = if resource.returns_deleted { schema.clone() } else { format!("{META}.Status") };
            operations.push(Operation {
                method: "delete",
                action: Some(("delete", gvk.clone())),
                id: format!("delete{group}{object}"),
                description: format!("delete{}", with_article(&gvk.kind)),
                parameters: with_pretty(parameters::of("DeleteOptions")),
                body: Body::DeleteOptions,
                codes: &[200, 202],
                reply: Reply::Object(reply),
            });
        }
        operations
    }

    /// Read, replace and patch, which objects and their subresources have in common.
    fn on_object(
        &self,
        verbs: &[&'static str],
        object: &str,
        (gvk, schema): (&Gvk, &str),
        what: &str,
    ) -> Vec<Operation> {
        let operation = |verb: &&'static str| {
            let schema = schema.to_owned();
            let (method, word, options, body, codes): (_, _, _, _, &'static [u16]) = match *verb {
                "get" if self.custom => ("get", "read", "GetOptions", Body::None, &[200]),
                "get" => ("get", "read", "", Body::None, &[200]),
                "update" => ("put", "replace", "UpdateOptions", Body::Object(schema.clone()), &[200, 201]),
                "patch" if self.custom => ("patch", "patch", "PatchOptions", Body::Patch, &[200]),
                "patch" => ("patch", "patch", "PatchOptions", Body::Patch, &[200, 201]),
                _ => return None,
            };
            let deed = if word == "patch" { "partially update" } else { word };
            Some(Operation {
                method,
                action: Some((method, self.told(gvk))),
                id: format!("{word}{}{object}", self.group),
                description: format!("{deed} {what}the specified {}", self.resource.gvk.kind),
                parameters: with_pretty(parameters::of(options)),
                body,
                codes,
                reply: Reply::Object(schema),
            })
        };
        verbs.iter().filter_map(operation).collect()
    }

    /// The kind that an operation names: custom resources' scales name the resource's own.
    fn told(&self, gvk: &Gvk) -> Gvk {
        if self.custom && gvk.kind == SCALE { self.resource.gvk.clone() } else { gvk.clone() }
    }

    fn connections(&self, subresource: &Subresource, connection: &Connection, suffix: &str) -> Vec<Operation> {
        let Resource { gvk, .. } = self.resource;
        let name = &subresource.name;
        let object = format!("{}{}{suffix}", self.object, capitalised(name));
        let operation = |method: &&'static str| Operation {
            method,
            action: Some(("connect", Gvk { kind: connection.options.clone().into(), ..gvk.clone() })),
            id: format!("connect{}{}{object}", self.group, capitalised(method)),
            description: format!("connect {} requests to {name} of {}", method.to_uppercase(), gvk.kind),
            parameters: parameters::of(&connection.options),
            body: Body::None,
            codes: &[200],
            reply: Reply::Stream,
        };
        connection.methods.iter().map(operation).collect()
    }

    fn on_subresource(&self, subresource: &Subresource) -> Vec<Operation> {
        let group = &self.group;
        let name = &subresource.name;
        let object = format!("{}{}", self.object, capitalised(name));
        let Some((gvk, schema)) = &subresource.body else {
            return vec![Operation {
                method: "get",
                action: Some(("get", self.resource.gvk.clone())),
                id: format!("read{group}{object}"),
                description: format!("read {name} of the specified {}", self.resource.gvk.kind),
                parameters: with_pretty(parameters::of("PodLogOptions")),
                body: Body::None,
                codes: &[200],
                reply: Reply::Log,
            }];
        };
        let mut operations = self.on_object(&subresource.verbs, &object, (gvk, schema), &format!("{name} of "));
        if subresource.verbs.contains(&"create") {
            operations.push(Operation {
                method: "post",
                action: Some(("post", gvk.clone())),
                id: format!("create{group}{object}"),
                description: format!("create {name} of{}", with_article(&self.resource.gvk.kind)),
                parameters: with_pretty(parameters::of("CreateOptions")),
                body: Body::Object(schema.clone()),
                codes: &[200, 201, 202],
                reply: Reply::Object(schema.clone()),
            });
        }
        operations
    }
}

fn with_pretty(mut parameters: Vec<Parameter>) -> Vec<Parameter> {
    parameters.push(parameters::pretty());
    parameters.sort();
    parameters.dedup_by(|a, b| a.name == b.name);
    parameters
}

pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// ` a Pod`, ` an Event`; a plural has no article.
fn with_article(kind: &str) -> String {
    let article = match kind {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => "",
        _ if kind.starts_with(['A', 'E', 'I', 'O', 'U']) => " an",
        _ => " a",
    };
    format!("{article} {kind}")
}
