//! What one step does for a StatefulSet. Pure: same inputs, same plan.
//!
//! In order: the replicas that are wanted, the claims of those that are not, their end, and last the update. A set that keeps
//! its order (`OrderedReady`) stops at the first pod that is not available; one that need not (`Parallel`) does all at once.
//! Absent on purpose: `maxUnavailable`, whose gate `MaxUnavailableStatefulSet` is off in v1.36: an update takes one pod at a time.
//! Source: `pkg/controller/statefulset/stateful_set_control.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_types::k8s::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod};

use super::claims::{self, Claims};
use super::identity::{self, Version, revision_of};
use crate::pods;

/// Steps for wanted pods at most, so that a set of millions is made bit by bit. Source: `MaxBatchSize`.
const BURST: usize = 500;

/// Pods by their ordinals.
type Pods = BTreeMap<i32, Arc<Pod>>;

#[derive(Debug)]
pub enum Step {
    /// Claims before the pod that mounts them.
    Create {
        pod: Box<Pod>,
        claims: Claims,
    },
    /// Claims that a pod waits for, or whose owners are wrong.
    Claim {
        pod: Arc<Pod>,
        claims: Claims,
    },
    /// Makes a pod who it should be: `changed`, if it differs, after its claims.
    Mend {
        pod: Arc<Pod>,
        changed: Option<Box<Pod>>,
        claims: Claims,
    },
    Delete(Arc<Pod>),
}

/// Phases one after another.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps of a phase are done one after another, too.
    pub in_order: bool,
    pub replicas: Vec<Step>,
    pub claims: Vec<Step>,
    pub surplus: Vec<Step>,
    /// A pod of an old revision that makes room for one of the new.
    pub outdated: Option<Arc<Pod>>,
    pub status: StatefulSetStatus,
    pub requeue: Option<Duration>,
}

/// What a step looks at.
pub struct World<'a> {
    pub set: &'a StatefulSet,
    pub current: &'a Version,
    pub update: &'a Version,
    pub collisions: i32,
    pub pods: &'a [Arc<Pod>],
    pub claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    pub now: Timestamp,
}

/// Whether the plan goes on to the next pod, or waits.
#[derive(PartialEq)]
enum Next {
    Go,
    Wait,
}

pub fn plan(world: &World<'_>) -> Plan {
    let wanted = identity::wanted(world.set);
    let by_ordinal = world.pods.iter().filter_map(|pod| Some((identity::ordinal(world.set, pod)?, pod.clone())));
    let (replicas, surplus): (Pods, Pods) = by_ordinal.partition(|(ordinal, _)| wanted.contains(ordinal));
    let in_order = world.keeps_order();
    let mut plan = Plan { in_order, status: world.status(), requeue: world.next_available(), ..Plan::default() };
    if world.set.metadata.deletion_timestamp.is_none() {
        world.manage(&replicas, &surplus, &mut plan);
    }
    plan
}

/// Whether the status says something else than the one that is held. Conditions and collisions alone are no reason to write.
pub fn differs(held: Option<&StatefulSetStatus>, status: &StatefulSetStatus) -> bool {
    let told = |status: &StatefulSetStatus| StatefulSetStatus {
        observed_generation: None,
        conditions: None,
        collision_count: None,
        ..status.clone()
    };
    let none = StatefulSetStatus::default();
    let held = held.unwrap_or(&none);
    status.observed_generation > held.observed_generation || told(status) != told(held)
}

/// An update that has reached every pod makes its revision the current one.
pub fn complete(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let wanted = identity::wanted(set).len() as i32;
    let all = [status.updated_replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0), status.replicas];
    if strategy(set) == "RollingUpdate" && all.iter().all(|count| *count == wanted) {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

fn strategy(set: &StatefulSet) -> &str {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or_default()
}

/// How many pods from the first on keep the current revision; none where the strategy has no parameters.
fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref())?;
    strategy.rolling_update.as_ref().map(|rolling| rolling.partition.unwrap_or(0))
}

