//! Spreads endpoints over slices so that a change rewrites as few slices as it can.
//!
//! Endpoints stay in the slice they are in. Source: `reconcileByPortMapping` in `k8s.io/endpointslice/reconciler.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wharf_types::k8s::api::core::v1::Service;
use wharf_types::k8s::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use wharf_types::meta::ObjectMeta;

use super::endpoints::Group;
use crate::{owners, pods};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ADDRESS_TYPE: &str = "IPv4";
/// Endpoints in one slice. Source: `--max-endpoints-per-slice`.
pub const SLICE_LIMIT: usize = 100;

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Pure: same inputs, same plan. `existing` are the Service's slices that are ours.
pub fn plan(service: &Service, groups: Vec<Group>, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let labels = labels(service);
    let mut plan = Plan::default();
    let mut existing: Vec<Arc<EndpointSlice>> =
        existing.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    // A Service with no endpoint keeps one empty slice, so that its users can tell "none" from "not looked at yet".
    let groups = if groups.is_empty() { vec![Group { ports: Vec::new(), endpoints: Vec::new() }] } else { groups };
    for group in groups {
        let (same, other): (Vec<_>, Vec<_>) = existing.into_iter().partition(|slice| serves(slice, &group.ports));
        existing = other;
        fill(service, &labels, group, same, &mut plan);
    }
    plan.delete.extend(existing);
    reuse(&mut plan);
    plan
}

fn serves(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    slice.address_type == ADDRESS_TYPE && slice.ports.as_deref().unwrap_or_default() == ports
}

/// Labels of all slices of a Service.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&key.as_str()));
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), owners::name(service).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// What makes two endpoints the same one, in different conditions: addresses, hostname, node and the pod's UID.
type Identity = (Vec<String>, Option<String>, Option<String>, Option<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    (endpoint.addresses.clone(), endpoint.hostname.clone(), endpoint.node_name.clone(), uid)
}

struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn fill(
    service: &Service,
    labels: &BTreeMap<String, String>,
    group: Group,
    same: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let wanted_any = !group.endpoints.is_empty();
    let order: Vec<Identity> = group.endpoints.iter().map(identity).collect();
    let mut wanted: HashMap<Identity, Endpoint> = order.iter().cloned().zip(group.endpoints).collect();
    let mut drafts: Vec<Draft> = same.into_iter().map(|slice| keep_wanted(slice, labels, &mut wanted)).collect();
    let mut rest: Vec<Endpoint> = order.iter().filter_map(|identity| wanted.remove(identity)).collect();
    // Slices that are written anyway take what they can.
    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let room = SLICE_LIMIT.saturating_sub(draft.endpoints.len()).min(rest.len());
        draft.endpoints.extend(rest.drain(..room));
    }
    // What is left fits best into the fullest slice that has room for all of it.
    if !rest.is_empty() && rest.len() < SLICE_LIMIT {
        let fitting = drafts.iter_mut().filter(|draft| draft.endpoints.len() + rest.len() <= SLICE_LIMIT);
        if let Some(draft) = fitting.max_by_key(|draft| draft.endpoints.len()) {
            draft.changed = true;
            draft.endpoints.append(&mut rest);
        }
    }
    while !rest.is_empty() {
        let next = rest.drain(..SLICE_LIMIT.min(rest.len())).collect();
        plan.create.push(new_slice(service, labels, &group.ports, next));
    }
    if !wanted_any && drafts.is_empty() {
        plan.create.push(new_slice(service, labels, &group.ports, Vec::new()));
    }
    for (number, draft) in drafts.into_iter().enumerate() {
        let placeholder = !wanted_any && number == 0;
        if draft.endpoints.is_empty() && !placeholder {
            plan.delete.push(draft.slice);
        } else if draft.changed {
            plan.update.push(EndpointSlice {
                endpoints: Some(draft.endpoints),
                metadata: ObjectMeta { labels: Some(labels.clone()), ..draft.slice.metadata.clone() },
                ..EndpointSlice::clone(&draft.slice)
            });
        }
    }
}

