//! A KMS plugin: a real gRPC server on a unix socket, which comes, goes and changes its key.

mod support;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use support::{Api, CONFIG_MAPS, DEADLINE, IN_DEFAULT, config_map};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use wharf_apiserver::encryption::kms::client::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use wharf_apiserver::encryption::{Encrypted, Kms, ReloadMetrics, Surroundings};
use wharf_auth::Follow;
use wharf_cache::Cache;
use wharf_registry::{Table, builtin};
use wharf_store::sealed::{Identity, Provider, Random, Rule, Sealed};
use wharf_store::{Change, MemoryStore, Precondition, Store};

const KEY: &str = "/registry/secrets/a/b";

/// What the plugin says and has been asked.
#[derive(Clone)]
struct State {
    key_id: &'static str,
    /// What Encrypt says, where that is another.
    encrypts_with: Option<&'static str>,
    healthz: &'static str,
    version: &'static str,
    silent: bool,
    asked: Vec<&'static str>,
}

#[derive(Clone)]
struct Plugin(Arc<Mutex<State>>);

/// Not much of a cipher, but another one for each key.
fn scramble(key_id: &str, bytes: &[u8]) -> Vec<u8> {
    let key: u8 = key_id.bytes().fold(7, |key, byte| key.wrapping_mul(31).wrapping_add(byte));
    bytes.iter().map(|byte| byte ^ key).collect()
}

type Answer<A> = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

impl UnaryService<StatusRequest> for Plugin {
    type Response = StatusResponse;
    type Future = Answer<StatusResponse>;

    fn call(&mut self, _: Request<StatusRequest>) -> Self::Future {
        let mut state = self.0.lock();
        state.asked.push("status");
        let State { key_id, healthz, version, silent, .. } = state.clone();
        Box::pin(async move {
            if silent {
                std::future::pending::<()>().await;
            }
            Ok(Response::new(StatusResponse {
                version: version.to_owned(),
                healthz: healthz.to_owned(),
                key_id: key_id.to_owned(),
            }))
        })
    }
}

impl UnaryService<EncryptRequest> for Plugin {
    type Response = EncryptResponse;
    type Future = Answer<EncryptResponse>;

    fn call(&mut self, request: Request<EncryptRequest>) -> Self::Future {
        let mut state = self.0.lock();
        state.asked.push("encrypt");
        let key_id = state.encrypts_with.unwrap_or(state.key_id);
        let ciphertext = scramble(key_id, &request.into_inner().plaintext);
        let annotations = [("version.example.org".to_owned(), b"1".to_vec())].into();
        Box::pin(
            async move { Ok(Response::new(EncryptResponse { ciphertext, key_id: key_id.to_owned(), annotations })) },
        )
    }
}

impl UnaryService<DecryptRequest> for Plugin {
    type Response = DecryptResponse;
    type Future = Answer<DecryptResponse>;

    fn call(&mut self, request: Request<DecryptRequest>) -> Self::Future {
        self.0.lock().asked.push("decrypt");
        let DecryptRequest { ciphertext, key_id, annotations, .. } = request.into_inner();
        Box::pin(async move {
            match annotations.contains_key("version.example.org") && key_id != "lost" {
                true => Ok(Response::new(DecryptResponse { plaintext: scramble(&key_id, &ciphertext) })),
                false => Err(Status::not_found("there is no such key")),
            }
        })
    }
}

impl Plugin {
    fn new() -> Self {
        let (key_id, healthz, version) = ("k1", "ok", "v2");
        let state = State { key_id, encrypts_with: None, healthz, version, silent: false, asked: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock());
    }

    fn asked(&self, what: &str) -> usize {
        self.0.lock().asked.iter().filter(|asked| **asked == what).count()
    }

    /// Serves until the task is aborted.
    fn serve(&self, socket: &PathBuf) -> JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let (listener, plugin) = (UnixListener::bind(socket).expect("bind"), self.clone());
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let plugin = plugin.clone();
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let plugin = plugin.clone();
                    async move {
                        let answer = match request.uri().path() {
                            "/v2.KeyManagementService/Status" => {
                                let codec = ProstCodec::<StatusResponse, StatusRequest>::default();
                                Grpc::new(codec).unary(plugin, request).await
                            }
                            "/v2.KeyManagementService/Encrypt" => {
                                let codec = ProstCodec::<EncryptResponse, EncryptRequest>::default();
                                Grpc::new(codec).unary(plugin, request).await
                            }
                            "/v2.KeyManagementService/Decrypt" => {
                                let codec = ProstCodec::<DecryptResponse, DecryptRequest>::default();
                                Grpc::new(codec).unary(plugin, request).await
                            }
                            path => panic!("{path} is not a method of the service"),
                        };
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(async move { drop(http.serve_connection(TokioIo::new(stream), service).await) });
            }
        })
    }
}

