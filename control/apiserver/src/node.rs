//! The API server as a client of nodes: what is streamed from a kubelet's port.
//!
//! The node's certificate must chain to the cluster's authority and name the address that is called; the API server shows its
//! own client certificate. Absent on purpose: tunnels, and skipping verification.

use std::time::Duration;

use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::Node;

use crate::connect::transport::{self, HttpClient};
use crate::reply;

/// How long a connection to a node may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a node's refusal that are passed on.
const REFUSAL_MAX: usize = 16 * 1024;
/// The port of a node that names none: upstream's default.
const KUBELET_PORT: i32 = 10250;
/// Which of a node's addresses is called. Upstream begins with the host name, which nobody resolves here.
const ADDRESS_TYPES: &[&str] = &["InternalIP", "ExternalIP", "InternalDNS", "Hostname", "ExternalDNS"];

#[derive(Clone)]
pub struct NodeClient {
    client: HttpClient,
}

impl NodeClient {
    /// `tls` carries the authority that signs nodes and the API server's client certificate.
    pub fn new(tls: rustls::ClientConfig) -> Self {
        Self { client: transport::client(tls, CONNECT_TIMEOUT) }
    }

    pub fn client(&self) -> HttpClient {
        self.client.clone()
    }

    /// GETs a path of a node. What the node refuses is refused in its words.
    pub async fn get(&self, node: &Node, path_and_query: &str) -> Result<Response<Incoming>, ApiError> {
        let (host, port) = endpoint(node)?;
        let uri: Uri = format!("https://{}{path_and_query}", authority(&host, port))
            .parse()
            .map_err(|error| ApiError::internal(format!("address of node {}: {error}", name(node))))?;
        let request = Request::get(uri).body(reply::full(bytes::Bytes::new())).map_err(ApiError::internal)?;
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                return Err(ApiError::internal(format!("call node {}: {error}{source}", name(node))));
            }
            Err(_) => return Err(ApiError::timeout(format!("node {} did not answer", name(node)))),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Where a node's kubelet is: host and port.
pub fn endpoint(node: &Node) -> Result<(String, i32), ApiError> {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let address = ADDRESS_TYPES
        .iter()
        .find_map(|wanted| addresses.iter().find(|address| address.type_ == *wanted))
        .map(|address| address.address.as_str())
        .ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found; known addresses: [] of node {}", name(node)))
        })?;
    let port = status
        .and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
        .map(|endpoint| endpoint.port)
        .filter(|port| *port > 0)
        .unwrap_or(KUBELET_PORT);
    Ok((address.to_owned(), port))
}

pub fn authority(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Source: `k8s.io/apiserver/pkg/registry/generic/rest/response_checker.go`.
async fn refusal(response: Response<Incoming>) -> ApiError {
    let code = response.status();
    let body = Limited::new(response.into_body(), REFUSAL_MAX).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned()).unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::NOT_FOUND => {
            ApiError::new(404, "NotFound", format!("the server could not find the requested resource: {text}"))
        }
        code => ApiError::new(
            code.as_u16(),
            "",
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(status: Value, expected: Option<&str>) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap();
        let got = endpoint(&node).ok().map(|(host, port)| authority(&host, port));
        assert_eq!(got.as_deref(), expected);
    }

    #[test]
    fn a_node_is_called_at_its_internal_address() {
        let addresses = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}]);
        check(json!({"addresses": addresses}), Some("10.0.0.1:10250"));
        check(json!({"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 7}}}), Some("10.0.0.1:7"));
        check(json!({"addresses": [{"type": "InternalIP", "address": "fd00::1"}]}), Some("[fd00::1]:10250"));
        check(json!({}), None);
    }
}
