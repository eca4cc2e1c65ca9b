//! Conversion by webhook, over TLS.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::Api;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::{definitions, listen};
use wharf_auth::{Pki, ServerNames};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/sizes";
const V2: &str = "/apis/example.com/v2/namespaces/default/sizes";

struct Webhook {
    address: SocketAddr,
    bundle: String,
    asked: Arc<AtomicUsize>,
}

/// Converts between `spec.size: "3x4"` of v1 and `spec.width`, `spec.height` of v2.
async fn webhook() -> Webhook {
    let directory = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::open(directory.path(), Timestamp::now()).expect("PKI");
    let names = ServerNames::of(&["127.0.0.1".to_owned()]);
    let leaf = pki.serving("system:node:n", &names, Timestamp::now()).expect("a certificate");
    let acceptor = TlsAcceptor::from(listen::tls(&pki, &leaf).expect("TLS"));
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = socket.local_addr().expect("an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let count = count.clone();
            let service = hyper::service::service_fn(move |request| answer(request, count.clone()));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let bundle = base64::engine::general_purpose::STANDARD.encode(pki.ca_pem());
    Webhook { address, bundle, asked }
}

async fn answer(request: Request<Incoming>, asked: Arc<AtomicUsize>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    asked.fetch_add(1, Ordering::SeqCst);
    let body = request.into_body().collect().await?.to_bytes();
    let mut review: Value = serde_json::from_slice(&body).expect("a review");
    let wanted = review["request"]["desiredAPIVersion"].clone();
    let objects = review["request"]["objects"].as_array().cloned().unwrap_or_default();
    let result = match objects.iter().any(|object| object["spec"]["size"] == "broken") {
        true => json!({"status": "Failed", "message": "no size is broken"}),
        false => json!({"status": "Success"}),
    };
    let converted: Vec<Value> = objects.into_iter().map(|object| convert(object, &wanted)).collect();
    review["response"] = json!({"uid": review["request"]["uid"], "result": result, "convertedObjects": converted});
    Ok(Response::new(Full::new(review.to_string().into())))
}

fn convert(mut object: Value, wanted: &Value) -> Value {
    object["apiVersion"] = wanted.clone();
    if wanted == "example.com/v2" {
        let size = object["spec"]["size"].as_str().unwrap_or_default().to_owned();
        let (width, height) = size.split_once('x').unwrap_or(("0", "0"));
        object["spec"] =
            json!({"width": width.parse::<u32>().unwrap_or(0), "height": height.parse::<u32>().unwrap_or(0)});
    } else {
        object["spec"] = json!({"size": format!("{}x{}", object["spec"]["width"], object["spec"]["height"])});
    }
    object
}

async fn with_sizes(webhook: &Webhook) -> Api {
    with_sizes_on(Api::with_namespace().await, webhook).await
}

async fn with_sizes_on(api: Api, webhook: &Webhook) -> Api {
    tokio::spawn(definitions::run(api.server.clone(), CancellationToken::new()));
    let version = |name: &str, storage: bool, properties: Value| {
        let selectable: Vec<Value> = properties
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.keys())
            .map(|field| json!({"jsonPath": format!(".spec.{field}")}))
            .collect();
        let spec = json!({"type": "object", "properties": properties});
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
        json!({"name": name, "served": true, "storage": storage, "schema": schema, "selectableFields": selectable})
    };
    let crd = json!({
        "metadata": {"name": "sizes.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "sizes", "kind": "Size"},
            "versions": [
                version("v1", true, json!({"size": {"type": "string"}})),
                version("v2", false, json!({"width": {"type": "integer"}, "height": {"type": "integer"}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://{}/convert", webhook.address), "caBundle": webhook.bundle},
            }},
        },
    });
    let mut watch = api.watch(&format!("{CRDS}?watch=true")).await;
    api.post(CRDS, &crd).await.expect(201);
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|held| held["type"] == "Established" && held["status"] == "True") {
            return api;
        }
    }
}

fn size(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Size", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_webhook_shows_each_version_its_own_way() {
    let webhook = webhook().await;
    let api = with_sizes(&webhook).await;
    let asked = || webhook.asked.load(Ordering::SeqCst);
    api.post(V1, &size("v1", "a", json!({"size": "3x4"}))).await.expect(201);
    api.get(&format!("{V1}/a")).await.expect(200);
    assert_eq!(asked(), 0, "the stored version needs no webhook");
    let shown = api.get(&format!("{V2}/a")).await.expect(200);
    assert_eq!(shown["spec"], json!({"width": 3, "height": 4}));
    assert!(shown["metadata"]["resourceVersion"].is_string() && shown["metadata"]["uid"].is_string());

    let created = api.post(V2, &size("v2", "b", json!({"width": 5, "height": 6}))).await.expect(201);
    assert_eq!(created["spec"], json!({"width": 5, "height": 6}));
    assert_eq!(api.get(&format!("{V1}/b")).await.expect(200)["spec"], json!({"size": "5x6"}));
    let before = asked();
    let listed = api.get(V2).await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(asked(), before + 1, "a list is converted at once");

    let patched = api.patch(&format!("{V2}/a"), "merge", &json!({"spec": {"width": 9}})).await.expect(200);
    assert_eq!(patched["spec"], json!({"width": 9, "height": 4}));
    assert_eq!(api.get(&format!("{V1}/a")).await.expect(200)["spec"], json!({"size": "9x4"}));
}

