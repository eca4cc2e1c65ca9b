//! What a request's method and path ask for, before anything is looked up.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`. Pure; the same [`Info`] serves authorization, routing and
//! limits. A path that is not of a resource's shape is no error here: it is [`Target::Path`].

use http::Method;
use wharf_auth::{Attributes, Requirement};
use wharf_machinery::selector::{FieldSelector, LabelSelector, Operator};

use crate::query::Query;

/// Longest path and query, in bytes. The HTTP library takes no more than 65,534; upstream's limit, of the request line and
/// all headers together, is 1 MiB.
pub const URI_MAX: usize = 60 * 1024;

/// Subresources of a namespace itself: `namespaces/a/status` is no resource `status` in the namespace `a`.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// `HEAD`, `OPTIONS`, `TRACE`, `CONNECT`: nothing that a resource can do.
    Other,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Other => "",
        }
    }

    /// True for what the limit on writes counts.
    pub fn mutates(self) -> bool {
        matches!(self, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection)
    }
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub verb: Verb,
    pub method: Method,
    pub path: String,
    pub target: Target,
    /// What the request is narrowed to, for the authorizer; empty where it is not, or cannot be read.
    pub field_selector: Vec<Requirement>,
    pub label_selector: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Resource(Resource),
    /// `/healthz`, `/api`, `/apis/apps/v1`, …
    Path,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub namespace: Option<String>,
    /// In the path, or asked for by the field selector `metadata.name=…` of a list or watch.
    pub name: Option<String>,
    /// True where the path itself names one object.
    pub named: bool,
    pub subresource: Option<String>,
    /// Path segments after the subresource, as `proxy` has them.
    pub rest: Vec<String>,
}

impl Info {
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let verb = match *method {
            Method::GET => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        let mut info = Info {
            verb,
            method: method.clone(),
            path: path.to_owned(),
            target: Target::Path,
            field_selector: Vec::new(),
            label_selector: Vec::new(),
        };
        let Some((group, version, legacy_watch, parts)) = split(path) else { return info };
        let mut resource = Resource { group, version, ..Resource::default() };
        let parts = resource.take_namespace(parts);
        let mut parts = parts.into_iter();
        let Some(name) = parts.next() else { return info };
        resource.resource = name;
        resource.name = parts.next();
        resource.named = resource.name.is_some();
        resource.subresource = parts.next();
        resource.rest = parts.collect();
        info.verb = refine(verb, legacy_watch, &mut resource, query);
        if matches!(info.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
            info.field_selector = field_requirements(query.get("fieldSelector").unwrap_or_default());
            info.label_selector = label_requirements(query.get("labelSelector").unwrap_or_default());
        }
        info.target = Target::Resource(resource);
        info
    }

    /// True for what is an API object, or tells which there are.
    pub fn has_objects(&self) -> bool {
        matches!(self.target, Target::Resource(_)) || self.path.starts_with("/api")
    }

    /// True for requests that last as long as the client likes: no time limit, no place among the requests in flight.
    pub fn long_running(&self) -> bool {
        let subresource = match &self.target {
            Target::Resource(resource) => resource.subresource.as_deref(),
            Target::Path => None,
        };
        self.verb == Verb::Watch || matches!(subresource, Some("log" | "exec" | "attach" | "portforward" | "proxy"))
    }

    /// The verb for the authorizer. Who may read may ask for the head, although only proxies answer it.
    fn asked(&self, named: bool) -> &'static str {
        match (self.method == Method::HEAD, named) {
            (true, true) => Verb::Get.name(),
            (true, false) => Verb::List.name(),
            _ => self.verb.name(),
        }
    }

    /// The question for the authorizer.
    pub fn attributes(&self) -> Attributes {
        match &self.target {
            Target::Resource(resource) => Attributes {
                verb: self.asked(resource.named).to_owned(),
                resource_request: true,
                group: resource.group.clone(),
                version: resource.version.clone(),
                resource: resource.resource.clone(),
                subresource: resource.subresource.clone().unwrap_or_default(),
                namespace: resource.namespace.clone().unwrap_or_default(),
                name: resource.name.clone().unwrap_or_default(),
                path: self.path.clone(),
                field_selector: self.field_selector.clone(),
                label_selector: self.label_selector.clone(),
            },
            Target::Path => Attributes {
                verb: self.method.as_str().to_lowercase(),
                path: self.path.clone(),
                ..Attributes::default()
            },
        }
    }
}

impl Resource {
    /// Takes `namespaces/NAME/` off the front, where what follows is a resource in that namespace. A namespace itself is
    /// in the namespace of its own name.
    fn take_namespace(&mut self, mut parts: Vec<String>) -> Vec<String> {
        if parts.first().is_some_and(|part| part == "namespaces") && parts.len() > 1 {
            self.namespace = Some(parts[1].clone());
            if parts.get(2).is_some_and(|part| !NAMESPACE_SUBRESOURCES.contains(&part.as_str())) {
                parts.drain(..2);
            }
        }
        parts
    }
}

