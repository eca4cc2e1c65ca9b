//! Pushes with a real client over loopback, pulls into another store, and misbehaves on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use oci_client::client::{ClientConfig, ClientProtocol, ImageLayer};
use oci_client::secrets::RegistryAuth as ClientAuth;
use serde_json::{Value, json};
use tower::ServiceExt;
use wharf_cri::{Images, RegistryAuth};
use wharf_oci::import::Artifact;
use wharf_oci::manifest::{OCI_INDEX, OCI_MANIFEST, WASM_CONFIG, WASM_LAYER};
use wharf_oci::pull::Config;
use wharf_oci::{Digest, Puller, Registry, Store};

const MODULE: &[u8] = b"\0asm\x01\0\0\0 a core module";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0 a component";

struct Site {
    _folder: tempfile::TempDir,
    store: Arc<Store>,
    router: Router,
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let router = Registry::new(store.clone()).router();
    Site { _folder: folder, store, router }
}

async fn listen(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

impl Site {
    async fn call(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    /// Pushes without a client: blobs, then the manifest under `tag`.
    async fn push(&self, name: &str, tag: &str, blobs: &[&[u8]], manifest: &[u8]) -> Response {
        for blob in blobs {
            let uri = format!("/v2/{name}/blobs/uploads/?digest={}", Digest::of(blob));
            let reply = self.call(Method::POST, &uri, &[], blob.to_vec()).await;
            assert_eq!(reply.status(), StatusCode::CREATED);
        }
        self.call(Method::PUT, &format!("/v2/{name}/manifests/{tag}"), &[], manifest.to_vec()).await
    }

    async fn push_module(&self, name: &str, tag: &str, module: &[u8]) -> Digest {
        let artifact = Artifact::of(module, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let reply = self.push(name, tag, &[module, &artifact.config], &artifact.manifest).await;
        assert_eq!(reply.status(), StatusCode::CREATED);
        Digest::of(&artifact.manifest)
    }
}

async fn body(reply: Response) -> Vec<u8> {
    reply.into_body().collect().await.unwrap().to_bytes().to_vec()
}

async fn error_code(reply: Response) -> (StatusCode, String) {
    let status = reply.status();
    let body: Value = serde_json::from_slice(&body(reply).await).unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

fn header<'a>(reply: &'a Response, name: &str) -> &'a str {
    reply.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn client() -> oci_client::Client {
    oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })
}

async fn push_with_client(address: SocketAddr, name: &str, module: &[u8]) {
    let artifact = Artifact::of(module, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let layer = ImageLayer::new(module.to_vec(), WASM_LAYER.to_owned(), None);
    let config = oci_client::client::Config::new(artifact.config, WASM_CONFIG.to_owned(), None);
    let reference = format!("{address}/{name}").parse().unwrap();
    client().push(&reference, &[layer], config, &ClientAuth::Anonymous, None).await.unwrap();
}

fn puller() -> (tempfile::TempDir, Arc<Store>, Puller) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store.clone(), Puller::new(store, Config::default()))
}

#[tokio::test]
async fn what_a_client_pushes_another_store_can_pull() {
    let site = site();
    let address = listen(site.router.clone()).await;
    push_with_client(address, "team/hello:v1", COMPONENT).await;
    let (_folder, store, puller) = puller();
    let reference = format!("{address}/team/hello:v1");
    let status = puller.pull(&reference, None).await.unwrap();
    assert!(status.wasm);
    assert_eq!(status.tags, std::slice::from_ref(&reference));
    let image = store.resolve(&status.id).unwrap();
    assert_eq!(std::fs::read(store.module_path(&image)).unwrap(), COMPONENT);
    assert_eq!(puller.image(&reference).await.unwrap().unwrap().id, status.id);
    // By digest too, and a wrong digest is not found.
    puller.pull(&status.digests[0], None).await.unwrap();
    let wrong = format!("{address}/team/hello@{}", Digest::of(b"wrong"));
    let error = puller.pull(&wrong, None).await.unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
    puller.remove(&status.id).await.unwrap();
    assert_eq!(puller.usage().await.unwrap().used_bytes, 0);
}

