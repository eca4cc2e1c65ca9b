//! What a cluster has before anybody has made anything: its namespaces, the `kubernetes` Service and its range, two priority
//! classes, priority levels with their flow schemas, and an APIService for each version of a group.
//!
//! Written through the API as `system:apiserver`, admission, validation and all. Idempotent: it reads, and writes what is
//! missing or different. [`ensure`] does it once, before anybody is served; [`keep`] does it again when somebody takes it away.
//! Source: `pkg/controlplane/controller/{systemnamespaces,kubernetesservice}`, `pkg/registry/scheduling/rest` (its hook).
//! Absent on purpose: several API servers behind one Service (the last one to start wins until there is a lease for each).

mod apiservices;
mod flowcontrol;
pub mod joining;
mod servicecidr;
mod tracking;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as CorePort, EndpointSubset, Endpoints, Namespace, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use wharf_auth::{MASTERS, User};
use wharf_registry::{SYSTEM_CLASSES, SystemClass};
use wharf_types::meta::ObjectMeta;

use crate::allocate::repair;
use crate::allocate::service::Cidr;
use crate::server::ApiServer;

/// Who writes it.
pub const IDENTITY: &str = "system:apiserver";
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";
const SERVICE_PORT: i32 = 443;
const PORT_NAME: &str = "https";
/// Changes that are answered at once, by one look at all.
const POKES_MAX: usize = 256;
/// How often a write that meets another's is tried again.
pub(crate) const ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
#[error("{operation} {kind} {name}")]
pub struct Error {
    pub(crate) operation: &'static str,
    pub(crate) kind: String,
    pub(crate) name: String,
    #[source]
    pub(crate) source: Box<kube::Error>,
}

/// Where the API server is found.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    /// The first address of the service range.
    pub service_ip: IpAddr,
    /// The service range.
    pub services: Cidr,
    /// Where the listener is reached from pods.
    pub listener: SocketAddr,
}

impl Error {
    fn of<K: Resource<DynamicType = ()>>(operation: &'static str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let (kind, name) = (K::kind(&()).into_owned(), name.to_owned());
        move |source| Error { operation, kind, name, source: Box::new(source) }
    }
}

/// Makes what is missing.
pub async fn ensure(server: &Arc<ApiServer>, at: Location) -> Result<(), Error> {
    let client = client(server);
    // Services have their addresses of it.
    servicecidr::ensure(&client, at.services, (server.clock)()).await?;
    repair::ensure(server).await?;
    ensure_core(&client, at).await?;
    flowcontrol::ensure(&client).await?;
    apiservices::ensure(server, &client).await
}

/// Namespaces and the `kubernetes` Service.
async fn ensure_core(client: &Client, at: Location) -> Result<(), Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), (*name).to_owned())]);
        let meta = ObjectMeta { name: Some((*name).to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        // One that is there is its owner's to change.
        settle(&namespaces, Namespace { metadata: meta, ..Namespace::default() }, |_, _| true).await?;
    }
    for class in SYSTEM_CLASSES {
        settle(&Api::all(client.clone()), priority_class(class), |_, _| true).await?;
    }
    let same_spec = |held: &Service, wanted: &Service| {
        let facts = |service: &Service| {
            let spec = service.spec.as_ref()?;
            let port = spec.ports.as_ref()?.first()?;
            Some((spec.cluster_ip.clone(), spec.ports.as_ref()?.len(), port.port, port.target_port.clone()))
        };
        facts(held) == facts(wanted)
    };
    settle(&Api::default_namespaced(client.clone()), service(at), same_spec).await?;
    settle(&Api::default_namespaced(client.clone()), endpoints(at), |held: &Endpoints, wanted| {
        held.subsets == wanted.subsets
    })
    .await?;
    let same_slice =
        |held: &EndpointSlice, wanted: &EndpointSlice| held.endpoints == wanted.endpoints && held.ports == wanted.ports;
    settle(&Api::default_namespaced(client.clone()), slice(at), same_slice).await
}

/// As the server itself, which may do everything.
pub(crate) fn client(server: &Arc<ApiServer>) -> Client {
    Client::new(server.service_for(User::new(IDENTITY, &[MASTERS])), "default")
}

