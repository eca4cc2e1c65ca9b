//! Groups of other servers: who gets through to them, what they are told, and how they show.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::{Api, DEADLINE};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::aggregate::FrontProxy;
use wharf_apiserver::aggregate::availability::{self, Authorities};
use wharf_apiserver::bootstrap::{self, Location};
use wharf_apiserver::listen;
use wharf_auth::{Identity, Pki, ServerNames, Shown};

struct Cluster {
    api: Api,
    address: SocketAddr,
    ca: String,
    /// Ends the extension server.
    down: CancellationToken,
    cancel: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A server with an extension server beside it, which asks for the front proxy's certificate.
async fn cluster() -> Cluster {
    cluster_with(Schemas::Both).await
}

/// Which versions of OpenAPI an extension server publishes.
#[derive(Clone, Copy, PartialEq)]
enum Schemas {
    Both,
    Version2,
}

async fn cluster_with(schemas: Schemas) -> Cluster {
    let directory = tempfile::tempdir().expect("temporary directory");
    let now = Timestamp::now();
    let own = Pki::open(&directory.path().join("own"), now).expect("PKI");
    let front = Pki::open(&directory.path().join("front"), now).expect("PKI");
    let leaf = own.serving("wardle", &ServerNames::of(&["wardle.default.svc".to_owned()]), now).expect("a certificate");
    let acceptor = TlsAcceptor::from(listen::tls(&front, &leaf).expect("TLS"));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = socket.local_addr().expect("an address");
    let down = CancellationToken::new();
    let ended = down.clone();
    let serve = async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let shown = stream.get_ref().1.peer_certificates().is_some();
            let service = hyper::service::service_fn(move |request| answer(request, shown, schemas));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(ended.clone().run_until_cancelled_owned(served));
        }
    };
    tokio::spawn(down.clone().run_until_cancelled_owned(serve));
    let shown = front.client(&Identity::new("front-proxy-client", &[]), now).expect("a client");
    let shown = Shown::new(&shown).expect("a certificate and its key");
    let api = Api::with(|options| options.front_proxy = Some(FrontProxy(shown))).await;
    for name in ["default", "kube-system"] {
        api.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let cancel = CancellationToken::new();
    let published = |pem: &str| tokio::sync::watch::channel(pem.to_owned()).1;
    let authorities = Authorities { clients: published("CLIENTS"), front_proxy: published("FRONT") };
    tokio::spawn(availability::keep(api.server.clone(), authorities, cancel.clone()));
    Cluster { api, address, ca: own.ca_pem(), down, cancel }
}

async fn answer(
    request: Request<Incoming>,
    shown: bool,
    schemas: Schemas,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().to_string();
    if path.starts_with("/openapi/v3") && schemas == Schemas::Version2 {
        return Ok(Response::builder().status(404).body(Full::default()).expect("a response"));
    }
    let all = |name: &str| {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let body = match path.as_str() {
        "/apis/wardle.example.com/v1" => json!({"kind": "APIResourceList", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["list"]}]}),
        "/openapi/v3" => json!({"paths": {"apis/wardle.example.com/v1": {
            "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=ABC"}}}),
        "/openapi/v2" => {
            let unchanged = request.headers().get(header::IF_NONE_MATCH).is_some_and(|tag| tag == SWAGGER_TAG);
            let response = Response::builder().header(header::ETAG, SWAGGER_TAG);
            let response = if unchanged { response.status(304) } else { response };
            let body = if unchanged { Bytes::new() } else { swagger().to_string().into() };
            return Ok(response.body(body.into()).expect("a response"));
        }
        "/apis/wardle.example.com/v1/away" => {
            let response = Response::builder().status(302).header(header::LOCATION, "https://evil.example/");
            return Ok(response.body(Full::default()).expect("a response"));
        }
        _ => json!({"uri": path, "shown": shown, "user": all("x-remote-user"), "groups": all("x-remote-group"),
            "authorization": all("authorization")}),
    };
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json").body(body.to_string().into());
    Ok(response.expect("a response"))
}

const SWAGGER_TAG: &str = "\"1\"";

/// What the extension server says of its schemas: also of what is not its own to say.
fn swagger() -> Value {
    let reply = |name: &str| json!({"responses": {"200": {"description": "OK", "schema": {"$ref": format!("#/definitions/{name}")}}}, "produces": ["application/json"]});
    json!({
        "swagger": "2.0", "info": {"title": "wardle", "version": "v1"},
        "paths": {
            "/apis/wardle.example.com/v1/flunders": {"get": reply("example.Flunder")},
            "/apis/wardle.example.com/v1/statuses": {"get": reply("io.k8s.apimachinery.pkg.apis.meta.v1.Status")},
            "/apis/apps/v1/deployments": {"get": reply("example.Wrong")},
        },
        "definitions": {
            "example.Flunder": {"type": "object", "x-kubernetes-group-version-kind": [
                {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}]},
            "example.Wrong": {"type": "object"},
            "io.k8s.apimachinery.pkg.apis.meta.v1.Status": {"type": "object", "description": "not ours"},
        },
    })
}

const APISERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

impl Cluster {
    async fn add_service(&self) {
        let service = json!({"metadata": {"name": "wardle"}, "spec": {"clusterIP": "None", "ports": [{"name": "https", "port": 443}]}});
        self.api.post("/api/v1/namespaces/default/services", &service).await.expect(201);
        let slice = json!({"metadata": {"name": "wardle-1", "labels": {"kubernetes.io/service-name": "wardle"}},
            "addressType": "IPv4", "ports": [{"name": "https", "port": self.address.port()}],
            "endpoints": [{"addresses": [self.address.ip().to_string()], "conditions": {"ready": true}}]});
        self.api.post(SLICES, &slice).await.expect(201);
    }

    async fn add(&self) {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        let object = json!({"metadata": {"name": "v1.wardle.example.com"}, "spec": {
            "group": "wardle.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": ca, "service": {"namespace": "default", "name": "wardle", "port": 443}}});
        self.api.post(APISERVICES, &object).await.expect(201);
    }

    /// Waits until the condition has this reason.
    async fn becomes(&self, reason: &str) -> Value {
        let wait = async {
            loop {
                let object = self.api.get(&format!("{APISERVICES}/v1.wardle.example.com")).await.expect(200);
                let condition = &object["status"]["conditions"][0];
                if condition["reason"] == reason {
                    return condition.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("the reason becomes {reason}"))
    }
}

const GROUP: &str = "/apis/wardle.example.com/v1";

#[tokio::test]
async fn another_servers_group_is_reached_as_the_user_and_shown_in_discovery() {
    let cluster = cluster().await;
    cluster.api.get(&format!("{GROUP}/flunders")).await.expect(404);
    cluster.add_service().await;
    cluster.add().await;
    let condition = cluster.becomes("Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));
    let claims = [("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("authorization", "Bearer mine")];
    let told = cluster.api.request(Method::GET, &format!("{GROUP}/flunders?limit=5"), &claims, "").await.expect(200);
    assert_eq!(told["uri"], format!("{GROUP}/flunders?limit=5"));
    assert_eq!((&told["shown"], &told["user"]), (&json!(true), &json!(["tester"])));
    assert_eq!((&told["groups"], &told["authorization"]), (&json!(["system:authenticated"]), &json!([])));
    let away = cluster.api.get(&format!("{GROUP}/away")).await;
    assert_eq!((away.code.as_u16(), away.headers.get("location")), (502, None));

    let groups = cluster.api.get("/apis").await.expect(200);
    let last = groups["groups"].as_array().expect("groups").last().expect("a group").clone();
    assert_eq!(last["preferredVersion"]["groupVersion"], "wardle.example.com/v1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = cluster.api.get_as("/apis", accept).await.expect(200);
    let last = aggregated["items"].as_array().expect("items").last().expect("a group").clone();
    assert_eq!(last["versions"][0]["resources"][0]["resource"], "flunders");
    let index = cluster.api.get("/openapi/v3").await.expect(200);
    let url = "/openapi/v3/apis/wardle.example.com/v1?hash=ABC";
    assert_eq!(index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"], url);
    assert_eq!(cluster.api.get(url).await.expect(200)["uri"], url);
    assert_eq!(cluster.api.get(GROUP).await.expect(200)["kind"], "APIResourceList");

    let all = cluster.api.get("/openapi/v2").await.expect(200);
    let flunders = &all["paths"][format!("{GROUP}/flunders")]["get"]["responses"]["200"]["schema"]["$ref"];
    assert_eq!(
        (flunders, all["definitions"]["example.Flunder"].is_object()),
        (&json!("#/definitions/example.Flunder"), true)
    );
    let status = &all["paths"][format!("{GROUP}/statuses")]["get"]["responses"]["200"]["schema"]["$ref"];
    assert_eq!(status, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status_v2");
    assert!(all["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.Status"]["properties"].is_object());
    assert!(
        all["paths"]["/apis/apps/v1/deployments"]["get"]["operationId"].is_string()
            && all["definitions"].get("example.Wrong").is_none()
    );
    let packed = cluster.api.get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf").await;
    assert!(packed.bytes.windows(15).any(|window| window == b"example.Flunder"), "the form that client-go reads");
}

#[tokio::test]
async fn version_3_is_made_for_a_server_that_publishes_version_2_alone() {
    let cluster = cluster_with(Schemas::Version2).await;
    cluster.add_service().await;
    cluster.add().await;
    cluster.becomes("Passed").await;
    let index = cluster.api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/wardle.example.com/v1"]["serverRelativeURL"].as_str().expect("a place").to_owned();
    assert!(url.starts_with("/openapi/v3/apis/wardle.example.com/v1?hash="), "{url}");
    let document = cluster.api.get(&url).await.expect(200);
    assert_eq!(document["openapi"], "3.0.0");
    let flunder = &document["components"]["schemas"]["example.Flunder"];
    assert_eq!(flunder["x-kubernetes-group-version-kind"][0]["kind"], "Flunder");
    let reply = &document["paths"][format!("{GROUP}/flunders")]["get"]["responses"]["200"];
    assert_eq!(reply["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/example.Flunder");
    cluster.api.delete(&format!("{APISERVICES}/v1.wardle.example.com")).await.expect(200);
    let gone = async {
        while cluster.api.get("/openapi/v3/apis/wardle.example.com/v1").await.code != 404 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the document goes with its APIService");
}

#[tokio::test]
async fn a_server_that_has_died_is_told_of_as_stale() {
    let cluster = cluster().await;
    cluster.add_service().await;
    cluster.add().await;
    cluster.becomes("Passed").await;
    cluster.down.cancel();
    let touched = json!({"metadata": {"labels": {"touched": "yes"}}});
    cluster.api.patch(&format!("{APISERVICES}/v1.wardle.example.com"), "merge", &touched).await.expect(200);
    let refused = cluster.api.get(&format!("{GROUP}/flunders")).await;
    let text = String::from_utf8_lossy(&refused.bytes).into_owned();
    let known =
        ["service unavailable\n", "error trying to reach service: "].iter().any(|start| text.starts_with(start));
    assert!(refused.code == 503 && known, "{} {text}", refused.code);
    let condition = cluster.becomes("FailedDiscoveryCheck").await;
    let message = condition["message"].as_str().expect("a message");
    let why = format!("failing or missing response from https://{}{GROUP}: ", cluster.address);
    assert!(message.starts_with(&why), "{message}");
    let refused = cluster.api.get(&format!("{GROUP}/flunders")).await;
    assert_eq!((refused.code.as_u16(), &refused.bytes[..]), (503, &b"service unavailable\n"[..]));
    assert_eq!(refused.headers["content-type"], "text/plain; charset=utf-8");

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = cluster.api.get_as("/apis", accept).await.expect(200);
    let items = aggregated["items"].as_array().expect("items");
    let wardle = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").expect("the group");
    assert_eq!(wardle["versions"][0]["freshness"], "Stale");
    assert_eq!(wardle["versions"][0]["resources"][0]["resource"], "flunders", "what was known of it");
    let group = cluster.api.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group["versions"][0]["groupVersion"], "wardle.example.com/v1");
    cluster.api.delete(&format!("{APISERVICES}/v1.wardle.example.com")).await.expect(200);
    let gone = async {
        while cluster.api.get("/apis/wardle.example.com").await.code != 404 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the group goes with its APIService");
}

#[tokio::test]
async fn kubectl_sees_who_serves_what() {
    let cluster = cluster().await;
    let listener = SocketAddr::from(([127, 0, 0, 1], 6443));
    let services = "127.96.0.0/16".parse().expect("a range");
    let at = Location { service_ip: [127, 96, 0, 1].into(), services, listener };
    bootstrap::ensure(&cluster.api.server, at).await.expect("bootstrap");
    cluster.add_service().await;
    cluster.add().await;
    cluster.becomes("Passed").await;
    let table = cluster.api.get_as(APISERVICES, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Service", "Available", "Age"]);
    let rows: Vec<String> = table["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let cells = row["cells"].as_array().expect("cells").iter().take(3);
            cells.map(|cell| cell.as_str().unwrap_or_default()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    for row in [
        "v1. Local True",
        "v1.apps Local True",
        "v2.autoscaling Local True",
        "v1.wardle.example.com default/wardle True",
    ] {
        assert!(rows.iter().any(|held| held == row), "{row} is not among {rows:?}");
    }
    // Every version that is served but the one that tells of the others, and metrics.
    assert_eq!(rows.iter().filter(|row| row.contains(" Local True")).count(), 23);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_unavailable() {
    let cluster = cluster().await;
    cluster.add().await;
    let condition = cluster.becomes("ServiceNotFound").await;
    assert_eq!(condition["message"], "service/wardle in \"default\" is not present");
    let refused = cluster.api.get(&format!("{GROUP}/flunders")).await;
    assert_eq!((refused.code.as_u16(), &refused.bytes[..]), (503, &b"service unavailable\n"[..]));
    cluster.add_service().await;
    cluster.becomes("Passed").await;
    cluster.api.delete(&format!("{SLICES}/wardle-1")).await.expect(200);
    cluster.becomes("EndpointsNotFound").await;
    assert_eq!(cluster.api.get(&format!("{GROUP}/flunders")).await.code, 503);
    let trust = cluster
        .api
        .get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
        .await
        .expect(200);
    assert_eq!(
        (&trust["data"]["client-ca-file"], &trust["data"]["requestheader-client-ca-file"]),
        (&json!("CLIENTS"), &json!("FRONT"))
    );
    assert_eq!(trust["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
}