#[tokio::test]
async fn a_pod_runs_what_was_pushed_here_without_a_copy() {
    let site = site();
    site.push_module("hello", "v1", MODULE).await;
    site.push_module("docker.io/library/imported", "v1", COMPONENT).await;
    let config = Config { embedded_registries: vec!["localhost:5000".to_owned()], ..Config::default() };
    let puller = Puller::new(site.store.clone(), config);
    let before = puller.usage().await.unwrap().used_bytes;
    puller.pull("localhost:5000/hello:v1", None).await.unwrap();
    // An import is there without a pull, under the name that people use.
    let imported = puller.image("imported:v1").await.unwrap().expect("imported");
    assert_eq!(imported.tags, ["docker.io/library/imported:v1"]);
    assert_eq!(puller.usage().await.unwrap().used_bytes, before);
    // A new import replaces it, a missing tag says so, and removing the image leaves the registry's copy.
    site.push_module("docker.io/library/imported", "v1", MODULE).await;
    assert_ne!(puller.image("imported:v1").await.unwrap().unwrap().id, imported.id);
    let error = puller.pull("localhost:5000/hello:v2", None).await.unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
    puller.remove("localhost:5000/hello:v1").await.unwrap();
    puller.pull("localhost:5000/hello:v1", None).await.unwrap();
}

#[tokio::test]
async fn an_import_into_a_running_node_is_found_by_its_short_name() {
    let site = site();
    let registry = listen(site.router.clone()).await.to_string();
    let tags = ["hello:v1", "localhost:5000/hello:v1"];
    let id = wharf_oci::import::push(&registry, COMPONENT.to_vec(), &tags, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let config = Config { embedded_registries: vec!["localhost:5000".to_owned()], ..Config::default() };
    let puller = Puller::new(site.store.clone(), config);
    assert_eq!(puller.image("hello:v1").await.unwrap().unwrap().id, id.to_string());
    assert_eq!(puller.pull("localhost:5000/hello:v1", None).await.unwrap().id, id.to_string());
}

#[tokio::test]
async fn a_linux_style_image_is_unpacked() {
    let site = site();
    let mut tar = tar::Builder::new(Vec::new());
    let mut tar_header = tar::Header::new_gnu();
    tar_header.set_size(MODULE.len() as u64);
    tar.append_data(&mut tar_header, "app.wasm", MODULE).unwrap();
    let layer = tar.into_inner().unwrap();
    let config = br#"{"os":"wasip1","architecture":"wasm","config":{"Entrypoint":["/app.wasm","-v"],"Env":["A=1"]}}"#;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(&layer), "size": layer.len()}],
    }).to_string();
    assert_eq!(site.push("app", "single", &[&layer, config], manifest.as_bytes()).await.status(), StatusCode::CREATED);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{
        "mediaType": OCI_MANIFEST, "digest": Digest::of(manifest.as_bytes()), "size": manifest.len(),
        "platform": {"os": "wasip1", "architecture": "wasm"},
    }]})
    .to_string();
    assert_eq!(site.push("app", "many", &[], index.as_bytes()).await.status(), StatusCode::CREATED);
    let address = listen(site.router.clone()).await;
    let (_folder, store, puller) = puller();
    for tag in ["single", "many"] {
        let status = puller.pull(&format!("{address}/app:{tag}"), None).await.unwrap();
        let image = store.resolve(&status.id).unwrap();
        assert_eq!(std::fs::read(store.module_path(&image)).unwrap(), MODULE);
        assert_eq!(image.run.entrypoint, ["/app.wasm", "-v"]);
        assert_eq!(image.run.env, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(store.blobs().size(&Digest::of(&layer)), None, "the layer is not kept");
    }
}

