//! What controllers ask about pods, and how they make and rank them.
//!
//! Source: `k8s.io/kubernetes/pkg/controller/controller_utils.go` and `pkg/api/v1/pod/util.go`.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Resource;
use wharf_types::k8s::api::core::v1::{ContainerStatus, Pod, PodCondition, PodTemplateSpec};
use wharf_types::meta::{ObjectMeta, Time};

use crate::owners;

pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Marked for deletion and not yet stopped.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until a pod that is ready now counts as available; zero if it does.
pub fn available_in(pod: &Pod, min_ready_s: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_s <= 0 {
        return Some(Duration::ZERO);
    }
    let due = ready_since(pod)? + SignedDuration::from_secs(min_ready_s.into());
    Some(Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO))
}

pub fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_s, now) == Some(Duration::ZERO)
}

/// The pod that `owner` makes from its template; the server completes its name.
pub fn from_template<O: Resource<DynamicType = ()>>(template: &PodTemplateSpec, owner: &O) -> Pod {
    let of_template = template.metadata.as_ref();
    let metadata = ObjectMeta {
        generate_name: Some(name_prefix(owners::name(owner))),
        namespace: owner.meta().namespace.clone(),
        labels: of_template.and_then(|meta| meta.labels.clone()),
        annotations: of_template.and_then(|meta| meta.annotations.clone()),
        finalizers: of_template.and_then(|meta| meta.finalizers.clone()),
        owner_references: Some(vec![owners::controller_ref(owner)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// `web-` for `web`; without the dash where that would not be valid.
pub fn name_prefix(owner: &str) -> String {
    let with_dash = format!("{owner}-");
    // A generated name gets a suffix, so a dash at the end is fine there.
    let valid = wharf_machinery::names::dns1123_subdomain(&format!("{owner}-x")).is_empty();
    if valid { with_dash } else { owner.to_owned() }
}

/// A pod beside the number of active pods of its family on its node.
pub struct Ranked {
    pub pod: Arc<Pod>,
    pub on_node: usize,
}

/// Which of two surplus pods goes first. Source: `ActivePodsWithRanks.Less`.
pub fn deletion_order(one: &Ranked, two: &Ranked, now: Timestamp) -> Ordering {
    let (a, b) = (&*one.pod, &*two.pod);
    // Unassigned before assigned; Pending before Unknown before Running; not ready before ready; cheap before dear;
    // crowded nodes first.
    is_assigned(a)
        .cmp(&is_assigned(b))
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| two.on_node.cmp(&one.on_node))
        .then_with(|| readiness_order(a, b, now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), a, b, now))
}

fn is_assigned(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

/// Source: `pkg/apis/core/helper.GetDeletionCostFromPodAnnotations`; a bad value counts as 0.
fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    cost.filter(|cost| !cost.starts_with('+')).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

fn readiness_order(a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    if is_ready(a) && is_ready(b) { younger_first(ready_since(a), ready_since(b), a, b, now) } else { Ordering::Equal }
}

/// No time before a time; then by the logarithm of the age, so that pods of about the same age go in random order
/// (their UIDs') and not always the youngest.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, pod_a: &Pod, pod_b: &Pod, now: Timestamp) -> Ordering {
    let (Some(since_a), Some(since_b)) = (a, b) else { return a.is_some().cmp(&b.is_some()) };
    if since_a == since_b {
        return Ordering::Equal;
    }
    let magnitude = |since: Timestamp| {
        let age = now.duration_since(since).as_nanos();
        if age > 0 { i64::from(age.ilog2()) } else { -1 }
    };
    magnitude(since_a).cmp(&magnitude(since_b)).then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid))
}

fn restarts(pod: &Pod) -> (i32, i32) {
    let most = |statuses: Option<&Vec<ContainerStatus>>| {
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
    };
    let status = pod.status.as_ref();
    let regular = most(status.and_then(|status| status.container_statuses.as_ref()));
    (regular, most(status.and_then(|status| status.init_container_statuses.as_ref())))
}

