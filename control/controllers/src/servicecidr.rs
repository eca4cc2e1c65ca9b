//! Says which ranges of Services are ready, and lets one go when no address needs it any more.
//!
//! A range that is being deleted stays while an address of it lies in no other range; of those that are being deleted too none
//! counts as another, so two that go at once leave no address behind. It stays for a moment after that, for servers that may not have heard of its
//! deletion. Source of the behaviour: `k8s.io/kubernetes/pkg/controller/servicecidrs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use wharf_client::{Action, Changed, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger};
use wharf_types::k8s::api::networking::v1::{IPAddress, ServiceCIDR};
use wharf_types::meta::Time;

use crate::call::{During as _, gone_is_fine};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Who applies the status, in upstream's words.
const MANAGER: &str = "service-cidr-controller";
const READY: &str = "Ready";
const READY_MESSAGE: &str = "Kubernetes Service CIDR is ready";
const TERMINATING: &str = "Terminating";
const TERMINATING_MESSAGE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
/// Whose IPAddresses are looked at: those that the API server keeps.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
/// How long a deletion waits at least.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

pub struct ServiceCidrs {
    client: Client,
    ranges: Lister<ServiceCIDR>,
    addresses: Lister<IPAddress>,
    recorder: Recorder,
    clock: Clock,
}

impl ServiceCidrs {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let client = informers.client().clone();
        Self { client, ranges: informers.of(), addresses: informers.of(), recorder, clock }
    }

    async fn tell(&self, range: &ServiceCIDR, key: &ObjectKey, ready: bool) -> Result<(), Error> {
        let (status, reason, message) =
            if ready { ("True", "", READY_MESSAGE) } else { ("False", TERMINATING, TERMINATING_MESSAGE) };
        let now = Timestamp::from_second(self.clock.now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
        let condition = json!({
            "type": READY, "status": status, "reason": reason, "message": message, "lastTransitionTime": Time(now),
        });
        let told = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": key.name}, "status": {"conditions": [condition]},
        });
        let api = Api::<ServiceCIDR>::all(self.client.clone());
        let written = api.patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&told)).await;
        if written.is_err() && ready {
            let message = "The ServiceCIDR Status can not be set to Ready=True";
            self.recorder.warning(range, "KubernetesServiceCIDRError", message);
        }
        gone_is_fine(written).during("write the status of service range", key)?;
        Ok(())
    }

    async fn change_finalizers(&self, key: &ObjectKey, field: &str, what: &'static str) -> Result<(), Error> {
        let patch = Patch::Strategic(json!({"metadata": {field: [FINALIZER]}}));
        let api = Api::<ServiceCIDR>::all(self.client.clone());
        gone_is_fine(api.patch(&key.name, &PatchParams::default(), &patch).await).during(what, key)?;
        Ok(())
    }
}

#[async_trait]
impl Reconcile for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidr"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let ranges = self.ranges.clone();
        // One that comes or goes may free or need others.
        let around = move |changed: &Changed<ServiceCIDR>| -> Vec<ObjectKey> {
            let others = match (&changed.old, &changed.new) {
                (Some(_), Some(_)) => Vec::new(),
                _ => keys(&ranges.list(), |range| overlap(range, changed.latest())),
            };
            std::iter::once(changed.key.clone()).chain(others).collect()
        };
        let ranges = self.ranges.clone();
        let having = move |changed: &Changed<IPAddress>| match (&changed.old, &changed.new) {
            (Some(_), Some(_)) => Vec::new(),
            _ => match kept(changed.latest()) {
                Some(address) => keys(&ranges.list(), |range| has(range, address)),
                None => Vec::new(),
            },
        };
        vec![Trigger::mapped(&self.ranges, around), Trigger::mapped(&self.addresses, having)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(range) = self.ranges.get(key) else { return Ok(Action::done()) };
        match plan(&range, &self.ranges.list(), &self.addresses.list(), self.clock.now()) {
            Plan::Serve { protect, tell } => {
                if protect {
                    self.change_finalizers(key, "finalizers", "protect service range").await?;
                }
                if tell {
                    self.tell(&range, key, true).await?;
                }
            }
            Plan::Hold { tell: true } => self.tell(&range, key, false).await?,
            Plan::Hold { tell: false } | Plan::Gone => {}
            Plan::Wait(left) => return Ok(Action::requeue_after(left)),
            Plan::Release => {
                let field = "$deleteFromPrimitiveList/finalizers";
                self.change_finalizers(key, field, "let service range go").await?;
            }
        }
        Ok(Action::done())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// In use: `protect` where it has no finalizer, `tell` where it does not say so.
    Serve {
        protect: bool,
        tell: bool,
    },
    /// Being deleted, and needed.
    Hold {
        tell: bool,
    },
    /// Being deleted and free, but not for long enough.
    Wait(Duration),
    Release,
    /// Being deleted, and nobody's business here.
    Gone,
}