#[tokio::test]
async fn what_is_not_wasm_is_named_and_not_kept() {
    let site = site();
    let address = listen(site.router.clone()).await;
    let config = br#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/bin/sh"]}}"#;
    let image = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len()},
        "layers": [],
    });
    site.push("linux", "v1", &[config], image.to_string().as_bytes()).await;
    let fake = b"#!/bin/sh\n";
    let artifact = json!({
        "schemaVersion": 2,
        "config": {"mediaType": WASM_CONFIG, "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": WASM_LAYER, "digest": Digest::of(fake), "size": fake.len()}],
    });
    site.push("fake", "v1", &[b"{}", fake], artifact.to_string().as_bytes()).await;
    let (_folder, store, puller) = puller();
    for (name, words) in [("linux", "linux/amd64"), ("fake", "a script")] {
        let error = puller.pull(&format!("{address}/{name}:v1"), None).await.unwrap_err();
        assert!(matches!(error, wharf_cri::Error::ImageInspect(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(store.blobs().all().unwrap().is_empty());
}

/// The registry with `change` between it and the client; it sees the path of the request.
async fn disturbed(site: &Site, change: fn(&str, Response) -> Response) -> SocketAddr {
    let layer = middleware::from_fn(move |request: Request, next: Next| async move {
        let path = request.uri().path().to_owned();
        change(&path, next.run(request).await)
    });
    listen(site.router.clone().layer(layer)).await
}

fn is_module(path: &str) -> bool {
    path.ends_with(Digest::of(MODULE).as_str())
}

#[tokio::test]
async fn damaged_and_broken_transfers_leave_nothing_and_say_why() {
    let site = site();
    site.push_module("hello", "v1", MODULE).await;
    let flipped =
        disturbed(&site, |path, reply| if is_module(path) { vec![0; MODULE.len()].into_response() } else { reply });
    let short =
        disturbed(&site, |path, reply| if is_module(path) { MODULE[..9].to_vec().into_response() } else { reply });
    let failing =
        disturbed(
            &site,
            |path, reply| {
                if path.contains("/blobs/") { StatusCode::BAD_GATEWAY.into_response() } else { reply }
            },
        );
    let denying = disturbed(&site, |_, _| StatusCode::UNAUTHORIZED.into_response());
    let (_folder, store, puller) = puller();
    let cases =
        [(flipped.await, "igest"), (short.await, ""), (failing.await, "502"), (denying.await, "pull access denied")];
    for (address, words) in cases {
        let error = puller.pull(&format!("{address}/hello:v1"), None).await.unwrap_err();
        assert!(matches!(error, wharf_cri::Error::ImagePull(_)), "{error}");
        assert!(error.to_string().contains(words), "{error} has no {words}");
        assert!(store.blobs().all().unwrap().is_empty() && store.images().is_empty(), "{error}");
    }
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = puller.pull(&format!("{free}/hello:v1"), None).await.unwrap_err().to_string();
    assert!(error.contains("onnection refused"), "{error}");
    assert!(matches!(puller.pull("Not A Name", None).await, Err(wharf_cri::Error::Invalid(_))));
}

#[tokio::test]
async fn credentials_are_asked_for_and_never_shared() {
    let site = site();
    site.push_module("secret", "v1", MODULE).await;
    let guard = middleware::from_fn(|request: Request, next: Next| async move {
        // `user:word`
        let good = request.headers().get("authorization").is_some_and(|value| value == "Basic dXNlcjp3b3Jk");
        if good {
            return next.run(request).await;
        }
        let challenge = [("www-authenticate", "Basic realm=\"test\"")];
        (StatusCode::UNAUTHORIZED, challenge, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#)
            .into_response()
    });
    let address = listen(site.router.clone().layer(guard)).await;
    let (_folder, _store, puller) = puller();
    let reference = format!("{address}/secret:v1");
    let auth = RegistryAuth { username: "user".into(), password: "word".into(), identity_token: String::new() };
    puller.pull(&reference, Some(auth)).await.unwrap();
    let error = puller.pull(&reference, None).await.unwrap_err().to_string();
    assert!(error.contains("pull access denied"), "{error}");
}

#[tokio::test]
async fn overlapping_pulls_are_one() {
    static MANIFESTS: AtomicUsize = AtomicUsize::new(0);
    let site = site();
    site.push_module("hello", "v1", MODULE).await;
    let count = middleware::from_fn(|request: Request, next: Next| async move {
        if request.uri().path().contains("/manifests/") {
            MANIFESTS.fetch_add(1, Ordering::SeqCst);
        }
        next.run(request).await
    });
    let address = listen(site.router.clone().layer(count)).await;
    let (_folder, _store, puller) = puller();
    let reference = format!("{address}/hello:v1");
    let results = futures::future::join_all((0..50).map(|_| puller.pull(&reference, None))).await;
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(|status| status == results[0].as_ref().unwrap())));
    assert_eq!(MANIFESTS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn uploads_come_in_one_piece_in_chunks_or_not_at_all() {
    let site = site();
    let digest = Digest::of(MODULE);
    let start = site.call(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    assert_eq!(start.status(), StatusCode::ACCEPTED);
    let location = header(&start, "location").to_owned();
    let chunk = site.call(Method::PATCH, &location, &[("content-range", "0-4")], MODULE[..5].to_vec()).await;
    assert_eq!((chunk.status(), header(&chunk, "range")), (StatusCode::ACCEPTED, "0-4"));
    let gap = site.call(Method::PATCH, &location, &[("content-range", "9-12")], MODULE[9..13].to_vec()).await;
    assert_eq!(gap.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let progress = site.call(Method::GET, &location, &[], "").await;
    assert_eq!((progress.status(), header(&progress, "range")), (StatusCode::NO_CONTENT, "0-4"));
    let end = site.call(Method::PUT, &format!("{location}?digest={digest}"), &[], MODULE[5..].to_vec()).await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_eq!(body(site.call(Method::GET, header(&end, "location"), &[], "").await).await, MODULE);
    // Mounted elsewhere, and read in part.
    let mounted = site.call(Method::POST, &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], "").await;
    assert_eq!(mounted.status(), StatusCode::CREATED);
    let part = site.call(Method::GET, &format!("/v2/b/blobs/{digest}"), &[("range", "bytes=1-3")], "").await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(body(part).await, b"asm");
    // Too short for its digest, and called off.
    let wrong = site.call(Method::POST, &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], "short").await;
    assert_eq!(error_code(wrong).await, (StatusCode::BAD_REQUEST, "DIGEST_INVALID".to_owned()));
    let start = site.call(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = header(&start, "location").to_owned();
    assert_eq!(site.call(Method::DELETE, &location, &[], "").await.status(), StatusCode::NO_CONTENT);
    let gone = site.call(Method::PATCH, &location, &[], "x").await;
    assert_eq!(error_code(gone).await, (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    assert_eq!(site.store.blobs().all().unwrap().len(), 1);
}

#[tokio::test]
async fn manifests_are_negotiated_listed_and_deleted() {
    let site = site();
    let digest = site.push_module("a", "v1", MODULE).await;
    site.push_module("a", "v2", MODULE).await;
    let got = site.call(Method::GET, "/v2/a/manifests/v1", &[("accept", OCI_MANIFEST)], "").await;
    assert_eq!((got.status(), header(&got, "content-type")), (StatusCode::OK, OCI_MANIFEST));
    assert_eq!(header(&got, "docker-content-digest"), digest.as_str());
    let head = site.call(Method::HEAD, &format!("/v2/a/manifests/{digest}"), &[], "").await;
    assert_eq!(head.status(), StatusCode::OK);
    let refused = site.call(Method::GET, "/v2/a/manifests/v1", &[("accept", OCI_INDEX)], "").await;
    assert_eq!(error_code(refused).await, (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN".to_owned()));
    let page = site.call(Method::GET, "/v2/a/tags/list?n=1", &[], "").await;
    assert!(header(&page, "link").contains("n=1&last=v1"));
    let tags: Value =
        serde_json::from_slice(&body(site.call(Method::GET, "/v2/a/tags/list?last=v1", &[], "").await).await).unwrap();
    assert_eq!(tags, json!({"name": "a", "tags": ["v2"]}));
    let catalog: Value =
        serde_json::from_slice(&body(site.call(Method::GET, "/v2/_catalog", &[], "").await).await).unwrap();
    assert_eq!(catalog, json!({"repositories": ["a"]}));
    assert_eq!(site.call(Method::DELETE, "/v2/a/manifests/v1", &[], "").await.status(), StatusCode::ACCEPTED);
    assert_eq!(site.call(Method::GET, "/v2/a/manifests/v1", &[], "").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        site.call(Method::DELETE, &format!("/v2/a/manifests/{digest}"), &[], "").await.status(),
        StatusCode::ACCEPTED
    );
    let gone = site.call(Method::GET, "/v2/a/tags/list", &[], "").await;
    assert_eq!(error_code(gone).await, (StatusCode::NOT_FOUND, "NAME_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn referrers_are_found_by_subject_and_type() {
    let site = site();
    let subject = site.push_module("a", "v1", MODULE).await;
    let referrer = |kind: &str| {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "annotations": {"k": "v"},
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2}, "layers": [],
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
        }).to_string()
    };
    for kind in ["test/signature", "test/sbom"] {
        let manifest = referrer(kind);
        let digest = Digest::of(manifest.as_bytes());
        let put = site.push("a", digest.as_str(), &[b"{}"], manifest.as_bytes()).await;
        assert_eq!(header(&put, "oci-subject"), subject.as_str());
    }
    let list = |query: &'static str| {
        let uri = format!("/v2/a/referrers/{subject}{query}");
        let site = &site;
        async move { serde_json::from_slice::<Value>(&body(site.call(Method::GET, &uri, &[], "").await).await).unwrap() }
    };
    assert_eq!(list("").await["manifests"].as_array().unwrap().len(), 2);
    let signatures = list("?artifactType=test/signature").await;
    assert_eq!(signatures["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(signatures["manifests"][0]["annotations"], json!(BTreeMap::from([("k", "v")])));
}

#[tokio::test]
async fn bad_manifests_and_paths_get_their_codes() {
    let site = site();
    let put = |body: String| site.call(Method::PUT, "/v2/a/manifests/v1", &[], body);
    assert_eq!(error_code(put("{".into()).await).await.1, "MANIFEST_INVALID");
    let orphan =
        json!({"schemaVersion": 2, "layers": [], "config": {"mediaType": "x", "digest": Digest::of(b"?"), "size": 1}});
    assert_eq!(error_code(put(orphan.to_string()).await).await.1, "MANIFEST_BLOB_UNKNOWN");
    let huge = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(5 << 20));
    assert_eq!(put(huge).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let confused = site.call(
        Method::PUT,
        "/v2/a/manifests/v1",
        &[("content-type", OCI_MANIFEST)],
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX}).to_string(),
    );
    assert_eq!(error_code(confused.await).await.1, "MANIFEST_INVALID");
    for (method, uri, code) in [
        (Method::GET, "/v2/a/blobs/sha256:zz", "DIGEST_INVALID"),
        (Method::GET, "/v2/A/tags/list", "NAME_INVALID"),
        (Method::GET, "/v2/none/manifests/v1", "NAME_UNKNOWN"),
        (Method::POST, "/v2/a/tags/list", "UNSUPPORTED"),
        (Method::GET, "/v2/a/nonsense/x", "UNSUPPORTED"),
    ] {
        assert_eq!(error_code(site.call(method, uri, &[], "").await).await.1, code, "{uri}");
    }
    let version = site.call(Method::GET, "/v2/", &[], "").await;
    assert_eq!(
        (version.status(), header(&version, "docker-distribution-api-version")),
        (StatusCode::OK, "registry/2.0")
    );
}

#[tokio::test]
async fn a_broken_upload_leaves_nothing() {
    let site = site();
    let start = site.call(Method::POST, "/v2/a/blobs/uploads/", &[], "").await;
    let location = header(&start, "location").to_owned();
    let pieces = [Ok(&b"some"[..]), Err(std::io::Error::other("cable cut"))];
    let broken = site.call(Method::PATCH, &location, &[], Body::from_stream(futures::stream::iter(pieces))).await;
    assert_eq!(error_code(broken).await.1, "BLOB_UPLOAD_INVALID");
    assert_eq!(site.call(Method::GET, &location, &[], "").await.status(), StatusCode::NOT_FOUND);
    assert!(site.store.blobs().all().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(site.store.root().join("tmp")).unwrap().count(), 0);
}
