//! `pods/log`: a container's output, streamed from its node.
//!
//! Source: `pkg/registry/core/pod/strategy.go` (`LogLocation`) and `rest/log.go`. Whether the container has output yet is the
//! node's to say; its refusal is passed on in its words.

use http::{HeaderValue, Response, header};
use http_body_util::BodyExt;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::core::v1::{Node, Pod};
use wharf_types::{ApiError, Gvk};

use crate::call::Call;
use crate::query::Query;
use crate::reply::{self, Body, Reply};

pub async fn get(call: &Call) -> Result<Reply, ApiError> {
    let entry = call.existing().await?;
    let object = call.decode(&entry)?;
    let pod: &Pod = object.downcast_ref().ok_or_else(ApiError::no_such_path)?;
    let parameters = parameters(call)?;
    let container = container(pod, call.query.get("container"))?;
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if node_name.is_empty() {
        // A pod that is nowhere has said nothing.
        return Ok(Reply::Stream(text(reply::full(bytes::Bytes::new()))));
    }
    let node = node(call, node_name)?;
    let client = call.server.nodes.as_ref().ok_or_else(|| ApiError::unavailable("this server calls no nodes"))?;
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let path = format!("/containerLogs/{namespace}/{}/{container}{parameters}", call.name);
    let response = client.get(&node, &path).await?;
    Ok(Reply::Stream(text(response.into_body().map_err(Into::into).boxed_unsync())))
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn node(call: &Call, name: &str) -> Result<Node, ApiError> {
    let table = &call.server.table;
    let row = table.find("", "v1", "nodes").ok_or_else(|| ApiError::internal("nodes are not served"))?;
    let entry = call.server.collection(&row).and_then(|nodes| nodes.get(&row.key(None, name)));
    let entry = entry.ok_or_else(|| ApiError::not_found(&row.gvr, name))?;
    serde_json::from_slice(&entry.bytes).map_err(ApiError::internal)
}

/// The query that the node gets: what it knows of the client's, checked.
fn parameters(call: &Call) -> Result<String, ApiError> {
    let query = &call.query;
    let (mut kept, mut errors) = (form_urlencoded::Serializer::new(String::new()), Vec::new());
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            kept.append_pair(name, "true");
        }
    }
    for (name, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(number) = query.integer(name)? {
            if number < least {
                errors.push(Error::invalid(&Path::new(name), number, why));
            }
            kept.append_pair(name, &number.to_string());
        }
    }
    if let Some(since) = query.get("sinceTime") {
        if query.get("sinceSeconds").is_some() {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(Error::forbidden(&Path::root(), why));
        }
        since.parse::<jiff::Timestamp>().map_err(|error| ApiError::bad_request(format!("sinceTime: {error}")))?;
        kept.append_pair("sinceTime", since);
    }
    stream(query, &mut kept, &mut errors);
    if !errors.is_empty() {
        let kind = Gvk { group: "".into(), version: "v1".into(), kind: "PodLogOptions".into() };
        return Err(ApiError::invalid(&kind, &call.name, &errors));
    }
    let kept = kept.finish();
    Ok(if kept.is_empty() { kept } else { format!("?{kept}") })
}

fn stream(query: &Query, kept: &mut form_urlencoded::Serializer<'_, String>, errors: &mut Vec<Error>) {
    let path = Path::new("stream");
    match query.get("stream") {
        None => {}
        Some(stream @ ("All" | "Stdout" | "Stderr")) => {
            if stream != "All" && query.get("tailLines").is_some() {
                let why = "`tailLines` and specific `stream` are mutually exclusive for now";
                errors.push(Error::forbidden(&Path::new("tailLines"), why));
            }
            kept.append_pair("stream", stream);
        }
        Some(other) => errors.push(Error::not_supported(&path, other, &["All", "Stderr", "Stdout"])),
    }
}

/// The container that is asked for, or the only one.
pub fn container(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let Some(spec) = &pod.spec else { return Err(ApiError::bad_request("the pod has no spec")) };
    let names: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| container.name.as_str());
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    match (asked, names.as_slice()) {
        (Some(asked), _)
            if names.contains(&asked) || init.contains(&asked) || ephemeral.clone().any(|name| name == asked) =>
        {
            Ok(asked.to_owned())
        }
        (Some(asked), _) => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {pod}"))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => Err(ApiError::bad_request(format!("a container name must be specified for pod {pod}"))),
        (None, _) => {
            let mut message =
                format!("a container name must be specified for pod {pod}, choose one of: [{}]", names.join(" "));
            if !init.is_empty() {
                message += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(containers: &[&str], init: &[&str], asked: Option<&str>, expected: Result<&str, &str>) {
        let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": list(containers), "initContainers": list(init)}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let got = container(&pod, asked).map_err(|error| error.message);
        assert_eq!(got.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        check(&["a"], &[], None, Ok("a"));
        check(&["a", "b"], &["i"], Some("i"), Ok("i"));
        check(
            &["a", "b"],
            &["i"],
            None,
            Err(
                "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]",
            ),
        );
        check(&["a"], &[], Some("x"), Err("container x is not valid for pod web"));
    }
}