fn plan(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>], now: Timestamp) -> Plan {
    let protected = range.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        return Plan::Serve { protect: !protected, tell: !says(range, "True", "", READY_MESSAGE) };
    };
    if !may_go(range, all, addresses) {
        return Plan::Hold { tell: !says(range, "False", TERMINATING, TERMINATING_MESSAGE) };
    }
    let left = GRACE - now.duration_since(deleted.0);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Plan::Wait(left),
        _ if protected => Plan::Release,
        _ => Plan::Gone,
    }
}

/// True where the range's Ready condition is this. The words of the default range, which its server writes, count as well.
fn says(range: &ServiceCIDR, status: &str, reason: &str, message: &str) -> bool {
    let mut conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let told = conditions.find(|condition| condition.type_ == READY);
    told.is_some_and(|told| {
        told.status == status && (status == "True" || told.reason == reason && told.message == message)
    })
}

/// True where no address would be left without a range.
fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<&Arc<ServiceCIDR>> = all
        .iter()
        .filter(|other| other.metadata.name != range.metadata.name && other.metadata.deletion_timestamp.is_none())
        .collect();
    let inside = |block: &Block| others.iter().flat_map(|other| blocks(other)).any(|other| other.covers(block));
    if blocks(range).all(|block| inside(&block)) {
        return true;
    }
    let mut own = addresses.iter().filter_map(|address| kept(address)).filter(|address| has(range, *address));
    own.all(|address| others.iter().any(|other| has(other, address)))
}

