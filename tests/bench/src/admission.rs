//! One policy in four forms: nothing, a ValidatingAdmissionPolicy in CEL, a WebAssembly plugin, and an HTTPS webhook on loopback.
//!
//! Each form creates the same ConfigMaps with the same clients, in turn and several times, so all meet the same noise; what is
//! printed beside the figures is the ratio to no policy at all. CPU is the server's: what the webhook's own process uses
//! comes on top and is told apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wharf_test_support::{Cluster, eventually};

use crate::api::config_map;
use crate::process;
use crate::table::Table;

const CLIENTS: usize = 8;
/// Creates of one measurement.
const CREATES: usize = 2_000;
const ROUNDS: usize = 3;
/// The label that the policy asks for: what the example does by default.
const LABEL: &str = "team";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1";
const RULES: &str =
    r#"[{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Nothing,
    Cel,
    Plugin,
    Webhook,
}

const FORMS: [(Form, &str); 4] = [
    (Form::Nothing, "no policy"),
    (Form::Cel, "ValidatingAdmissionPolicy"),
    (Form::Plugin, "Wasm plugin"),
    (Form::Webhook, "HTTPS webhook on loopback"),
];

/// What one form has cost so far.
struct Cost {
    cpu: Duration,
    own_cpu: Duration,
    latency_us: Histogram<u64>,
}

pub async fn measure(table: &mut Table) -> Result<()> {
    let cluster = Cluster::with_images(&["admission-policy"]).await;
    let webhook = Webhook::start().await?;
    let mut costs = Vec::new();
    for _ in FORMS {
        costs.push(Cost { cpu: Duration::ZERO, own_cpu: Duration::ZERO, latency_us: Histogram::new(3)? });
    }
    for round in 0..ROUNDS {
        for (index, (form, _)) in FORMS.into_iter().enumerate() {
            install(&cluster, form, &webhook).await?;
            creates(&cluster, &format!("r{round}-{index}"), &mut costs[index]).await?;
            remove(&cluster, form).await?;
        }
    }
    let total = (CREATES * ROUNDS) as f64;
    let cpu_ms = |cost: &Cost| cost.cpu.as_secs_f64() * 1e3 / total;
    let median_ms = |cost: &Cost| cost.latency_us.value_at_quantile(0.5) as f64 / 1e3;
    for ((form, name), cost) in FORMS.iter().zip(&costs) {
        let mut figure = format!(
            "{:.3} ms CPU ({:.2} ×), p50 {:.2} ms ({:.2} ×), p99 {:.2} ms",
            cpu_ms(cost),
            cpu_ms(cost) / cpu_ms(&costs[0]),
            median_ms(cost),
            median_ms(cost) / median_ms(&costs[0]),
            cost.latency_us.value_at_quantile(0.99) as f64 / 1e3,
        );
        if *form == Form::Webhook {
            let more = (cost.own_cpu.as_secs_f64() - costs[0].own_cpu.as_secs_f64()) * 1e3 / total;
            figure += &format!(", and {more:.3} ms CPU in the webhook's process");
        }
        table.add(format!("create with {name}, {CLIENTS} clients"), figure, "");
    }
    Ok(())
}

async fn creates(cluster: &Cluster, prefix: &str, cost: &mut Cost) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let next = AtomicUsize::new(0);
    let (pid, own) = (cluster.pid(), std::process::id());
    let before = (process::cpu(pid)?, process::cpu(own)?);
    let client = || async {
        let mut took = Vec::new();
        while let number @ 0..CREATES = next.fetch_add(1, Ordering::Relaxed) {
            let mut map = config_map(&format!("{prefix}-{number}"));
            map.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), "bench".to_owned());
            let begun = Instant::now();
            maps.create(&PostParams::default(), &map).await?;
            took.push(begun.elapsed());
        }
        anyhow::Ok(took)
    };
    for took in try_join_all((0..CLIENTS).map(|_| client())).await?.into_iter().flatten() {
        cost.latency_us.record(u64::try_from(took.as_micros())?)?;
    }
    cost.cpu += process::cpu(pid)? - before.0;
    cost.own_cpu += process::cpu(own)? - before.1;
    Ok(())
}