#[tokio::test]
async fn watchers_of_a_version_share_one_conversion() {
    let webhook = webhook().await;
    let api = with_sizes(&webhook).await;
    let (mut first, mut second) =
        (api.watch(&format!("{V2}?watch=true")).await, api.watch(&format!("{V2}?watch=true")).await);
    api.post(V1, &size("v1", "a", json!({"size": "1x2"}))).await.expect(201);
    let event = first.next().await.expect("an event");
    assert_eq!(event["object"]["spec"], json!({"width": 1, "height": 2}));
    assert_eq!(second.next().await.expect("an event"), event);
    assert!(webhook.asked.load(Ordering::SeqCst) <= 2);
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn each_version_is_selected_by_fields_of_its_own() {
    let webhook = webhook().await;
    let api = with_sizes(&webhook).await;
    let select = |path: &str, fields: &str| format!("{path}?fieldSelector={}", fields.replace('=', "%3D"));
    let watch = |path: &str, fields: &str| format!("{}&watch=true", select(path, fields));
    let mut wide = api.watch(&watch(V2, "spec.width=3")).await;
    let mut exact = api.watch(&watch(V2, "spec.width=3,spec.height=4")).await;
    let mut sized = api.watch(&watch(V1, "spec.size=3x4")).await;
    for (name, width, height) in [("a", 3, 4), ("b", 3, 8), ("c", 5, 8)] {
        api.post(V2, &size("v2", name, json!({"width": width, "height": height}))).await.expect(201);
    }
    assert_eq!(names(&api.get(&select(V2, "spec.width=3")).await.expect(200)), ["a", "b"]);
    assert_eq!(names(&api.get(&select(V2, "spec.width!=3")).await.expect(200)), ["c"]);
    assert_eq!(names(&api.get(&select(V2, "spec.width=3,metadata.name=b")).await.expect(200)), ["b"]);
    assert_eq!(names(&api.get(&select(V1, "spec.size=3x8")).await.expect(200)), ["b"]);
    api.get(&select(V1, "spec.width=3")).await.refused(400, "BadRequest", "field label not supported: spec.width");

    let limited = format!("{}&limit=1", select(V2, "spec.width=3"));
    let first = api.get(&limited).await.expect(200);
    assert_eq!(names(&first), ["a"]);
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let second = api.get(&format!("{limited}&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["b"]);
    assert!(second["metadata"]["continue"].is_null(), "{second}");

    api.delete(&select(V2, "spec.width=3,spec.height=4")).await.expect(200);
    api.patch(&format!("{V2}/b"), "merge", &json!({"spec": {"width": 9}})).await.expect(200);
    assert_eq!(names(&api.get(&select(V2, "spec.width=3")).await.expect(200)), [""; 0]);
    for expected in ["ADDED a", "ADDED b", "DELETED a"] {
        assert_eq!(wide.event().await, expected);
    }
    let left = wide.next().await.expect("an event");
    assert_eq!((&left["type"], &left["object"]["spec"]["width"]), (&json!("DELETED"), &json!(3)), "as it was");
    for watch in [&mut exact, &mut sized] {
        assert_eq!(watch.event().await, "ADDED a");
        assert_eq!(watch.event().await, "DELETED a");
    }
}

#[tokio::test]
async fn a_webhook_that_fails_is_told_in_upstreams_words() {
    let webhook = webhook().await;
    let api = with_sizes(&webhook).await;
    api.post(V1, &size("v1", "a", json!({"size": "broken"}))).await.expect(201);
    api.get(&format!("{V1}/a")).await.expect(200);
    let refused = api.get(&format!("{V2}/a")).await.expect(500);
    assert_eq!(refused["message"], "conversion webhook for example.com/v1, Kind=Size failed: no size is broken");
}

#[tokio::test]
async fn a_policy_for_one_version_judges_what_is_written_in_another() {
    const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let webhook = webhook().await;
    let api = with_sizes_on(Api::admitting().await, &webhook).await;
    let rule =
        json!({"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["sizes"]});
    let spec = json!({
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.spec.size == '3x4'", "messageExpression": "'not ' + object.spec.size"}],
    });
    api.post(POLICIES, &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    api.post(&POLICIES.replace("policies", "policybindings"), &binding).await.expect(201);
    api.post(V2, &size("v2", "a", json!({"width": 3, "height": 4}))).await.expect(201);
    let other = size("v2", "b", json!({"width": 5, "height": 6}));
    api.post(V2, &other).await.refused(422, "Invalid", "denied request: not 5x6");
}