/// The group, the version, whether it is a legacy `/watch/` path, and what follows; none if the path is no resource's.
fn split(path: &str) -> Option<(String, String, bool, Vec<String>)> {
    let mut parts = path.trim_matches('/').split('/').map(decode);
    let group = match parts.next()?.as_str() {
        "api" => String::new(),
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let mut rest: Vec<String> = parts.collect();
    let legacy_watch = rest.first().is_some_and(|part| part == "watch");
    if legacy_watch {
        rest.remove(0);
    }
    (!rest.is_empty()).then_some((group, version, legacy_watch, rest))
}

fn decode(part: &str) -> String {
    if !part.contains('%') {
        return part.to_owned();
    }
    // `+` stands for itself in a path, where a query would read a space.
    let part = part.replace('+', "%2B");
    form_urlencoded::parse(part.as_bytes()).map(|(key, value)| key.into_owned() + &value).collect()
}

/// A field selector as an authorizer sees it; nothing where it cannot be read.
pub fn field_requirements(text: &str) -> Vec<Requirement> {
    let parsed = FieldSelector::parse(text).unwrap_or_default();
    let requirement = |term: &wharf_machinery::selector::FieldTerm| Requirement {
        key: term.field.clone(),
        operator: if term.negated { "NotIn" } else { "In" }.to_owned(),
        values: vec![term.value.clone()],
    };
    parsed.terms().iter().map(requirement).collect()
}

/// The same of a label selector. Comparisons of numbers are left out, as upstream leaves them out.
pub fn label_requirements(text: &str) -> Vec<Requirement> {
    let parsed = LabelSelector::parse(text).unwrap_or_else(|_| LabelSelector::everything());
    let requirement = |held: &wharf_machinery::selector::Requirement| {
        let operator = match held.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let values = held.values.iter().cloned().collect();
        Some(Requirement { key: held.key.clone(), operator: operator.to_owned(), values })
    };
    parsed.requirements().iter().filter_map(requirement).collect()
}

/// A GET without a name is a list or a watch, a DELETE without one is of a collection.
fn refine(verb: Verb, legacy_watch: bool, resource: &mut Resource, query: &Query) -> Verb {
    let refined = match verb {
        Verb::Get if legacy_watch => Verb::Watch,
        Verb::Get if !resource.named && query.flag("watch") => Verb::Watch,
        Verb::Get if !resource.named => Verb::List,
        Verb::Delete if !resource.named => Verb::DeleteCollection,
        verb => verb,
    };
    if !resource.named && matches!(refined, Verb::List | Verb::Watch | Verb::DeleteCollection) {
        let selector = query.get("fieldSelector").and_then(|text| FieldSelector::parse(text).ok());
        resource.name = selector.and_then(|selector| selector.exact("metadata.name").map(str::to_owned));
    }
    refined
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb group/version resource ns=… name=… sub=…`
    fn check(method: Method, uri: &str, expected: &str) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = Info::parse(&method, path, &Query::parse(query));
        let shown = match info.target {
            Target::Path => format!("path {}", info.method.as_str().to_lowercase()),
            Target::Resource(r) => format!(
                "{} {}/{} {} ns={} name={} sub={}",
                info.verb.name(),
                r.group,
                r.version,
                r.resource,
                r.namespace.unwrap_or_default(),
                r.name.unwrap_or_default(),
                r.subresource.unwrap_or_default()
            ),
        };
        assert_eq!(shown, expected, "{method} {uri}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        check(Method::GET, "/api/v1/pods", "list /v1 pods ns= name= sub=");
        check(Method::GET, "/api/v1/pods?watch=1", "watch /v1 pods ns= name= sub=");
        check(Method::GET, "/api/v1/namespaces/a/pods/b?watch=1", "get /v1 pods ns=a name=b sub=");
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", "watch /v1 pods ns=a name=b sub=");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get /v1 pods ns=a name=b sub=log");
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 deployments ns=a name= sub=",
        );
        check(Method::GET, "/api/v1/namespaces", "list /v1 namespaces ns= name= sub=");
        check(Method::GET, "/api/v1/namespaces/a", "get /v1 namespaces ns=a name=a sub=");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 namespaces ns=a name=a sub=finalize");
        check(Method::PATCH, "/api/v1/namespaces/a/status", "patch /v1 namespaces ns=a name=a sub=status");
        check(
            Method::GET,
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx",
            "list /v1 pods ns=a name=x sub=",
        );
        check(Method::HEAD, "/api/v1/nodes/n", " /v1 nodes ns= name=n sub=");
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in
            ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/apis/apps/v1"]
        {
            check(Method::GET, path, "path get");
        }
    }
}
