//! Keeps the condition `Available` of APIServices true, and what other servers say of themselves at hand for discovery.
//!
//! Level-triggered: each run judges every APIService by the cache and by the server's own answer. It runs when an APIService, a
//! service or an endpoint changes, and again after [`RECHECK`], or [`RETRY`], for servers that come and go behind their addresses.
//! Also keeps the ConfigMap by which extension servers learn whom to believe. Nothing runs where APIServices are not served.
//! Source: `remote_available_controller.go`, `pkg/controlplane/controller/clusterauthenticationtrust`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition, APIServiceSpec};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_auth::{MASTERS, User};
use wharf_types::meta::{ObjectMeta, Time};

use super::judge::{self, Verdict};
use super::metrics;
use super::{Document, Documents, GROUP, IDENTITY, Swagger, backing, headers};
use crate::bootstrap;
use crate::openapi::Converted;
use crate::reply;
use crate::server::ApiServer;
use crate::verbs::write::whole_seconds;

/// How long until servers are asked again although nothing has changed, and while one of them does not answer.
const RECHECK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(5);
/// Servers that are asked at the same time.
const ASKED_MAX: usize = 16;
/// How long a server may take to answer for its discovery: upstream's client timeout.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest document that is read from another server.
const DOCUMENT_MAX: usize = 16 << 20;

const AVAILABLE: &str = "Available";

/// The authorities that extension servers trust, in PEM, as they are from time to time; an empty one is none.
#[derive(Clone, Debug)]
pub struct Authorities {
    pub clients: watch::Receiver<String>,
    pub front_proxy: watch::Receiver<String>,
}

/// An item for each time that somebody says something new.
fn news<T: Send + Sync + 'static>(told: &watch::Receiver<T>) -> BoxStream<'static, ()> {
    let next = |mut told: watch::Receiver<T>| async move { told.changed().await.ok().map(|()| ((), told)) };
    stream::unfold(told.clone(), next).boxed()
}

/// Until `cancel`.
pub async fn keep(server: Arc<ApiServer>, authorities: Authorities, cancel: CancellationToken) {
    let client = Client::new(server.service_for(User::new(bootstrap::IDENTITY, &[MASTERS])), "default");
    let trust: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let by_name = watcher::Config::default().fields(&format!("metadata.name={TRUST}"));
    let pokes = [bootstrap::pokes(trust.clone(), by_name), news(&authorities.clients), news(&authorities.front_proxy)];
    let trusted = stream::select_all(pokes).for_each(async |()| {
        let wanted = trust_map(&authorities);
        if let Err(error) = bootstrap::settle(&trust, wanted, |held, wanted| held.data == wanted.data).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "keep what extension servers trust");
        }
    });
    tokio::select! {
        () = cancel.cancelled() => {}
        () = trusted => {}
        () = judge_all(&server, &client) => {}
    }
}