/// Does it again whenever one of the objects goes or changes, until `cancel`.
pub async fn keep(server: Arc<ApiServer>, at: Location, cancel: CancellationToken) {
    let client = client(&server);
    let by_name = watcher::Config::default().fields(&format!("metadata.name={SERVICE}"));
    // A Service that goes gives its address back a moment later: only then can there be another one.
    let its_address = watcher::Config::default().fields(&format!("metadata.name={}", at.service_ip));
    let mut pokes = stream::select_all([
        pokes(Api::<Namespace>::all(client.clone()), watcher::Config::default()),
        pokes(Api::<Service>::default_namespaced(client.clone()), by_name.clone()),
        pokes(Api::<Endpoints>::default_namespaced(client.clone()), by_name.clone()),
        pokes(Api::<EndpointSlice>::default_namespaced(client.clone()), by_name.clone()),
        pokes(Api::<IPAddress>::all(client.clone()), its_address),
    ]);
    let mut ranges = self::pokes(Api::<ServiceCIDR>::all(client.clone()), by_name);
    let all = watcher::Config::default;
    let mut policies = stream::select_all([
        self::pokes(Api::<PriorityLevelConfiguration>::all(client.clone()), all()),
        self::pokes(Api::<FlowSchema>::all(client.clone()), all()),
    ])
    .ready_chunks(POKES_MAX);
    let mut definitions = match apiservices::serves_definitions(&server) {
        true => self::pokes(Api::<CustomResourceDefinition>::all(client.clone()), all()),
        false => stream::pending().boxed(),
    };
    let core = async {
        while pokes.next().await.is_some() {
            told(ensure_core(&client, at).await);
        }
    };
    let range = async {
        while ranges.next().await.is_some() {
            told(servicecidr::ensure(&client, at.services, (server.clock)()).await);
        }
    };
    let priorities = async {
        while policies.next().await.is_some() {
            told(flowcontrol::ensure(&client).await);
            told(flowcontrol::tell(&client, (server.clock)()).await);
        }
    };
    let versions = async {
        while definitions.next().await.is_some() {
            told(apiservices::follow(&server, &client).await);
        }
    };
    let work = async { tokio::join!(core, range, priorities, versions) };
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = work => {}
        () = tracking::keep(&server) => {}
        () = repair::keep(&server) => {}
    }
}

/// What could not be put right now is tried again when something happens next.
fn told(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "keep what every cluster has");
    }
}

/// Something happened to an object of the kind; what, is for [`ensure`] to see.
pub(crate) fn pokes<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(async |event| match event {
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
            Ok(_) | Err(_) => None,
        })
        .boxed()
}

/// Creates the object, or replaces one that is not as wanted.
pub(crate) async fn settle<K>(api: &Api<K>, wanted: K, same: impl Fn(&K, &K) -> bool) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = wanted.meta().name.clone().unwrap_or_default();
    let failed = |operation| {
        let (kind, name) = (K::kind(&()).into_owned(), name.clone());
        move |source: kube::Error| Error { operation, kind, name, source: Box::new(source) }
    };
    let mut attempt = 1;
    loop {
        let write = match api.get_opt(&name).await.map_err(failed("get"))? {
            Some(held) if same(&held, &wanted) => return Ok(()),
            Some(held) => {
                let mut next = wanted.clone();
                next.meta_mut().resource_version = held.meta().resource_version.clone();
                api.replace(&name, &PostParams::default(), &next).await.map_err(failed("update"))
            }
            None => api.create(&PostParams::default(), &wanted).await.map_err(failed("create")),
        };
        match write {
            Ok(_) => return Ok(()),
            Err(error) if attempt < ATTEMPTS && met_another(&error) => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// True when another writer came first.
pub(crate) fn met_another(error: &Error) -> bool {
    matches!(&*error.source, kube::Error::Api(status) if status.code == 409)
}

fn meta(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta {
        name: Some(SERVICE.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn priority_class(class: &SystemClass) -> PriorityClass {
    PriorityClass {
        metadata: ObjectMeta { name: Some(class.name.to_owned()), ..ObjectMeta::default() },
        value: Some(class.value),
        description: Some(class.description.to_owned()),
        ..PriorityClass::default()
    }
}

fn service(at: Location) -> Service {
    let address = at.service_ip.to_string();
    let port = ServicePort {
        name: Some(PORT_NAME.to_owned()),
        port: SERVICE_PORT,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(at.listener.port()))),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address.clone()),
        cluster_ips: Some(vec![address]),
        ip_families: Some(vec![family(at.service_ip).to_owned()]),
        ip_family_policy: Some("SingleStack".to_owned()),
        ports: Some(vec![port]),
        session_affinity: Some("None".to_owned()),
        type_: Some("ClusterIP".to_owned()),
        ..ServiceSpec::default()
    };
    Service {
        metadata: meta(&[("component", "apiserver"), ("provider", "kubernetes")]),
        spec: Some(spec),
        ..Service::default()
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn endpoints(at: Location) -> Endpoints {
    let port = CorePort {
        name: Some(PORT_NAME.to_owned()),
        port: i32::from(at.listener.port()),
        protocol: Some("TCP".to_owned()),
        ..CorePort::default()
    };
    let subset = EndpointSubset {
        addresses: Some(vec![EndpointAddress { ip: at.listener.ip().to_string(), ..EndpointAddress::default() }]),
        ports: Some(vec![port]),
        ..EndpointSubset::default()
    };
    // The slice below is written by hand, not mirrored from here.
    let metadata = meta(&[("endpointslice.kubernetes.io/skip-mirror", "true")]);
    Endpoints { metadata, subsets: Some(vec![subset]) }
}

fn slice(at: Location) -> EndpointSlice {
    let port = EndpointPort {
        name: Some(PORT_NAME.to_owned()),
        port: Some(i32::from(at.listener.port())),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let endpoint = Endpoint {
        addresses: vec![at.listener.ip().to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    EndpointSlice {
        metadata: meta(&[("kubernetes.io/service-name", SERVICE)]),
        address_type: family(at.listener.ip()).to_owned(),
        endpoints: Some(vec![endpoint]),
        ports: Some(vec![port]),
    }
}
