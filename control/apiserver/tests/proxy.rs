//! `proxy` of pods, services and nodes: what goes through, what is changed on the way, what is refused.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::{Api, PODS, pod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wharf_auth::{Attributes, Authorizer, Decision, User};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A pod's server on a rootless pod's address: it tells what it was asked, or does what the path says.
async fn backend(last: u8) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, last)) | (std::process::id() & 0x7ff) << 8);
    let socket = TcpListener::bind((ip, 0)).await.expect("bind");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let service = hyper::service::service_fn(answer);
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (path, response) = (request.uri().path().to_owned(), Response::builder());
    let response = match path.as_str() {
        "/redirect" => response.status(302).header(header::LOCATION, "/there?x=1").body("".into()),
        "/page" => {
            response.header(header::CONTENT_TYPE, "text/html; charset=utf-8").body("<a href=\"/x\">y</a>".into())
        }
        "/echo" if request.headers().contains_key(header::UPGRADE) => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.expect("a word");
                stream.write_all(&word).await.expect("an echo");
                stream.shutdown().await.expect("an end");
            });
            response.status(101).header("connection", "Upgrade").header("upgrade", "echo").body("".into())
        }
        _ => {
            let headers: Vec<(String, String)> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect();
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let body = request.into_body().collect().await?.to_bytes();
            let told = json!({"method": method, "uri": uri, "body": String::from_utf8_lossy(&body),
                "headers": headers.into_iter().collect::<std::collections::BTreeMap<_, _>>()});
            response
                .header("access-control-allow-origin", "*")
                .header("keep-alive", "timeout=5")
                .header("x-own", "kept")
                .body(told.to_string().into())
        }
    };
    Ok(response.expect("a response"))
}

async fn with_pod(address: SocketAddr) -> Api {
    let api = Api::with_namespace().await;
    add_pod(&api, "web", address).await;
    api
}

async fn add_pod(api: &Api, name: &str, address: SocketAddr) {
    let mut object = pod(name);
    object["spec"]["containers"][0]["ports"] = json!([{"containerPort": address.port()}]);
    api.post(PODS, &object).await.expect(201);
    let ip = address.ip().to_string();
    let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    api.patch(&format!("{PODS}/{name}/status"), "merge", &status).await.expect(200);
}

#[tokio::test]
async fn a_request_goes_through_as_it_is() {
    let address = backend(1).await;
    let api = with_pod(address).await;
    let proxy = format!("{PODS}/web/proxy");
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let sent = [("content-type", "text/plain"), ("authorization", "Bearer mine"), ("x-mine", "1"), ("te", "gzip")];
        let answer = api.request(method.clone(), &format!("{proxy}/a/b%20c/?q=1&r"), &sent, "body").await;
        assert_eq!(answer.headers["x-own"], "kept");
        for gone in ["access-control-allow-origin", "keep-alive"] {
            assert!(!answer.headers.contains_key(gone), "{gone}");
        }
        let told = answer.expect(200);
        assert_eq!((told["method"].as_str(), told["uri"].as_str()), (Some(method.as_str()), Some("/a/b%20c/?q=1&r")));
        assert_eq!(told["body"], "body");
        assert_eq!(told["headers"]["x-mine"], "1");
        assert_eq!(told["headers"]["x-forwarded-uri"], format!("{proxy}/a/b%20c/"));
        assert_eq!((&told["headers"]["authorization"], &told["headers"]["te"]), (&Value::Null, &Value::Null));
    }
    let head = api.request(Method::HEAD, &format!("{proxy}/x"), &[], "").await;
    assert_eq!((head.code.as_u16(), head.bytes.len()), (200, 0));
    api.request(Method::TRACE, &format!("{proxy}/x"), &[], "").await.refused(405, "MethodNotAllowed", "does not allow");
}

fn location(answer: &support::Answer) -> String {
    answer.headers["location"].to_str().expect("text").to_owned()
}

