//! Makes Services and IPAddresses agree: each cluster address of a Service has its IPAddress, and each of ours has its Service.
//!
//! What can be mended is mended and told as an event; two Services with one address are only told of. Each is looked at when it
//! changes, and all of them every few minutes. [`ensure`] does it once, which also writes what an older server never wrote.
//! Source: `pkg/registry/core/service/ipallocator/controller/repairip.go`.

mod judge;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use wharf_types::Gvr;

use self::judge::{Finding, Mend, cluster_ips, judge_address, judge_service, wanted};
use super::addresses::{self, resource};
use crate::bootstrap::{Error, client};
use crate::server::ApiServer;

const COMPONENT: &str = "ipallocator-repair-controller";
/// How often all are looked at: upstream's `--repair-interval`.
const PERIOD: Duration = Duration::from_secs(180);

/// Looks at all Services and IPAddresses once.
pub async fn ensure(server: &Arc<ApiServer>) -> Result<(), Error> {
    Repair::new(server).all().await
}

/// Goes on looking, for ever.
pub async fn keep(server: &Arc<ApiServer>) {
    let repair = Repair::new(server);
    tokio::join!(repair.follow(), repair.sweep());
}

struct Repair {
    server: Arc<ApiServer>,
    client: Client,
    recorder: Recorder,
}

impl Repair {
    fn new(server: &Arc<ApiServer>) -> Self {
        let client = client(server);
        let recorder = Recorder::new(client.clone(), Reporter::from(COMPONENT));
        Self { server: server.clone(), client, recorder }
    }

    async fn all(&self) -> Result<(), Error> {
        for service in addresses::all::<Service>(&self.server, &services()) {
            self.service(&service).await?;
        }
        for address in addresses::all::<IPAddress>(&self.server, &resource("ipaddresses")) {
            self.address(&address).await?;
        }
        Ok(())
    }

    /// Looks at what changes, for ever.
    async fn follow(&self) {
        let services = watcher(Api::<Service>::all(self.client.clone()), watcher::Config::default());
        let mut services = services.default_backoff().applied_objects().boxed();
        let held = watcher(Api::<IPAddress>::all(self.client.clone()), watcher::Config::default());
        let mut held = held.default_backoff().boxed();
        let of_services = async {
            while let Some(service) = services.next().await {
                if let Ok(service) = service {
                    told(self.service(&service).await);
                }
            }
        };
        let of_addresses = async {
            while let Some(event) = held.next().await {
                match event {
                    Ok(watcher::Event::Apply(address) | watcher::Event::InitApply(address)) => {
                        told(self.address(&address).await);
                    }
                    // Its Service is to have it back, unless that went too.
                    Ok(watcher::Event::Delete(address)) => {
                        if let Some(service) = self.parent(&address) {
                            told(self.service(&service).await);
                        }
                    }
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
                }
            }
        };
        tokio::join!(of_services, of_addresses);
    }

    /// Looks at everything now and then, for ever.
    async fn sweep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            told(self.all().await);
        }
    }

    /// Looks at a Service as it is stored now.
    async fn service(&self, seen: &Service) -> Result<(), Error> {
        let (namespace, name) = (seen.metadata.namespace.as_deref(), seen.metadata.name.as_deref());
        let Some(service) = self.find::<Service>(&services(), namespace, name) else { return Ok(()) };
        for text in cluster_ips(&service) {
            let ip: Option<IpAddr> = text.parse().ok();
            let held = ip.and_then(|_| self.find::<IPAddress>(&resource("ipaddresses"), None, Some(text)));
            let covered = ip.is_some_and(|ip| self.is_covered(ip));
            let parent = held.as_ref().and_then(|held| self.parent(held));
            let Some(finding) = judge_service(&service, text, covered, held.as_ref(), parent.as_ref()) else {
                continue;
            };
            self.tell(&finding, service.object_ref(&())).await;
            self.mend(finding.mend, text, Some(&service)).await?;
        }
        Ok(())
    }

    /// Looks at an IPAddress as it is stored now.
    async fn address(&self, seen: &IPAddress) -> Result<(), Error> {
        let name = seen.metadata.name.as_deref();
        let Some(held) = self.find::<IPAddress>(&resource("ipaddresses"), None, name) else { return Ok(()) };
        let parent = self.parent(&held);
        let Some(finding) = judge_address(&held, parent.as_ref(), (self.server.clock)()) else { return Ok(()) };
        self.tell(&finding, held.object_ref(&())).await;
        self.mend(finding.mend, name.unwrap_or_default(), None).await
    }

    async fn mend(&self, mend: Mend, name: &str, service: Option<&Service>) -> Result<(), Error> {
        let api = Api::<IPAddress>::all(self.client.clone());
        let failed = |operation| {
            let (kind, name) = ("IPAddress".to_owned(), name.to_owned());
            move |source: kube::Error| Error { operation, kind, name, source: Box::new(source) }
        };
        if matches!(mend, Mend::Delete | Mend::Replace) {
            let deleted = api.delete(name, &DeleteParams::default()).await;
            fine_if(404, deleted.map(drop)).map_err(failed("delete"))?;
        }
        if let (Mend::Create | Mend::Replace, Some(service)) = (mend, service) {
            let created = api.create(&PostParams::default(), &wanted(name, service)).await;
            fine_if(409, created.map(drop)).map_err(failed("create"))?;
        }
        Ok(())
    }

    async fn tell(&self, finding: &Finding, about: ObjectReference) {
        let Finding { reason, action, note, .. } = finding;
        tracing::warn!(reason, note, "addresses of Services");
        let event = Event {
            type_: EventType::Warning,
            reason: (*reason).to_owned(),
            note: Some(note.clone()),
            action: (*action).to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::debug!(error = &error as &dyn std::error::Error, reason, "write an event");
        }
    }

    /// The Service that an IPAddress names.
    fn parent(&self, address: &IPAddress) -> Option<Service> {
        let parent = &address.spec.parent_ref;
        let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
        is_service.then(|| self.find(&services(), parent.namespace.as_deref(), Some(&parent.name))).flatten()
    }

    /// True where some ServiceCIDR has the address, whether it is open or not.
    fn is_covered(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        let ranges = addresses::all::<ServiceCIDR>(&self.server, &resource("servicecidrs"));
        ranges.iter().flat_map(addresses::blocks).any(|block| block.has(ip))
    }

    fn find<K: Clone + 'static>(&self, gvr: &Gvr, namespace: Option<&str>, name: Option<&str>) -> Option<K> {
        addresses::find(&self.server, gvr, namespace, name?)
    }
}

fn services() -> Gvr {
    Gvr { group: "".into(), version: "v1".into(), resource: "services".into() }
}

/// What could not be done now is tried again with the next look at all.
fn told(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(error = &error as &dyn std::error::Error, "make Services and IPAddresses agree");
    }
}

/// An answer of this code means that somebody else has done it.
fn fine_if(code: u16, result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        result => result,
    }
}