/// A block of addresses: the first, as a number, how many bits are fixed, and of how many.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: u128,
    fixed: u32,
    width: u32,
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (address, fixed) = text.split_once('/')?;
        let (first, width) = number(address.parse().ok()?);
        let fixed = fixed.parse().ok().filter(|fixed| *fixed <= width)?;
        Some(Self { first, fixed, width })
    }

    /// Whether the numbers agree in the bits that are fixed here.
    fn agrees(&self, number: u128) -> bool {
        let free = self.width - self.fixed;
        (self.first ^ number).checked_shr(free).unwrap_or(0) == 0
    }

    fn covers(&self, other: &Self) -> bool {
        self.width == other.width && self.fixed <= other.fixed && self.agrees(other.first)
    }

    /// True for addresses that Services may have: not the network's, nor the broadcast's of IPv4.
    fn has(&self, address: IpAddr) -> bool {
        let (number, width) = number(address);
        let last = self.first | 1_u128.checked_shl(self.width - self.fixed).map_or(u128::MAX, |size| size - 1);
        let is_broadcast = width == 32 && number == last;
        width == self.width && self.agrees(number) && number != self.first && !is_broadcast
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(v4) => (v4.to_bits().into(), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn blocks(range: &ServiceCIDR) -> impl Iterator<Item = Block> {
    let blocks = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    blocks.filter_map(|block| Block::parse(block))
}

fn has(range: &ServiceCIDR, address: IpAddr) -> bool {
    blocks(range).any(|block| block.has(address))
}

fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    blocks(one).any(|one| blocks(other).any(|other| one.covers(&other) || other.covers(&one)))
}

/// The address, if the API server keeps it.
fn kept(address: &IPAddress) -> Option<IpAddr> {
    let manager = address.metadata.labels.as_ref()?.get(MANAGED_BY.0)?;
    (manager == MANAGED_BY.1).then(|| address.metadata.name.as_ref()?.parse().ok()).flatten()
}

fn keys(ranges: &[Arc<ServiceCIDR>], concerns: impl Fn(&ServiceCIDR) -> bool) -> Vec<ObjectKey> {
    ranges.iter().filter(|range| concerns(range)).map(|range| ObjectKey::of_meta(&range.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const NOW_S: i64 = 1_000;

    fn range(name: &str, block: &str, deleted_ago_s: Option<i64>, finalizers: Value) -> ServiceCIDR {
        let deleted = deleted_ago_s.map(|ago_s| Time(Timestamp::from_second(NOW_S - ago_s).expect("a time")));
        let meta = json!({"name": name, "deletionTimestamp": deleted, "finalizers": finalizers});
        serde_json::from_value(json!({"metadata": meta, "spec": {"cidrs": [block]}})).expect("a range")
    }

    fn address(text: &str) -> Arc<IPAddress> {
        let meta = json!({"name": text, "labels": {MANAGED_BY.0: MANAGED_BY.1}});
        let spec = json!({"parentRef": {"resource": "services", "name": "web"}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("an address"))
    }

    /// What becomes of 10.0.0.0/24, deleted so long ago, beside others that are `LIVE` or being deleted.
    fn check(deleted_ago_s: Option<i64>, others: &[(&str, bool)], addresses: &[&str], expected: Plan) {
        let own = range("own", "10.0.0.0/24", deleted_ago_s, json!([FINALIZER]));
        let mut all = vec![Arc::new(own.clone())];
        for (index, (block, live)) in others.iter().enumerate() {
            let deleted = if *live { None } else { Some(60) };
            all.push(Arc::new(range(&format!("other-{index}"), block, deleted, json!([FINALIZER]))));
        }
        let addresses: Vec<_> = addresses.iter().map(|text| address(text)).collect();
        let now = Timestamp::from_second(NOW_S).expect("a time");
        assert_eq!(plan(&own, &all, &addresses, now), expected, "{others:?} {addresses:?}");
    }

    const LIVE: bool = true;
    const GOING: bool = false;

    #[test]
    fn a_range_in_use_is_protected_and_told_once() {
        check(None, &[], &["10.0.0.7"], Plan::Serve { protect: false, tell: true });
        let now = Timestamp::from_second(NOW_S).expect("a time");
        let mut fresh = range("own", "10.0.0.0/24", None, json!([]));
        assert_eq!(plan(&fresh, &[], &[], now), Plan::Serve { protect: true, tell: true });
        let ready = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": READY_MESSAGE, "lastTransitionTime": Time(now)}]});
        fresh.status = serde_json::from_value(ready).expect("a status");
        assert_eq!(plan(&fresh, &[], &[], now), Plan::Serve { protect: true, tell: false });
    }

    #[test]
    fn a_range_stays_while_an_address_lies_in_no_other() {
        check(Some(60), &[], &["10.0.0.7"], Plan::Hold { tell: true });
        check(Some(60), &[("10.0.0.0/28", LIVE)], &["10.0.0.7"], Plan::Release);
        check(Some(60), &[("10.0.0.0/28", LIVE)], &["10.0.0.7", "10.0.0.77"], Plan::Hold { tell: true });
        check(Some(60), &[("10.0.0.0/24", LIVE)], &["10.0.0.77"], Plan::Release);
        check(Some(60), &[("10.0.0.0/16", LIVE)], &["10.0.0.77"], Plan::Release);
        check(Some(60), &[("10.0.0.0/16", GOING)], &["10.0.0.77"], Plan::Hold { tell: true });
        // The broadcast address of the other is none that a Service could have.
        check(Some(60), &[("10.0.0.0/28", LIVE)], &["10.0.0.15"], Plan::Hold { tell: true });
    }

    #[test]
    fn a_range_that_is_free_goes_after_a_moment() {
        check(Some(4), &[], &["10.1.0.7", "2001:db8::7"], Plan::Wait(Duration::from_secs(6)));
        check(Some(10), &[], &["10.1.0.7"], Plan::Release);
        let now = Timestamp::from_second(NOW_S).expect("a time");
        assert_eq!(plan(&range("own", "10.0.0.0/24", Some(60), json!(["x"])), &[], &[], now), Plan::Gone);
    }

    #[test]
    fn blocks_of_both_families_are_compared_with_their_own() {
        let covers =
            |one: &str, other: &str| Block::parse(one).expect("a block").covers(&Block::parse(other).expect("a block"));
        assert!(covers("10.0.0.0/8", "10.9.0.0/16") && !covers("10.9.0.0/16", "10.0.0.0/8"));
        assert!(covers("0.0.0.0/0", "10.0.0.0/8") && !covers("0.0.0.0/0", "::/64"));
        assert!(covers("::/0", "2001:db8::/64") && covers("2001:db8::/32", "2001:db8:1::/48"));
        let has = |block: &str, ip: &str| Block::parse(block).expect("a block").has(ip.parse().expect("an address"));
        assert!(has("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff") && !has("2001:db8::/64", "2001:db8::"));
        assert!(has("0.0.0.0/0", "9.9.9.9") && !has("10.0.0.0/24", "10.0.0.255") && !has("10.0.0.0/24", "10.0.1.1"));
    }
}