struct World {
    plugin: Plugin,
    serving: JoinHandle<()>,
    socket: PathBuf,
    now: Arc<AtomicI64>,
    /// What is random next, over all starts.
    next: Arc<Mutex<u8>>,
    inner: Arc<MemoryStore>,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (plugin, socket) = (Plugin::new(), directory.path().join("kms.sock"));
        let serving = plugin.serve(&socket);
        let now = Arc::new(AtomicI64::new(1_900_000_000));
        let (next, inner) = (Arc::default(), Arc::new(MemoryStore::new()));
        Self { plugin, serving, socket, now, next, inner, _directory: directory }
    }

    /// A server's side of it, as it is after a start.
    fn kms(&self) -> Arc<Kms> {
        let (time, next) = (self.now.clone(), self.next.clone());
        let clock = Arc::new(move || Timestamp::from_second(time.load(Ordering::SeqCst)).expect("a time"));
        let random: Random = Arc::new(move |buffer: &mut [u8]| {
            let mut next = next.lock();
            *next = next.wrapping_add(1);
            buffer.fill(*next);
        });
        Arc::new(Kms::new("vault", self.socket.clone(), Duration::from_secs(60), random, clock))
    }

    fn store(&self, providers: Vec<Box<dyn Provider>>) -> Sealed {
        let rule = Rule { prefix: "/registry/secrets/".to_owned(), providers: Arc::new(providers) };
        Sealed::new(self.inner.clone(), vec![rule])
    }

    async fn stop(&mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn why(error: wharf_store::Error) -> String {
    match error {
        wharf_store::Error::Transform { key, why } if key == KEY => why,
        other => panic!("another error: {other}"),
    }
}

async fn put(store: &dyn Store, value: &'static str) -> Result<(), String> {
    let put = store.commit(KEY, Precondition::Any, Change::Put(value.into())).await;
    put.map(drop).map_err(why)
}

async fn get(store: &dyn Store) -> Result<String, String> {
    let got = store.get(KEY).await.map_err(why)?;
    Ok(String::from_utf8_lossy(&got.expect("it is there").value).into_owned())
}

#[tokio::test]
async fn one_seed_serves_many_values_and_outlives_the_server() {
    let world = World::new();
    let kms = world.kms();
    let store = world.store(vec![Box::new(kms.clone())]);
    assert!(put(&store, "a").await.is_err_and(|why| why.starts_with("got unexpected nil transformer")));
    kms.ask().await.expect("it is well");
    for value in ["a", "b", "hunter2"] {
        put(&store, value).await.expect("sealed");
        assert_eq!(get(&store).await.as_deref(), Ok(value));
    }
    assert_eq!((world.plugin.asked("encrypt"), world.plugin.asked("decrypt")), (1, 0));
    let written = world.inner.get(KEY).await.expect("read").expect("there").value;
    assert!(written.starts_with(b"k8s:enc:kms:v2:vault:\n"), "{written:?}");
    assert!(!String::from_utf8_lossy(&written).contains("hunter2"));

    let kms = world.kms();
    let store = world.store(vec![Box::new(kms.clone()), Box::new(Identity)]);
    kms.ask().await.expect("it is well");
    for _ in 0..3 {
        assert_eq!(get(&store).await.as_deref(), Ok("hunter2"));
    }
    assert_eq!(world.plugin.asked("decrypt"), 1);
    assert!(!store.is_stale(KEY), "the key is the same, although the seed is not");
}

#[tokio::test]
async fn a_new_key_brings_a_new_seed_and_makes_the_rest_stale() {
    let world = World::new();
    let kms = world.kms();
    let store = world.store(vec![Box::new(kms.clone())]);
    kms.ask().await.expect("it is well");
    put(&store, "a").await.expect("sealed");
    world.plugin.set(|state| (state.key_id, state.encrypts_with) = ("k2", Some("k1")));
    let why = kms.ask().await.expect_err("the plugin contradicts itself");
    assert!(why.starts_with("kmsv2 Provider vault is not healthy, error: failed to rotate DEK uid="), "{why}");
    put(&store, "b").await.expect("the old seed goes on");
    assert_eq!(get(&store).await.as_deref(), Ok("b"));
    assert!(!store.is_stale(KEY));

    world.plugin.set(|state| state.encrypts_with = None);
    kms.ask().await.expect("it is well");
    assert_eq!(get(&store).await.as_deref(), Ok("b"));
    assert!(store.is_stale(KEY));
    put(&store, "b").await.expect("sealed");
    assert_eq!(get(&store).await.as_deref(), Ok("b"));
    assert!(!store.is_stale(KEY));
    assert_eq!(kms.health(), Ok(()));
}

#[tokio::test]
async fn without_the_plugin_values_are_read_and_for_a_while_written() {
    let mut world = World::new();
    let kms = world.kms();
    let store = world.store(vec![Box::new(kms.clone())]);
    kms.ask().await.expect("it is well");
    put(&store, "a").await.expect("sealed");
    world.stop().await;
    let why = kms.ask().await.expect_err("it is gone");
    assert!(
        why.starts_with(
            "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error: code = "
        ),
        "{why}"
    );
    assert_eq!(kms.health(), Err(why));
    world.now.fetch_add(180, Ordering::SeqCst);
    put(&store, "b").await.expect("it coasts");
    world.now.fetch_add(1, Ordering::SeqCst);
    let why = put(&store, "c").await.expect_err("not for ever");
    assert!(
        why.contains("encryptedDEKSource with keyID hash \"sha256:")
            && why.contains("expired at 2030-03-17T17:49:40Z (current time is 2030-03-17T17:49:41Z)"),
        "{why}"
    );
    assert_eq!(get(&store).await.as_deref(), Ok("b"), "what is known is read");

    world.serving = world.plugin.serve(&world.socket);
    kms.ask().await.expect("it is back");
    put(&store, "c").await.expect("sealed");
    assert_eq!(world.plugin.asked("encrypt"), 1, "the seed is the same");
}

#[tokio::test]
async fn what_a_plugin_says_is_judged() {
    let world = World::new();
    let kms = world.kms();
    let check = async |change: fn(&mut State), expected: &str| {
        world.plugin.set(change);
        let why = kms.ask().await.err().unwrap_or_default();
        assert_eq!(why, expected);
        world.plugin.set(|state| (state.key_id, state.healthz, state.version) = ("k1", "ok", "v2"));
    };
    check(|_| {}, "").await;
    check(
        |state| (state.healthz, state.version) = ("sick", "v1"),
        "kmsv2 Provider vault is not healthy, error: [got unexpected healthz status: sick, expected KMSv2 API version v2, got v1]",
    )
    .await;
    check(
        |state| state.key_id = "",
        "kmsv2 Provider vault is not healthy, error: got invalid KMSv2 KeyID hash \"\": keyID is empty",
    )
    .await;
    // A key that the plugin has lost opens nothing.
    world.plugin.set(|state| state.key_id = "lost");
    let other = world.kms();
    other.ask().await.expect("it is well");
    put(&world.store(vec![Box::new(other)]), "a").await.expect("sealed");
    world.plugin.set(|state| state.key_id = "k1");
    let why = get(&world.store(vec![Box::new(kms)])).await.expect_err("it is lost");
    assert_eq!(why, "failed to decrypt DEK, error: rpc error: code = NotFound desc = there is no such key");
}

#[tokio::test(start_paused = true)]
async fn a_silent_plugin_is_given_up() {
    let world = World::new();
    world.plugin.set(|state| state.silent = true);
    let why = world.kms().ask().await.expect_err("it is silent");
    assert!(why.ends_with("rpc error: code = DeadlineExceeded desc = context deadline exceeded"), "{why}");
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const AT_REST: &str = "/registry/secrets/default/s";

fn configuration(providers: &str) -> String {
    format!(
        "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], providers: [{providers}]}}]}}"
    )
}

fn gcm(name: &str, letter: char) -> String {
    // The same letter 22 times and an end that fits is 16 bytes in base64.
    format!("{{aesgcm: {{keys: [{{name: {name}, secret: '{}A=='}}]}}}}", letter.to_string().repeat(21))
}

impl World {
    fn by_plugin(&self) -> String {
        configuration(&format!(
            "{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}'}}}}",
            self.socket.display()
        ))
    }

    fn encrypted(&self, text: &str) -> Arc<Encrypted> {
        let random: Random = Arc::new(|buffer: &mut [u8]| rand::RngCore::fill_bytes(&mut rand::rng(), buffer));
        let around = Surroundings { random, clock: Arc::new(Timestamp::now) };
        let table = Arc::new(Table::new(builtin::rows()));
        let metrics = ReloadMetrics::new("here");
        Encrypted::open(self.inner.clone(), text, table, around, metrics).expect("a configuration")
    }

    /// A server over what is stored, until the token is cancelled.
    async fn server(&self, encrypted: &Arc<Encrypted>, cancel: &CancellationToken) -> Api {
        encrypted.prime(Duration::ZERO).await;
        let cache = Cache::open(encrypted.store()).await.expect("a cache");
        let (feeding, until) = (cache.clone(), cancel.clone());
        tokio::spawn(async move { feeding.run(until).await });
        let metrics = encrypted.metrics();
        let api = Api::with(|options| {
            options.cache = cache;
            options.metrics = vec![Box::new(move |registry| metrics.register(registry))];
        })
        .await;
        encrypted.ask_plugins();
        let (healing, server, until) = (encrypted.clone(), api.server.clone(), cancel.clone());
        tokio::spawn(async move { healing.heal(server, until).await });
        api
    }

    async fn at_rest(&self) -> String {
        let written = self.inner.get(AT_REST).await.expect("read").expect("there").value;
        String::from_utf8_lossy(&written).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_without_the_plugin_and_serves_what_that_opens_when_it_is_back() {
    let mut world = World::new();
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    let first = CancellationToken::new();
    let api = world.server(&world.encrypted(&world.by_plugin()), &first).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    api.post(SECRETS, &secret).await.expect(201);
    assert!(world.at_rest().await.starts_with("k8s:enc:kms:v2:vault:"));
    first.cancel();
    drop(api);
    world.stop().await;

    let second = CancellationToken::new();
    let encrypted = world.encrypted(&world.by_plugin());
    let api = world.server(&encrypted, &second).await;
    let why = "Internal error occurred: got unexpected nil transformer";
    api.get(&format!("{SECRETS}/s")).await.refused(500, "InternalError", why);
    let keyed = format!("Internal error occurred: unable to transform key {AT_REST:?}: got unexpected nil transformer");
    api.get(&format!("{SECRETS}?limit=500")).await.refused(500, "InternalError", &keyed);
    let waits = format!(
        "storage is (re)initializing: failed to list *core.Secret: unable to transform key {AT_REST:?}: got unexpected nil transformer"
    );
    api.get(SECRETS).await.refused(429, "TooManyRequests", &waits);
    api.get("/api/v1/secrets?watch=1").await.refused(429, "TooManyRequests", &waits);
    api.post(SECRETS, &json!({"metadata": {"name": "t"}})).await.refused(500, "InternalError", why);
    api.post(CONFIG_MAPS, &config_map("m", &json!({}))).await.expect(201);
    assert!(encrypted.health().is_err_and(|why| why.contains("healthz check for KMS Provider vault")));

    world.serving = world.plugin.serve(&world.socket);
    let back = async {
        while api.get(&format!("{SECRETS}/s")).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, back).await.expect("it heals");
    assert_eq!(api.get(SECRETS).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
    api.post(SECRETS, &json!({"metadata": {"name": "t"}})).await.expect(201);
    assert_eq!(encrypted.health(), Ok(()));
    second.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_value_that_does_not_open_leaves_the_others_within_reach() {
    let (world, first) = (World::new(), CancellationToken::new());
    let file = configuration(&gcm("one", 'A'));
    let elsewhere = "/api/v1/namespaces/other/secrets";
    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"password": "hunter2"}});
    let api = world.server(&world.encrypted(&file), &first).await;
    for namespace in ["default", "other"] {
        api.post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await.expect(201);
    }
    for (collection, name) in [(SECRETS, "s"), (SECRETS, "t"), (elsewhere, "u")] {
        api.post(collection, &secret(name)).await.expect(201);
    }
    first.cancel();
    drop(api);
    let whole = world.inner.get(AT_REST).await.expect("read").expect("there").value;
    let mut torn = whole.to_vec();
    *torn.last_mut().expect("bytes") ^= 1;
    world.inner.commit(AT_REST, Precondition::Any, Change::Put(torn.into())).await.expect("damaged");

    let second = CancellationToken::new();
    let api = world.server(&world.encrypted(&file), &second).await;
    let (broken, fine) = (format!("{SECRETS}/s"), format!("{SECRETS}/t"));
    let why = "Internal error occurred: ";
    let mut held = api.get(&fine).await.expect(200);
    api.get(&format!("{fine}?resourceVersion=0")).await.expect(200);
    held["metadata"]["labels"] = json!({"a": "b"});
    api.put(&fine, &held).await.expect(200);
    api.put(&fine, &held).await.refused(409, "Conflict", "the object has been modified");
    let patched = api.patch(&fine, "merge", &json!({"metadata": {"labels": {"c": "d"}}})).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"a": "b", "c": "d"}));
    api.post(SECRETS, &secret("v")).await.expect(201);
    api.post(&format!("{SECRETS}?dryRun=All"), &secret("v")).await.refused(409, "AlreadyExists", "");
    api.delete(&format!("{SECRETS}/v")).await.expect(200);
    api.get(&format!("{SECRETS}/v")).await.refused(404, "NotFound", "secrets \"v\" not found");

    api.get(&broken).await.refused(500, "InternalError", why);
    api.put(&broken, &secret("s")).await.refused(500, "InternalError", why);
    api.post(SECRETS, &secret("s")).await.refused(409, "AlreadyExists", "secrets \"s\" already exists");
    api.delete(&broken).await.refused(500, "InternalError", why);
    // The feature gate of the option is off, as it is upstream.
    let unsafely =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "ignoreStoreReadErrorWithClusterBreakingPotential": true});
    api.delete_with(&broken, &unsafely).await.refused(500, "InternalError", why);
    api.delete_with(&fine, &unsafely).await.expect(200);

    let named = format!("unable to transform key {AT_REST:?}: ");
    let limited = |collection: &str| format!("{collection}?limit=500");
    api.get(&limited(SECRETS)).await.refused(500, "InternalError", &named);
    assert_eq!(api.get(&limited(elsewhere)).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
    let waits = format!("storage is (re)initializing: failed to list *core.Secret: {named}");
    for path in [elsewhere.to_owned(), format!("{elsewhere}?watch=1"), format!("{elsewhere}?limit=5&labelSelector=a")] {
        let answer = api.get(&path).await;
        assert_eq!(answer.headers["retry-after"], "1", "{path}");
        answer.refused(429, "TooManyRequests", &waits);
    }
    api.delete(elsewhere).await.expect(200);
    assert!(world.inner.get("/registry/secrets/other/u").await.expect("read").is_none());
    api.post(CONFIG_MAPS, &config_map("m", &json!({}))).await.expect(201);

    // Whoever mends the value need not start the server again.
    world.inner.commit(AT_REST, Precondition::Any, Change::Put(whole)).await.expect("mended");
    let back = async {
        while api.get(SECRETS).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, back).await.expect("it heals");
    assert_eq!(api.get(SECRETS).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
    api.get(&broken).await.expect(200);
    second.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_takes_effect_and_one_that_is_wrong_does_not() {
    let (world, cancel) = (World::new(), CancellationToken::new());
    let encrypted = world.encrypted(&configuration(&gcm("one", 'A')));
    let api = world.server(&encrypted, &cancel).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let made = api.post(SECRETS, &json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}})).await.expect(201);
    assert!(world.at_rest().await.starts_with("k8s:enc:aesgcm:v1:one:"));
    let metric = async |line: &str| {
        let text = String::from_utf8(api.get("/metrics").await.bytes.to_vec()).expect("text");
        text.lines().any(|found| found.starts_with("apiserver_encryption_config_controller") && found.contains(line))
    };

    let refused = encrypted.take("{kind: Nothing}").await;
    assert!(refused.is_err());
    let away = configuration("{kms: {apiVersion: v2, name: away, endpoint: 'unix:///nowhere', timeout: 10ms}}");
    let late = tokio::time::timeout(DEADLINE, encrypted.take(&away)).await.expect("an end");
    assert!(late.is_err_and(|why| why.starts_with("health check for new transformers failed: ")));
    assert!(metric("automatic_reloads_total{status=\"failure\"").await);
    api.put(&format!("{SECRETS}/s"), &made).await.expect(200);
    assert!(world.at_rest().await.starts_with("k8s:enc:aesgcm:v1:one:"), "as before");

    encrypted.take(&configuration(&format!("{}, {}", gcm("two", 'B'), gcm("one", 'A')))).await.expect("fine");
    assert!(metric("automatic_reloads_total{status=\"success\"").await);
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.expect(200), made);
    // A write that changes nothing writes the value anew.
    api.put(&format!("{SECRETS}/s"), &made).await.expect(200);
    assert!(world.at_rest().await.starts_with("k8s:enc:aesgcm:v1:two:"));
    encrypted.take(&configuration(&gcm("two", 'B'))).await.expect("the old key may go");
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.expect(200)["data"], made["data"]);
    assert!(!api.get(&format!("{IN_DEFAULT}/secrets")).await.expect(200)["items"][0]["data"].is_null());
    cancel.cancel();
}
