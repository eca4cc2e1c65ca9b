//! The variables of an expression about a write: `object`, `oldObject`, `request`, `namespaceObject`, `params`, `authorizer`.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/cel/activation.go` and `pkg/cel/library/authz.go`.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::Value as Json;
use wharf_auth::{Attributes as Asked, Decision, User};
use wharf_machinery::cel::{Error, Object, Value, Variables};

use crate::Reader;
use crate::subject::View;

/// What all expressions of a write share.
#[derive(Clone, Copy)]
pub struct Activation<'a> {
    pub object: Option<&'a Json>,
    pub old: Option<&'a Json>,
    pub request: &'a Json,
    pub namespace: Option<&'a Json>,
    pub params: Option<&'a Json>,
    pub user: &'a User,
    pub cluster: &'a dyn Reader,
}

impl<'a> Activation<'a> {
    pub fn new(
        view: &'a View,
        namespace: Option<&'a Json>,
        params: Option<&'a Json>,
        user: &'a User,
        cluster: &'a dyn Reader,
    ) -> Self {
        let (object, old, request) = (view.object.as_ref(), view.old.as_ref(), &view.request);
        Self { object, old, request, namespace, params, user, cluster }
    }

    pub fn variables(&self) -> Variables<'a> {
        let or_null = |json: Option<&'a Json>| json.unwrap_or(&Json::Null);
        Variables::default()
            .json("object", or_null(self.object))
            .json("oldObject", or_null(self.old))
            .json("request", self.request)
            .json("namespaceObject", or_null(self.namespace))
            .json("params", or_null(self.params))
            .object(
                "authorizer",
                Authorizer { cluster: self.cluster, user: Arc::new(self.user.clone()), request: self.request },
            )
    }
}

/// `authorizer`, and each step of a question on the way to its answer.
#[derive(Clone)]
struct Authorizer<'a> {
    cluster: &'a dyn Reader,
    user: Arc<User>,
    request: &'a Json,
}

struct Check<'a> {
    authorizer: Authorizer<'a>,
    asked: Asked,
    /// `group(…)` has no resource yet.
    is_group: bool,
}

struct Answer(Decision);

fn text<'v>(arguments: &'v [Value<'_>], index: usize) -> Result<&'v str, Error> {
    arguments.get(index).and_then(Value::as_str).ok_or(Error::NoSuchOverload)
}

impl<'a> Object<'a> for Authorizer<'a> {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Authorizer"
    }

    fn get(&self, field: &str) -> Option<Result<Value<'a>, Error>> {
        if field != "requestResource" {
            return None;
        }
        let text = |path: &str| self.request.pointer(path).and_then(Json::as_str).unwrap_or_default().to_owned();
        let asked = Asked {
            resource_request: true,
            group: text("/requestResource/group"),
            version: text("/requestResource/version"),
            resource: text("/requestResource/resource"),
            subresource: text("/requestSubResource"),
            namespace: text("/namespace"),
            name: text("/name"),
            ..Asked::default()
        };
        Some(Ok(Value::object(Check { authorizer: self.clone(), asked, is_group: false })))
    }

    fn call(&self, method: &str, arguments: &[Value<'a>]) -> Result<Value<'a>, Error> {
        let check = |asked, is_group| Value::object(Check { authorizer: self.clone(), asked, is_group });
        match method {
            "path" => {
                let path = text(arguments, 0)?;
                if path.is_empty() {
                    return Err(Error::Other("path must not be empty".to_owned()));
                }
                Ok(check(Asked { path: path.to_owned(), ..Asked::default() }, false))
            }
            "group" => {
                let group = text(arguments, 0)?.to_owned();
                Ok(check(Asked { resource_request: true, version: "*".into(), group, ..Asked::default() }, true))
            }
            "serviceAccount" => {
                let (namespace, name) = (text(arguments, 0)?, text(arguments, 1)?);
                let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                let user = Arc::new(User::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups));
                Ok(Value::object(Authorizer { user, ..self.clone() }))
            }
            other => Err(Error::Undeclared(other.to_owned())),
        }
    }
}

impl<'a> Object<'a> for Check<'a> {
    fn type_name(&self) -> &str {
        match (self.is_group, self.asked.resource_request) {
            (true, _) => "kubernetes.authorization.GroupCheck",
            (_, true) => "kubernetes.authorization.ResourceCheck",
            _ => "kubernetes.authorization.PathCheck",
        }
    }

    fn call(&self, method: &str, arguments: &[Value<'a>]) -> Result<Value<'a>, Error> {
        let with = |change: &dyn Fn(&mut Asked, String)| {
            let mut asked = self.asked.clone();
            change(&mut asked, text(arguments, 0)?.to_owned());
            Ok(Value::object(Check { authorizer: self.authorizer.clone(), asked, is_group: false }))
        };
        match method {
            "resource" if self.is_group => with(&|asked, value| asked.resource = value),
            "check" if !self.is_group => self.decide(text(arguments, 0)?),
            _ if self.is_group || !self.asked.resource_request => Err(Error::NoSuchOverload),
            "subresource" => with(&|asked, value| asked.subresource = value),
            "namespace" => with(&|asked, value| asked.namespace = value),
            "name" => with(&|asked, value| asked.name = value),
            // Nothing here decides by selectors: a right is to all objects or to one.
            "fieldSelector" | "labelSelector" => with(&|_, _| {}),
            other => Err(Error::Undeclared(other.to_owned())),
        }
    }
}

impl<'a> Check<'a> {
    /// The server's own authorizers answer from memory, so there is nothing to wait for.
    fn decide(&self, verb: &str) -> Result<Value<'a>, Error> {
        let asked = Asked { verb: verb.to_owned(), ..self.asked.clone() };
        let mut asking = Box::pin(self.authorizer.cluster.authorize(&self.authorizer.user, &asked));
        let decision = match (&mut asking).now_or_never() {
            Some(decision) => decision,
            None => wait(asking)?,
        };
        Ok(Value::object(Answer(decision)))
    }
}

/// An authorizer that has to ask somebody else: the expression waits for it, as upstream's do, and gives its thread away.
fn wait(asking: impl Future<Output = Decision>) -> Result<Decision, Error> {
    let handle = tokio::runtime::Handle::current();
    match handle.runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => Ok(tokio::task::block_in_place(|| handle.block_on(asking))),
        _ => Err(Error::Other("the authorizer did not answer at once".to_owned())),
    }
}

impl<'a> Object<'a> for Answer {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }

    fn call(&self, method: &str, _: &[Value<'a>]) -> Result<Value<'a>, Error> {
        Ok(match (method, &self.0) {
            ("allowed", decision) => Value::Bool(matches!(decision, Decision::Allow(_))),
            ("reason", Decision::Allow(why) | Decision::Deny(why) | Decision::NoOpinion(why)) => {
                Value::from(why.clone())
            }
            ("error", Decision::Failed { why, .. }) => Value::from(why.clone()),
            ("error" | "reason", _) => Value::from(String::new()),
            ("errored", decision) => Value::Bool(matches!(decision, Decision::Failed { .. })),
            (other, _) => return Err(Error::Undeclared(other.to_owned())),
        })
    }
}