/// The objects of a form, each with the collection that it is put into.
fn objects(form: Form, webhook: &Webhook) -> Result<Vec<(String, Value)>> {
    let rules: Value = serde_json::from_str(RULES)?;
    let expression = format!("has(object.metadata.labels) && '{LABEL}' in object.metadata.labels");
    Ok(match form {
        Form::Nothing => Vec::new(),
        Form::Cel => vec![
            (
                format!("{VALIDATING}/validatingadmissionpolicies"),
                json!({"metadata": {"name": "owners"}, "spec": {
                    "matchConstraints": {"resourceRules": rules}, "validations": [{"expression": expression}],
                }}),
            ),
            (
                format!("{VALIDATING}/validatingadmissionpolicybindings"),
                json!({"metadata": {"name": "owners"}, "spec": {"policyName": "owners", "validationActions": ["Deny"]}}),
            ),
        ],
        Form::Plugin => vec![(
            "/apis/admission.wharf.dev/v1alpha1/admissionplugins".to_owned(),
            json!({"metadata": {"name": "owners"}, "spec": {"image": "admission-policy:v1", "rules": rules}}),
        )],
        Form::Webhook => vec![(
            format!("{VALIDATING}/validatingwebhookconfigurations"),
            json!({"metadata": {"name": "owners"}, "webhooks": [{
                "name": "owners.example.com", "rules": rules, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": webhook.url, "caBundle": webhook.bundle},
            }]}),
        )],
    })
}

async fn install(cluster: &Cluster, form: Form, webhook: &Webhook) -> Result<()> {
    for (collection, object) in objects(form, webhook)? {
        let body = serde_json::to_vec(&object)?;
        let request = http::Request::post(collection).header("content-type", "application/json").body(body)?;
        cluster.client.request::<Value>(request).await?;
    }
    if form == Form::Nothing {
        return Ok(());
    }
    // It counts when it refuses what has no owner.
    let client = cluster.client.clone();
    eventually("the policy counts", || async { refuses(&client).await.map_err(|error| format!("{error:#}")) }).await;
    Ok(())
}

async fn refuses(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match maps.create(&params, &config_map("nobodys")).await {
        Err(kube::Error::Api(status)) if !status.message.contains("failed calling") => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => anyhow::bail!("an object without an owner was let in"),
    }
}

async fn remove(cluster: &Cluster, form: Form) -> Result<()> {
    let collections: &[&str] = match form {
        Form::Nothing => &[],
        Form::Cel => &["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
        Form::Plugin => &["admissionplugins"],
        Form::Webhook => &["validatingwebhookconfigurations"],
    };
    let group = if form == Form::Plugin { "/apis/admission.wharf.dev/v1alpha1" } else { VALIDATING };
    for collection in collections {
        let request = http::Request::delete(format!("{group}/{collection}/owners")).body(Vec::new())?;
        cluster.client.request::<Value>(request).await?;
    }
    Ok(())
}

/// A server in this process that asks for the label.
struct Webhook {
    url: String,
    /// The certificate, in base64 of PEM.
    bundle: String,
}

impl Webhook {
    async fn start() -> Result<Self> {
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der())
            .map_err(|why| anyhow::anyhow!("read the webhook's key: {why}"))?;
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .context("serve the webhook's certificate")?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the webhook")?;
        let url = format!("https://{}/review", listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(review);
                    let mut http = hyper::server::conn::http1::Builder::new();
                    // A connection that ends is the server's business.
                    let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { url, bundle: base64::Engine::encode(&base64::prelude::BASE64_STANDARD, issued.cert.pem()) })
    }
}

async fn review(request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body)?;
    let request = &review["request"];
    let allowed = request["object"]["metadata"]["labels"][LABEL].is_string();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": request["uid"], "allowed": allowed, "status": {"message": "whose is it?", "code": 403}},
    });
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::new(answer.to_string().into()))?)
}