async fn judge_all(server: &Arc<ApiServer>, client: &Client) {
    if server.table.find(GROUP, "v1", "apiservices").is_none() {
        return std::future::pending().await;
    }
    let config = watcher::Config::default;
    let mut pokes = stream::select_all([
        bootstrap::pokes(Api::<APIService>::all(client.clone()), config()),
        bootstrap::pokes(Api::<Service>::all(client.clone()), config()),
        bootstrap::pokes(Api::<EndpointSlice>::all(client.clone()), config()),
    ])
    .ready_chunks(256);
    loop {
        let again = run(server, client).await;
        let again = async {
            match again {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            poke = pokes.next() => if poke.is_none() { return },
            () = again => {}
        }
    }
}

/// Judges all. Says when to do it again: without other servers there is nothing to ask.
async fn run(server: &Arc<ApiServer>, client: &Client) -> Option<Duration> {
    let judged = stream::iter(services(server)).map(|service| async move {
        let (name, spec) =
            (service.metadata.name.clone().unwrap_or_default(), service.spec.clone().unwrap_or_default());
        let (verdict, document) = judge(server, &name, &spec).await;
        (service, name, verdict, document)
    });
    let judged: Vec<_> = judged.buffer_unordered(ASKED_MAX).collect().await;
    let mut documents = Documents::new();
    let mut told = Vec::new();
    for (service, name, verdict, document) in judged {
        documents.extend(document.map(|document| (name.clone(), document)));
        told.push((service, name, verdict));
    }
    let any = told.iter().any(|(service, ..)| service.spec.as_ref().is_some_and(|spec| spec.service.is_some()));
    // Whoever reads that a server is available finds it in discovery.
    server.aggregator.documents.store(Arc::new(documents));
    for (service, name, verdict) in &told {
        if let Err(error) = tell(client, service, name, verdict, (server.clock)()).await {
            tracing::warn!(apiservice = name, %error, "write an APIService's status");
        }
    }
    let unanswered = told.iter().any(|(_, _, verdict)| verdict.is_unanswered());
    any.then_some(if unanswered { RETRY } else { RECHECK })
}

fn services(server: &ApiServer) -> Vec<APIService> {
    let row = server.table.find(GROUP, "v1", "apiservices");
    let collection = row.as_ref().and_then(|row| server.collection(row));
    let snapshot = collection.map(|collection| collection.snapshot());
    let entries = snapshot.iter().flat_map(|snapshot| snapshot.range("", None));
    entries.filter_map(|entry| serde_json::from_slice(&entry.bytes).ok()).collect()
}

async fn judge(server: &ApiServer, name: &str, spec: &APIServiceSpec) -> (Verdict, Option<Document>) {
    if spec.service.is_none() {
        return (Verdict::local(), metrics::answers_for(name, spec).then(|| metrics::document(spec)));
    }
    let (group, version) = (spec.group.clone().unwrap_or_default(), spec.version.clone().unwrap_or_default());
    // What was known of it stays, marked as stale, while it does not answer.
    let mut document = server.aggregator.documents().get(name).cloned().unwrap_or_default();
    (document.group_priority, document.version_priority) = (spec.group_priority_minimum, spec.version_priority);
    let path = format!("/apis/{group}/{version}");
    (document.group, document.version) = (group, version);
    let (service, slices) = backing(server, spec);
    let verdict = match judge::endpoints(spec, service.as_ref(), &slices) {
        Err(verdict) => verdict,
        Ok(addresses) => match get(server, name, spec, &addresses[0].to_string(), &path).await {
            Err(why) => {
                Verdict::failed(format!("failing or missing response from https://{}{path}: {why}", addresses[0]))
            }
            Ok(resources) => {
                document.resources = Some(resources);
                read_schemas(server, name, spec, &addresses[0].to_string(), &mut document).await;
                Verdict::passed()
            }
        },
    };
    document.available = verdict.available;
    (verdict, Some(document))
}

/// Takes up what a server says of its schemas; what was known of them stays while it says nothing. Where it has no version 3, that
/// is made of its version 2.
async fn read_schemas(server: &ApiServer, name: &str, spec: &APIServiceSpec, address: &str, document: &mut Document) {
    let index = ask(server, name, spec, address, "/openapi/v3", None).await;
    if let Ok(Answer::Document { value, .. }) = &index {
        let listed = &value["paths"][document.openapi_path()]["serverRelativeURL"];
        document.openapi = listed.as_str().and_then(|url| url.split_once("hash=")).map(|(_, hash)| hash.to_owned());
        document.converted = None;
    }
    let tag = document.swagger.as_ref().and_then(|held| held.tag.clone());
    let told = ask(server, name, spec, address, "/openapi/v2", tag.as_deref()).await;
    let changed = if let Ok(Answer::Document { value, tag }) = told {
        document.swagger = Some(Swagger { document: Arc::new(value), tag });
        true
    } else {
        false
    };
    if matches!(index, Ok(Answer::Missing)) && (changed || document.converted.is_none()) {
        document.openapi = None;
        document.converted = document.swagger.as_ref().map(|swagger| Converted::of(&swagger.document));
    }
}

/// What a server answers for a document.
enum Answer {
    Document {
        value: Value,
        tag: Option<String>,
    },
    /// It is the one of the tag that was asked with.
    Unchanged,
    /// There is none.
    Missing,
}

async fn get(
    server: &ApiServer,
    name: &str,
    spec: &APIServiceSpec,
    address: &str,
    path: &str,
) -> Result<Value, String> {
    match ask(server, name, spec, address, path, None).await? {
        Answer::Document { value, .. } => Ok(value),
        Answer::Unchanged => Err(format!("bad status from https://{address}{path}: 304")),
        Answer::Missing => Err(format!("bad status from https://{address}{path}: 404")),
    }
}

/// GETs a document of another server, as the aggregator itself.
async fn ask(
    server: &ApiServer,
    name: &str,
    spec: &APIServiceSpec,
    address: &str,
    path: &str,
    tag: Option<&str>,
) -> Result<Answer, String> {
    let client = server.aggregator.client(name, spec).map_err(|error| error.message)?;
    let request = Request::get(format!("https://{address}{path}")).header(header::ACCEPT, "application/json");
    let request = tag.into_iter().fold(request, |request, tag| request.header(header::IF_NONE_MATCH, tag));
    let mut request = request.body(reply::full(bytes::Bytes::new())).map_err(|error| error.to_string())?;
    request.headers_mut().extend(headers::of(&User::new(IDENTITY, &[MASTERS])));
    let answered = async {
        let response =
            client.request(request).await.map_err(|error| crate::connect::forward::cause(&error).to_string())?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && tag.is_some() {
            return Ok(Answer::Unchanged);
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(Answer::Missing);
        }
        if !status.is_success() {
            return Err(format!("bad status from https://{address}{path}: {}", status.as_u16()));
        }
        let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let body =
            Limited::new(response.into_body(), DOCUMENT_MAX).collect().await.map_err(|error| error.to_string())?;
        let value = serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())?;
        Ok(Answer::Document { value, tag })
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answered).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

/// Writes the condition if it is not what the object says already.
async fn tell(
    client: &Client,
    service: &APIService,
    name: &str,
    verdict: &Verdict,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let held = service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let Some(conditions) = with(held, verdict, now) else { return Ok(()) };
    // Conditions are a list, so what somebody else has just added would be lost.
    let only = json!({"resourceVersion": service.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": only, "status": {"conditions": conditions}}));
    let api: Api<APIService> = Api::all(client.clone());
    match api.patch_status(name, &PatchParams::default(), &patch).await {
        // Gone, or changed: then it is judged again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result.map(drop),
    }
}

/// Pure: the conditions with the verdict among them; none if it is there already.
fn with(held: &[APIServiceCondition], verdict: &Verdict, now: Timestamp) -> Option<Vec<APIServiceCondition>> {
    let status = if verdict.available { "True" } else { "False" };
    let mut conditions = held.to_vec();
    let place = conditions.iter().position(|condition| condition.type_ == AVAILABLE);
    let old = place.map(|place| &conditions[place]);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    let new = APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(verdict.reason.to_owned()),
        message: Some(verdict.message.clone()),
        last_transition_time: Some(since.unwrap_or_else(|| Time(whole_seconds(now)))),
    };
    if old == Some(&new) {
        return None;
    }
    match place {
        Some(place) => conditions[place] = new,
        None => conditions.push(new),
    }
    Some(conditions)
}

const TRUST: &str = "extension-apiserver-authentication";

/// How an extension server knows this server and its clients.
fn trust_map(authorities: &Authorities) -> ConfigMap {
    let list = |names: &[&str]| json!(names).to_string();
    let said = |authority: &watch::Receiver<String>| authority.borrow().clone();
    let front_proxy = said(&authorities.front_proxy);
    let mut data = BTreeMap::from([("client-ca-file".to_owned(), said(&authorities.clients))]);
    if !front_proxy.is_empty() {
        data.extend([
            ("requestheader-client-ca-file".to_owned(), front_proxy),
            ("requestheader-allowed-names".to_owned(), list(&["front-proxy-client"])),
            ("requestheader-username-headers".to_owned(), list(&["X-Remote-User"])),
            ("requestheader-uid-headers".to_owned(), list(&["X-Remote-Uid"])),
            ("requestheader-group-headers".to_owned(), list(&["X-Remote-Group"])),
            ("requestheader-extra-headers-prefix".to_owned(), list(&["X-Remote-Extra-"])),
        ]);
    }
    let metadata =
        ObjectMeta { name: Some(TRUST.to_owned()), namespace: Some("kube-system".to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str) -> APIServiceCondition {
        APIServiceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some("Passed".to_owned()),
            message: Some("all checks passed".to_owned()),
            last_transition_time: Some(Time(Timestamp::UNIX_EPOCH)),
        }
    }

    fn check(held: &[APIServiceCondition], expected: Option<&[(&str, &str, i64)]>) {
        let now = "2024-05-01T12:00:00Z".parse().expect("a time");
        let written = with(held, &Verdict::passed(), now);
        let shown = written.as_ref().map(|all| {
            let since =
                |it: &APIServiceCondition| it.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
            all.iter().map(|it| (it.type_.as_str(), it.status.as_str(), since(it))).collect::<Vec<_>>()
        });
        assert_eq!(shown.as_deref(), expected);
    }

    #[test]
    fn what_others_say_of_a_service_stays() {
        const NOON: i64 = 1_714_564_800;
        check(&[condition("Available", "True")], None);
        check(&[], Some(&[("Available", "True", NOON)]));
        let both = [condition("Available", "False"), condition("Other", "True")];
        check(&both, Some(&[("Available", "True", NOON), ("Other", "True", 0)]));
    }
}