pub fn time(at: Timestamp) -> Time {
    // Kubernetes keeps whole seconds.
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
pub mod fixtures {
    //! Pods for tests, described briefly.

    use super::*;
    use wharf_types::k8s::api::core::v1::{PodSpec, PodStatus};

    /// A moment from which test ages count.
    pub const NOW_S: i64 = 1_800_000_000;

    pub fn now() -> Timestamp {
        Timestamp::from_second(NOW_S).expect("in range")
    }

    pub struct PodBuilder(pub Pod);

    /// A pod on node `n1`, created and ready `age_s` ago.
    pub fn ready(name: &str, age_s: i64) -> PodBuilder {
        let since = Some(Time(Timestamp::from_second(NOW_S - age_s).expect("in range")));
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: since.clone(),
            ..PodCondition::default()
        };
        PodBuilder(Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("default".to_owned()),
                uid: Some(format!("uid-{name}")),
                creation_timestamp: since,
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some("n1".to_owned()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some("Running".to_owned()),
                conditions: Some(vec![condition]),
                ..PodStatus::default()
            }),
        })
    }

    impl PodBuilder {
        pub fn phase(mut self, phase: &str) -> Self {
            self.0.status.get_or_insert_default().phase = Some(phase.to_owned());
            self
        }

        pub fn unready(mut self) -> Self {
            self.0.status.get_or_insert_default().conditions = None;
            self
        }

        pub fn node(mut self, node: &str) -> Self {
            self.0.spec.get_or_insert_default().node_name = Some(node.to_owned());
            self
        }

        pub fn label(mut self, key: &str, value: &str) -> Self {
            self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            self
        }

        pub fn annotation(mut self, key: &str, value: &str) -> Self {
            self.0.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            self
        }

        pub fn terminating(mut self) -> Self {
            self.0.metadata.deletion_timestamp = Some(Time(now()));
            self
        }

        pub fn restarts(mut self, count: i32) -> Self {
            let status = ContainerStatus { restart_count: count, ..ContainerStatus::default() };
            self.0.status.get_or_insert_default().container_statuses = Some(vec![status]);
            self
        }

        pub fn arc(self) -> Arc<Pod> {
            Arc::new(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{now, ready};
    use super::*;

    /// `first` is deleted before `second`.
    fn check(first: fixtures::PodBuilder, second: fixtures::PodBuilder) {
        let one = Ranked { pod: first.arc(), on_node: 0 };
        let two = Ranked { pod: second.arc(), on_node: 0 };
        assert_eq!(deletion_order(&one, &two, now()), Ordering::Less);
        assert_eq!(deletion_order(&two, &one, now()), Ordering::Greater);
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        check(ready("a", 900).node(""), ready("b", 5).phase("Pending"));
        check(ready("a", 900).phase("Pending"), ready("b", 5).phase("Unknown"));
        check(ready("a", 900).phase("Unknown"), ready("b", 5));
        check(ready("a", 900).unready(), ready("b", 5));
        check(ready("a", 900).annotation(DELETION_COST, "-1"), ready("b", 5));
        check(ready("a", 5).annotation(DELETION_COST, "+5"), ready("b", 900).annotation(DELETION_COST, "1"));
        check(ready("a", 5), ready("b", 900));
        check(ready("a", 60).restarts(2), ready("b", 60));
    }

    #[test]
    fn pods_of_about_the_same_age_go_by_uid() {
        check(ready("a", 110), ready("b", 100));
    }

    #[test]
    fn crowded_nodes_lose_pods_first() {
        let one = Ranked { pod: ready("a", 900).arc(), on_node: 3 };
        let two = Ranked { pod: ready("b", 5).arc(), on_node: 1 };
        assert_eq!(deletion_order(&one, &two, now()), Ordering::Less);
    }

    #[test]
    fn a_pod_is_available_after_its_seconds_of_readiness() {
        assert_eq!(available_in(&ready("a", 4).0, 10, now()), Some(Duration::from_secs(6)));
        assert!(is_available(&ready("a", 10).0, 10, now()));
        assert!(is_available(&ready("a", 0).0, 0, now()));
        assert_eq!(available_in(&ready("a", 100).unready().0, 0, now()), None);
    }
}
