//! Publishes the pods behind each Service as EndpointSlices.
//!
//! - [`endpoints`]: which pods, at which addresses and ports, in which condition. [`slices`]: how they are spread over slices
//!   with few writes.
//!
//! Services without a selector belong to their user, and so do slices that are labelled as managed by others.
//! Absent on purpose: IPv6 (the network has none yet), topology hints, `v1 Endpoints` (deprecated since v1.33), and the
//! annotation with the time of the change.
//! Source of the behaviour: `k8s.io/endpointslice` and `k8s.io/kubernetes/pkg/controller/endpointslice`.

mod endpoints;
mod slices;

use std::sync::Arc;

use async_trait::async_trait;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use wharf_client::{
    Action, Changed, Error, FENCE_LIMIT, Fences, Index, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::core::v1::{Node, Pod, Service};
use wharf_types::k8s::api::discovery::v1::EndpointSlice;

use crate::call::{self, During as _, Failed, gone_is_fine};
use crate::{batch, owners, pods};
use slices::{MANAGED_BY, MANAGER, Plan, SERVICE_NAME};

pub struct EndpointSlices {
    client: Client,
    services: Lister<Service>,
    pods: Lister<Pod>,
    pods_on: Index<Pod>,
    nodes: Lister<Node>,
    slices: Lister<EndpointSlice>,
    slices_of: Index<EndpointSlice>,
    fences: Fences<EndpointSlice>,
    recorder: Recorder,
}

impl EndpointSlices {
    pub fn new(informers: &Informers, recorder: Recorder) -> Self {
        let slices = informers.of::<EndpointSlice>();
        let pods = informers.of::<Pod>();
        Self {
            client: informers.client().clone(),
            services: informers.of(),
            pods_on: pods.index(|pod| node_of(pod).map(str::to_owned).into_iter().collect()),
            pods,
            nodes: informers.of(),
            slices_of: slices.index(|slice| service_of(slice).map(|key| key.to_string()).into_iter().collect()),
            fences: Fences::new(slices.clone()),
            slices,
            recorder,
        }
    }

    async fn act(&self, key: &ObjectKey, plan: Plan) -> Result<(), Failed> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let created = batch::all(plan.create, async |slice: EndpointSlice| {
            self.fences.wrote(key, &api.create(&params, &slice).await.during("create an endpoint slice of", key)?);
            Ok(())
        });
        first(created.await)?;
        let updated = batch::all(plan.update, async |slice: EndpointSlice| {
            let name = owners::name(&slice);
            self.fences.wrote(key, &api.replace(name, &params, &slice).await.during("update endpoint slice", name)?);
            Ok(())
        });
        first(updated.await)?;
        let deleted = batch::all(plan.delete, async |slice: Arc<EndpointSlice>| {
            let name = owners::name(&*slice);
            gone_is_fine(api.delete(name, &DeleteParams::default()).await).during("delete endpoint slice", name)?;
            self.fences.deleted(key, &slice);
            Ok(())
        });
        first(deleted.await)
    }
}

fn first((_, error): (usize, Option<Failed>)) -> Result<(), Failed> {
    error.map_or(Ok(()), Err)
}

#[async_trait]
impl Reconcile for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let services = self.services.clone();
        let pod_wakes = move |changed: &Changed<Pod>| members(&services, changed);
        let (services, pods_on) = (self.services.clone(), self.pods_on.clone());
        let node_wakes = move |changed: &Changed<Node>| {
            if changed.old.as_deref().map(endpoints::zone) == changed.new.as_deref().map(endpoints::zone) {
                return Vec::new();
            }
            pods_on.get(&changed.key.name).iter().flat_map(|pod| selecting(&services, pod)).collect()
        };
        let slice_wakes = |changed: &Changed<EndpointSlice>| service_of(changed.latest()).into_iter().collect();
        vec![
            Trigger::primary(&self.services),
            Trigger::mapped(&self.pods, pod_wakes),
            Trigger::mapped(&self.nodes, node_wakes),
            Trigger::mapped(&self.slices, slice_wakes),
        ]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(service) = self.services.get(key) else {
            // The slices have the Service as their owner: the garbage collector takes them.
            self.fences.forget(key);
            return Ok(Action::done());
        };
        let Some(selector) = selector_of(&service) else { return Ok(Action::done()) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Action::done());
        }
        if !self.fences.open(key) {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let in_namespace = self.pods.list_in(&key.namespace).into_iter();
        let selected: Vec<Arc<Pod>> = in_namespace.filter(|pod| selects(&selector, pod)).collect();
        let groups = endpoints::groups(&service, &selected, |node| self.nodes.get(&ObjectKey::cluster(node)));
        let plan = slices::plan(&service, groups, self.slices_of.get(&key.to_string()));
        match self.act(key, plan).await {
            Ok(()) => Ok(Action::done()),
            Err(failed) if call::is_namespace_terminating(&failed.source) => Ok(Action::done()),
            Err(failed) => {
                if !call::is_conflict(&failed.source) {
                    let message =
                        format!("Error updating Endpoint Slices for Service {key}: {}", call::message(&failed.source));
                    self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", message);
                }
                Err(failed.into())
            }
        }
    }
}

/// The selector of a Service whose endpoints are ours to keep.
fn selector_of(service: &Service) -> Option<LabelSelector> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    Some(LabelSelector::from_map(selector))
}

fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| selector.matches(labels))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The Service whose slice this is, if it is ours.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    labels.get(SERVICE_NAME).filter(|_| ours).map(|service| ObjectKey::new(namespace, service))
}

fn selecting(services: &Lister<Service>, pod: &Pod) -> Vec<ObjectKey> {
    let in_namespace = services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()).into_iter();
    let matching = in_namespace.filter(|service| selector_of(service).is_some_and(|selector| selects(&selector, pod)));
    matching.map(|service| ObjectKey::of(&*service)).collect()
}

/// Services that a change of a pod concerns: none if nothing changed that an endpoint shows.
fn members(services: &Lister<Service>, changed: &Changed<Pod>) -> Vec<ObjectKey> {
    if let (Some(old), Some(new)) = (&changed.old, &changed.new)
        && facts(old) == facts(new)
    {
        return Vec::new();
    }
    let mut keys: Vec<ObjectKey> =
        [&changed.old, &changed.new].into_iter().flatten().flat_map(|pod| selecting(services, pod)).collect();
    keys.dedup();
    keys
}

/// What an endpoint depends on.
fn facts(pod: &Pod) -> impl PartialEq {
    let status = pod.status.as_ref();
    (
        (pod.metadata.uid.clone(), pod.metadata.labels.clone(), pod.metadata.deletion_timestamp.is_some()),
        (pods::is_ready(pod), pods::is_terminal(pod), node_of(pod).map(str::to_owned)),
        status.map(|status| (status.pod_ip.clone(), status.pod_ips.clone())),
    )
}