impl World<'_> {
    fn spec(&self) -> Option<&StatefulSetSpec> {
        self.set.spec.as_ref()
    }

    fn keeps_order(&self) -> bool {
        self.spec().and_then(|spec| spec.pod_management_policy.as_deref()) != Some("Parallel")
    }

    fn min_ready_s(&self) -> i32 {
        self.spec().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_s(), self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_some() || !self.is_available(pod)
    }

    fn manage(&self, replicas: &Pods, surplus: &Pods, plan: &mut Plan) {
        for ordinal in identity::wanted(self.set) {
            let next = self.replica(ordinal, replicas.get(&ordinal), &mut plan.replicas);
            if (next == Next::Wait && self.keeps_order()) || plan.replicas.len() >= BURST {
                return;
            }
        }
        for (ordinal, pod) in surplus.iter().rev() {
            let claims = claims::due(self.set, pod, *ordinal, false, self.claim);
            if !claims.is_empty() {
                plan.claims.push(Step::Claim { pod: pod.clone(), claims });
            }
        }
        let first_unavailable = replicas.values().chain(surplus.values()).find(|pod| self.is_unavailable(pod));
        for pod in surplus.values().rev() {
            self.condemn(pod, first_unavailable, &mut plan.surplus);
            if self.keeps_order() {
                return;
            }
        }
        plan.outdated = self.outdated(replicas);
    }

    /// What a wanted pod needs. Source: `processReplica`.
    fn replica(&self, ordinal: i32, slot: Option<&Arc<Pod>>, steps: &mut Vec<Step>) -> Next {
        let Some(pod) = slot else {
            let pod = identity::new_pod(self.set, self.version_of(ordinal), ordinal);
            if !claims::is_stale(self.set, &pod, ordinal, self.claim) {
                let claims = claims::due(self.set, &pod, ordinal, true, self.claim);
                steps.push(Step::Create { pod: Box::new(pod), claims });
            }
            return Next::Wait;
        };
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if pods::is_terminal(pod) {
            // Its successor comes when it is gone.
            if !terminating {
                steps.push(Step::Delete(pod.clone()));
            }
            return Next::Wait;
        }
        let pending = pods::phase(pod) == "Pending";
        let mut claims = claims::due(self.set, pod, ordinal, pending, self.claim);
        if pending && !claims.is_empty() {
            steps.push(Step::Claim { pod: pod.clone(), claims: std::mem::take(&mut claims) });
        }
        if self.keeps_order() && (terminating || !is_running_and_ready(pod) || !self.is_available(pod)) {
            return Next::Wait;
        }
        let mut changed = None;
        if !identity::is_itself(self.set, pod, ordinal) {
            let mut mended = Pod::clone(pod);
            identity::mend(self.set, &mut mended, ordinal);
            changed = Some(Box::new(mended));
        }
        if changed.is_some() || !claims.is_empty() {
            steps.push(Step::Mend { pod: pod.clone(), changed, claims });
        }
        Next::Go
    }

    /// Lets a pod go that is not wanted. Source: `processCondemned`.
    fn condemn(&self, pod: &Arc<Pod>, first_unavailable: Option<&Arc<Pod>>, steps: &mut Vec<Step>) {
        if pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let healthy = is_running_and_ready(pod) && self.is_available(pod);
        let is_first = first_unavailable.is_some_and(|first| Arc::ptr_eq(first, pod));
        if healthy || is_first || !self.keeps_order() {
            steps.push(Step::Delete(pod.clone()));
        }
    }

    /// The pod of the highest ordinal that is of an old revision, unless one above it is not available.
    fn outdated(&self, replicas: &Pods) -> Option<Arc<Pod>> {
        if strategy(self.set) == "OnDelete" {
            return None;
        }
        let wanted = identity::wanted(self.set);
        let first = wanted.start.saturating_add(partition(self.set).unwrap_or(0));
        for ordinal in (first..wanted.end).rev() {
            let pod = replicas.get(&ordinal)?;
            if revision_of(pod) != self.update.name && pod.metadata.deletion_timestamp.is_none() {
                return Some(pod.clone());
            }
            if self.is_unavailable(pod) {
                return None;
            }
        }
        None
    }

    /// The version that a pod of this ordinal is made from. Source: `newVersionedStatefulSetPod`.
    fn version_of(&self, ordinal: i32) -> &Version {
        let current = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let kept = match partition(self.set) {
            Some(partition) => partition,
            None if strategy(self.set) == "RollingUpdate" => current,
            None => 0,
        };
        let first = identity::wanted(self.set).start;
        if ordinal < first.saturating_add(kept) { self.current } else { self.update }
    }

    fn status(&self) -> StatefulSetStatus {
        let count = |counts: &dyn Fn(&Pod) -> bool| self.pods.iter().filter(|pod| counts(pod)).count() as i32;
        // Upstream's counters are `omitempty`, but for those two.
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        let is_of = |pod: &Pod, version: &Version| {
            pod.metadata.deletion_timestamp.is_none() && revision_of(pod) == version.name
        };
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: self.pods.len() as i32,
            ready_replicas: some(count(&is_running_and_ready)),
            available_replicas: Some(count(&|pod| is_running_and_ready(pod) && self.is_available(pod))),
            current_replicas: some(count(&|pod| is_of(pod, self.current))),
            updated_replicas: some(count(&|pod| is_of(pod, self.update))),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
            collision_count: Some(self.collisions),
            conditions: None,
        }
    }

    /// When the next pod becomes available by having been ready for long enough.
    fn next_available(&self) -> Option<Duration> {
        let waits = self.pods.iter().filter_map(|pod| pods::available_in(pod, self.min_ready_s(), self.now));
        waits.filter(|wait| !wait.is_zero()).min()
    }
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::fixtures::template;
    use crate::owners;
    use crate::pods::fixtures::{PodBuilder, now, ready};
    use crate::statefulset::fixtures::{SetBuilder, set};

    /// A ready pod of revision `old` or `new`, as the set would have made it.
    fn pod(ordinal: i32, revision: &str) -> PodBuilder {
        let name = format!("web-{ordinal}");
        ready(&name, 60).label("controller-revision-hash", revision).label(identity::NAME_LABEL, &name)
    }

    fn planned(set: &SetBuilder, pods: &[Arc<Pod>]) -> Plan {
        let version = |name: &str| Version { name: name.to_owned(), template: template(name) };
        let (current, update) = (version("old"), version("new"));
        let world = World {
            set: &set.0,
            current: &current,
            update: &update,
            collisions: 0,
            pods,
            claim: &|_| None,
            now: now(),
        };
        plan(&world)
    }

    fn shown(step: &Step) -> String {
        match step {
            Step::Create { pod, claims } => {
                let claims: String =
                    claims.create.iter().map(|claim| format!(" with {}", owners::name(claim))).collect();
                format!("create {} {}{claims}", owners::name(&**pod), revision_of(pod))
            }
            Step::Claim { pod, .. } => format!("claims of {}", owners::name(&**pod)),
            Step::Mend { pod, .. } => format!("mend {}", owners::name(&**pod)),
            Step::Delete(pod) => format!("delete {}", owners::name(&**pod)),
        }
    }

    fn check(set: &SetBuilder, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(PodBuilder::arc).collect();
        let plan = planned(set, &pods);
        let steps = plan.replicas.iter().chain(&plan.claims).chain(&plan.surplus).map(shown);
        let outdated = plan.outdated.iter().map(|pod| format!("replace {}", owners::name(&**pod)));
        assert_eq!(steps.chain(outdated).collect::<Vec<_>>().join(", "), expected);
    }

    #[test]
    fn pods_come_one_after_another_when_those_before_are_available() {
        check(&set(3), [], "create web-0 new");
        check(&set(3), [pod(0, "new")], "create web-1 new");
        check(&set(3), [pod(0, "new").unready()], "");
        check(&set(3).min_ready(90), [pod(0, "new")], "");
        check(&set(3).min_ready(30), [pod(0, "new")], "create web-1 new");
        check(&set(3), [pod(0, "new").terminating()], "");
        check(&set(3), [pod(0, "new"), pod(2, "new")], "create web-1 new");
    }

    #[test]
    fn pods_of_a_parallel_set_come_all_at_once() {
        check(&set(3).parallel(), [], "create web-0 new, create web-1 new, create web-2 new");
        check(&set(3).parallel(), [pod(1, "new").unready()], "create web-0 new, create web-2 new");
    }

    #[test]
    fn a_huge_set_is_made_bit_by_bit() {
        assert_eq!(planned(&set(i32::MAX).parallel(), &[]).replicas.len(), BURST);
        assert_eq!(planned(&set(i32::MAX), &[]).replicas.len(), 1);
    }

    #[test]
    fn claims_come_with_the_pod_that_mounts_them() {
        check(&set(1).claim("data").claim("log"), [], "create web-0 new with data-web-0 with log-web-0");
        let waiting = pod(0, "new").phase("Pending").unready();
        check(&set(1).claim("data"), [waiting], "claims of web-0");
    }

    #[test]
    fn ordinals_start_where_the_set_says() {
        check(&set(2).start(5), [], "create web-5 new");
        check(&set(2).start(1), [pod(0, "new"), pod(1, "new"), pod(2, "new")], "delete web-0");
    }

    #[test]
    fn the_highest_ordinal_goes_first_and_alone() {
        let all = || [pod(0, "new"), pod(1, "new"), pod(2, "new"), pod(3, "new")];
        check(&set(1), all(), "delete web-3");
        let [zero, one, two, three] = all();
        check(&set(1), [zero, one, two, three.terminating()], "");
        let [zero, one, two, three] = all();
        check(&set(1), [zero.unready(), one, two, three], "");
        let [zero, one, two, three] = all();
        check(&set(1), [zero, one.unready(), two, three.unready()], "");
        let [zero, one, two, three] = all();
        check(&set(1), [zero, one, two, three.unready()], "delete web-3");
        check(&set(1).parallel(), all(), "delete web-3, delete web-2, delete web-1");
    }

    #[test]
    fn finished_pods_are_replaced_when_they_are_gone() {
        check(&set(1), [pod(0, "new").phase("Failed")], "delete web-0");
        check(&set(1), [pod(0, "new").phase("Succeeded")], "delete web-0");
        check(&set(1), [pod(0, "new").phase("Failed").terminating()], "");
        check(&set(2).parallel(), [pod(0, "new").phase("Failed")], "delete web-0, create web-1 new");
    }

    #[test]
    fn an_update_goes_from_the_highest_ordinal_down_one_by_one() {
        let all = |revisions: [&str; 3]| [pod(0, revisions[0]), pod(1, revisions[1]), pod(2, revisions[2])];
        check(&set(3), all(["old", "old", "old"]), "replace web-2");
        check(&set(3), all(["old", "old", "new"]), "replace web-1");
        check(&set(3), all(["new", "new", "new"]), "");
        let [zero, one, two] = all(["old", "old", "new"]);
        check(&set(3).parallel(), [zero, one, two.unready()], "");
        let [zero, one, two] = all(["old", "old", "old"]);
        check(&set(3).parallel(), [zero.unready(), one, two.unready()], "replace web-2");
        let [zero, one, two] = all(["old", "old", "old"]);
        check(&set(3).parallel(), [zero, one, two.terminating()], "");
        check(&set(3).on_delete(), all(["old", "old", "old"]), "");
    }

    #[test]
    fn a_partition_keeps_those_below_it() {
        let all = || [pod(0, "old"), pod(1, "old"), pod(2, "old")];
        check(&set(3).partition(2), all(), "replace web-2");
        check(&set(3).partition(3), all(), "");
        check(&set(3).partition(2), [pod(0, "old"), pod(1, "old")], "create web-2 new");
        check(&set(3).partition(2), [pod(0, "old"), pod(2, "new")], "create web-1 old");
        check(&set(2).start(4).partition(1), [], "create web-4 old");
    }

    #[test]
    fn a_strategy_without_parameters_counts_what_is_current() {
        check(&set(2).bare().current_replicas(1), [], "create web-0 old");
        check(&set(2).bare().current_replicas(0), [], "create web-0 new");
        check(&set(2).on_delete(), [pod(0, "old")], "create web-1 new");
    }

    #[test]
    fn a_pod_that_is_not_itself_is_mended() {
        let stranger = ready("web-0", 60).label("controller-revision-hash", "new");
        check(&set(1), [stranger], "mend web-0");
    }

    #[test]
    fn nothing_is_done_for_a_set_that_goes() {
        check(&set(3).going(), [pod(4, "old")], "");
    }

    fn check_status(set: &SetBuilder, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(PodBuilder::arc).collect();
        let mut status = planned(set, &pods).status;
        complete(&set.0, &mut status);
        let count = |count: Option<i32>| count.unwrap_or(0);
        let shown = format!(
            "{} ready={} available={} current={} updated={} {}/{}",
            status.replicas,
            count(status.ready_replicas),
            count(status.available_replicas),
            count(status.current_replicas),
            count(status.updated_replicas),
            status.current_revision.as_deref().unwrap_or_default(),
            status.update_revision.as_deref().unwrap_or_default(),
        );
        assert_eq!(shown, expected);
        assert_eq!((status.observed_generation, status.collision_count), (Some(3), Some(0)));
    }

    #[test]
    fn the_status_counts_pods_by_state_and_revision() {
        let pods = || [pod(0, "old"), pod(1, "old").unready(), pod(2, "new"), pod(3, "new").terminating()];
        check_status(&set(4), pods(), "4 ready=3 available=3 current=2 updated=1 old/new");
        check_status(&set(4).min_ready(61), pods(), "4 ready=3 available=0 current=2 updated=1 old/new");
        check_status(&set(2), [], "0 ready=0 available=0 current=0 updated=0 old/new");
    }

    #[test]
    fn an_update_that_has_reached_all_is_complete() {
        let pods = || [pod(0, "new"), pod(1, "new")];
        check_status(&set(2), pods(), "2 ready=2 available=2 current=2 updated=2 new/new");
        check_status(&set(3), pods(), "2 ready=2 available=2 current=0 updated=2 old/new");
        check_status(&set(2).on_delete(), pods(), "2 ready=2 available=2 current=0 updated=2 old/new");
    }

    #[test]
    fn a_status_is_written_when_it_says_something_else() {
        let status = planned(&set(2), &[]).status;
        assert!(differs(None, &status));
        let mut held = StatefulSetStatus { conditions: Some(Vec::new()), ..status.clone() };
        assert!(!differs(Some(&held), &status));
        held.observed_generation = Some(2);
        assert!(differs(Some(&held), &status));
    }

    #[test]
    fn availability_is_looked_at_again_when_it_is_due() {
        let pods = [pod(0, "new").arc()];
        assert_eq!(planned(&set(1).min_ready(90), &pods).requeue, Some(Duration::from_secs(30)));
        assert_eq!(planned(&set(1).min_ready(30), &pods).requeue, None);
    }
}