#[tokio::test]
async fn names_paths_and_answers_are_read_as_upstream_reads_them() {
    let address = backend(2).await;
    let api = with_pod(address).await;
    let by_port = format!("{PODS}/web:{}/proxy", address.port());
    assert_eq!(api.get(&format!("{by_port}/x")).await.expect(200)["uri"], "/x");
    assert_eq!(api.get(&format!("{PODS}/http:web:/proxy/")).await.expect(200)["uri"], "/");
    assert_eq!(api.get(&format!("{by_port}/a/%2e%2e/%2e%2e/b")).await.expect(200)["uri"], "/b");
    let root = api.get(&format!("{by_port}?a=b")).await;
    assert_eq!((root.code.as_u16(), location(&root)), (301, format!("{by_port}/?a=b")));
    let redirect = api.get(&format!("{by_port}/redirect")).await;
    assert_eq!((redirect.code.as_u16(), location(&redirect)), (302, format!("{by_port}/there?x=1")));
    let page = api.get(&format!("{by_port}/page")).await;
    assert_eq!(page.bytes, format!("<a href=\"{by_port}/x\">y</a>"));
    api.get(&format!("{PODS}/ftp:web:1/proxy/x")).await.refused(400, "BadRequest", "invalid pod request \"ftp:web:1\"");
    api.get(&format!("{PODS}/no/proxy/x")).await.refused(404, "NotFound", "pods \"no\" not found");
    api.get(&format!("{PODS}/web:1/proxy/x")).await.refused(
        503,
        "ServiceUnavailable",
        &format!("error trying to reach service: dial tcp {}:1: connect: connection refused", address.ip()),
    );
    add_pod(&api, "host", "127.0.0.1:80".parse().expect("an address")).await;
    api.get(&format!("{PODS}/host/proxy/x")).await.refused(400, "BadRequest", "address not allowed");
}

#[tokio::test]
async fn a_service_is_reached_through_a_ready_endpoint_that_is_a_pod() {
    let address = backend(3).await;
    let api = with_pod(address).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "selector": {"a": "b"},
        "ports": [{"name": "http", "port": 80}]}});
    api.post(SERVICES, &service).await.expect(201);
    let proxy = |id: &str| format!("{SERVICES}/{id}/proxy/x");
    api.get(&proxy("web:http")).await.refused(503, "ServiceUnavailable", "no endpoints available for service \"web\"");
    let endpoint = |ip: &str, ready: bool, name: &str| {
        json!({"addresses": [ip], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": name}})
    };
    let own = address.ip().to_string();
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": address.port()}],
        "endpoints": [endpoint("127.64.250.1", true, "web"), endpoint(&own, true, "web"), endpoint(&own, false, "gone")]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.post(slices, &slice).await.expect(201);
    for id in ["web:http", "web:80", "http:web:http"] {
        assert_eq!(api.get(&proxy(id)).await.expect(200)["uri"], "/x", "{id}");
    }
    api.get(&proxy("web:81")).await.refused(503, "ServiceUnavailable", "no service port 81 found for service \"web\"");
    let none = api.get(&proxy("web:https")).await;
    none.refused(503, "ServiceUnavailable", "no endpoints available for service \"web:https\"");
    api.get(&proxy("no:http")).await.refused(404, "NotFound", "services \"no\" not found");
}

/// Sends a GET that asks for an upgrade and returns the head of the answer and what comes after a word is sent.
async fn upgrade(server: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\nword");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(support::DEADLINE, read).await.expect("an end in time").expect("text");
    answer
}

#[tokio::test]
async fn an_upgrade_joins_both_ends() {
    let address = backend(4).await;
    let api = with_pod(address).await;
    let answer = upgrade(api.listen().await, &format!("{PODS}/web/proxy/echo")).await;
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nword"), "{answer}");
}

/// Allows all verbs but one.
struct AllBut(&'static str);

#[async_trait]
impl Authorizer for AllBut {
    async fn authorize(&self, _: &User, attributes: &Attributes) -> Decision {
        let refused = attributes.verb == self.0 && !attributes.subresource.is_empty();
        if refused { Decision::NoOpinion("not you".to_owned()) } else { Decision::Allow(String::new()) }
    }
}

#[tokio::test]
async fn who_may_only_read_opens_no_stream() {
    let api = Api::guarded(None, Arc::new(AllBut("create"))).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    api.post(PODS, &pod("web")).await.expect(201);
    for stream in ["exec", "attach", "portforward"] {
        let refused = api.get(&format!("{PODS}/web/{stream}?command=x")).await;
        refused.refused(403, "Forbidden", "pods \"web\" is forbidden: not you");
    }
    let api = Api::with_namespace().await;
    api.post(PODS, &pod("web")).await.expect(201);
    let nowhere = api.post(&format!("{PODS}/web/exec?command=x"), &json!({})).await;
    nowhere.refused(400, "BadRequest", "pod web does not have a host assigned");
}