/// The slice without what is not wanted any more, and with what is as it is now.
fn keep_wanted(
    slice: Arc<EndpointSlice>,
    labels: &BTreeMap<String, String>,
    wanted: &mut HashMap<Identity, Endpoint>,
) -> Draft {
    let before = slice.endpoints.as_deref().unwrap_or_default();
    let endpoints: Vec<Endpoint> = before.iter().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
    let changed = endpoints != before || slice.metadata.labels.as_ref() != Some(labels);
    Draft { slice, endpoints, changed }
}

fn new_slice(
    service: &Service,
    labels: &BTreeMap<String, String>,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(pods::name_prefix(owners::name(service))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owners::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: ADDRESS_TYPE.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

/// A slice that would be deleted takes the content of one that would be created: one write less for everybody.
fn reuse(plan: &mut Plan) {
    let surplus = std::mem::take(&mut plan.delete);
    for old in surplus {
        // The address type of a slice cannot change.
        match plan.create.pop_if(|_| old.address_type == ADDRESS_TYPE) {
            Some(new) => plan.update.push(EndpointSlice {
                metadata: ObjectMeta { labels: new.metadata.labels.clone(), ..old.metadata.clone() },
                ..new
            }),
            None => plan.delete.push(old),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::discovery::v1::EndpointConditions;

    fn service() -> Service {
        let metadata = ObjectMeta { name: Some("web".to_owned()), ..ObjectMeta::default() };
        Service { metadata, ..Service::default() }
    }

    fn endpoint(number: usize, ready: bool) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 256, number % 256)],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }
    }

    fn port(number: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(number), ..EndpointPort::default() }]
    }

    fn group(numbers: impl IntoIterator<Item = usize>) -> Group {
        Group { ports: port(80), endpoints: numbers.into_iter().map(|number| endpoint(number, true)).collect() }
    }

    fn slice(name: &str, numbers: impl IntoIterator<Item = usize>) -> Arc<EndpointSlice> {
        let endpoints = numbers.into_iter().map(|number| endpoint(number, true)).collect();
        let mut slice = new_slice(&service(), &labels(&service()), &port(80), endpoints);
        slice.metadata.name = Some(name.to_owned());
        Arc::new(slice)
    }

    fn check(groups: Vec<Group>, existing: Vec<Arc<EndpointSlice>>, expected: &str) {
        let plan = plan(&service(), groups, existing);
        let count = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
        let mut words: Vec<String> = plan.create.iter().map(|slice| format!("+{}", count(slice))).collect();
        words.extend(plan.update.iter().map(|slice| format!("{}={}", owners::name(slice), count(slice))));
        words.extend(plan.delete.iter().map(|slice| format!("-{}", owners::name(&**slice))));
        assert_eq!(words.join(" "), expected);
        let all = plan.create.iter().chain(&plan.update);
        assert!(all.into_iter().all(|slice| count(slice) <= SLICE_LIMIT));
    }

    #[test]
    fn endpoints_fill_slices_up_to_the_limit() {
        check(vec![group(0..250)], vec![], "+100 +100 +50");
        check(vec![], vec![], "+0");
    }

    #[test]
    fn what_has_not_changed_is_not_written() {
        check(vec![group(0..150)], vec![slice("a", 0..100), slice("b", 100..150)], "");
        check(vec![], vec![slice("a", [])], "a=0");
    }

    #[test]
    fn one_change_writes_one_slice() {
        check(vec![group(0..149)], vec![slice("a", 0..100), slice("b", 100..150)], "b=49");
        check(vec![group(0..151)], vec![slice("a", 0..100), slice("b", 100..150)], "b=51");
        check(vec![group((1..100).chain(200..202))], vec![slice("a", 0..100)], "+1 a=100");
    }

    #[test]
    fn a_change_of_condition_is_written_in_place() {
        let mut changed = group(0..3);
        changed.endpoints[1] = endpoint(1, false);
        check(vec![changed], vec![slice("a", 0..3)], "a=3");
    }

    #[test]
    fn slices_of_other_ports_are_reused_or_deleted() {
        let other = || Group { ports: port(81), ..group(0..2) };
        check(vec![other()], vec![slice("a", 0..2)], "a=2");
        check(vec![other()], vec![slice("a", 0..2), slice("b", 2..4)], "a=2 -b");
        check(vec![group(0..1), other()], vec![slice("a", 0..1)], "+2");
    }
}
