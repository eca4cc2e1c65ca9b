//! `exec`, `attach` and `portforward`: an upgrade that is passed on to the pod's node.
//!
//! Source: `streamLocation` and `PortForwardLocation` in `pkg/registry/core/pod/strategy.go`. The paths and parameters on the
//! other side are the kubelet's.

use http::{Request, Response};
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::{Node, Pod};

use crate::call::Call;
use crate::connect::forward::{Backend, Trust, forward};
use crate::connect::target::stored;
use crate::node;
use crate::reply::Body;
use crate::subresource::log;

pub async fn hand_on(call: &Call, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let pod: Pod = stored(call, &call.row, &call.name)?;
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let (path, query) = match call.subresource {
        Some(Subresource::PortForward) => (format!("/portForward/{namespace}/{}", call.name), ports(call)),
        Some(kind) => {
            let container = log::container(&pod, call.query.get("container"))?;
            (format!("/{}/{namespace}/{}/{container}", kind.name(), call.name), streams(call, kind))
        }
        None => return Err(ApiError::no_such_path()),
    };
    let place = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if place.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)));
    }
    let nodes = call.server.table.find("", "v1", "nodes");
    let nodes = nodes.ok_or_else(|| ApiError::internal("nodes are not served"))?;
    let found: Node = stored(call, &nodes, place)?;
    let (host, port) = node::endpoint(&found)?;
    let backend = Backend {
        path,
        query: Some(query),
        upgrade_only: true,
        ..Backend::new(node::authority(&host, port), Trust::Node)
    };
    forward(&call.server.outgoing, call.server.nodes.as_ref(), backend, request).await
}

fn streams(call: &Call, kind: Subresource) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (asked, name) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.query.flag(asked) {
            query.append_pair(name, "1");
        }
    }
    if kind == Subresource::Exec {
        for word in call.query.all("command") {
            query.append_pair("command", word);
        }
    }
    query.finish()
}

fn ports(call: &Call) -> String {
    let ports: Vec<&str> = call.query.all("ports").iter().map(String::as_str).collect();
    if ports.is_empty() {
        return String::new();
    }
    form_urlencoded::Serializer::new(String::new()).append_pair("port", &ports.join(",")).finish()
}
