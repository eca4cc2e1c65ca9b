//! What one step does for a DaemonSet. Pure: same inputs, same plan.
//!
//! First each node gets the pods it should have: one, or two while an update brings the new one before the old one goes.
//! Only when that asks for nothing does an update go on, within `maxUnavailable` or `maxSurge`.
//! Source: `pkg/controller/daemon/daemon_controller.go` and `update.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_types::k8s::api::apps::v1::{DaemonSet, DaemonSetStatus, RollingUpdateDaemonSet};
use wharf_types::k8s::api::core::v1::{Node, Pod};

use super::nodes::{self, Fit, Rules};
use crate::history::REVISION_LABEL;
use crate::{owners, pods, share};

/// Pods that one step creates, and deletes, at most. Source: `BurstReplicas`.
const BURST: usize = 250;

/// On a DaemonSet: how many templates it has had. On its pods: the number of theirs, beside the hash.
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";
pub const GENERATION_LABEL: &str = "pod-template-generation";

/// What a step looks at.
pub struct World<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    pub pods: &'a [Arc<Pod>],
    /// Of the present template's revision.
    pub hash: &'a str,
    /// How long the failed pods of a node must stay yet.
    pub backoff: &'a dyn Fn(&str) -> Option<Duration>,
    /// The view has all earlier creations and deletions.
    pub settled: bool,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Nodes whose failed pods are deleted.
    pub failed_on: Vec<String>,
    pub notes: Vec<Note>,
    pub status: DaemonSetStatus,
    pub requeue: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    Failed(String),
    Succeeded(String),
}

/// The number of the DaemonSet's template.
pub fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.metadata.annotations.as_ref()?.get(GENERATION_ANNOTATION)?.parse().ok()
}

pub fn plan(world: &World<'_>) -> Plan {
    let template = world.set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let rules = Rules::of(template);
    let fits = world.nodes.iter().map(|node| (owners::name(&**node).to_owned(), rules.fit(node))).collect();
    // Finished and deleted: nobody here has anything left to do with it.
    let counted = world.pods.iter().filter(|pod| !(pods::is_terminal(pod) && is_going(pod)));
    let mut by_node = nodes::by_node(counted.cloned());
    by_node.values_mut().for_each(|pods| pods.sort_by_key(|pod| rank(pod)));
    let planner = Planner { world, fits, by_node };
    let mut plan = Plan { status: planner.status(), requeue: planner.next_available(), ..Plan::default() };
    if world.settled {
        planner.manage(&mut plan);
        if plan.create.is_empty() && plan.delete.is_empty() {
            planner.roll(&mut plan);
        }
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Pods that have a node first, then the oldest.
fn rank(pod: &Pod) -> impl Ord + use<> {
    let assigned = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    (!assigned, pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
}

struct Planner<'a> {
    world: &'a World<'a>,
    fits: BTreeMap<String, Fit>,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
}

/// What an update may take at once.
struct Limits {
    surge: usize,
    unavailable: usize,
    desired: usize,
}

/// At most one pod of each kind; more are for [`Planner::manage`] to prune.
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

impl Planner<'_> {
    fn fit(&self, node: &str) -> Fit {
        self.fits.get(node).copied().unwrap_or_default()
    }

    fn rolling(&self) -> Option<&RollingUpdateDaemonSet> {
        let strategy = self.world.set.spec.as_ref()?.update_strategy.as_ref()?;
        strategy.rolling_update.as_ref().filter(|_| strategy.type_.as_deref() == Some("RollingUpdate"))
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.world.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("RollingUpdate"))
    }

    fn surges(&self) -> bool {
        share::scaled(self.rolling().and_then(|rolling| rolling.max_surge.as_ref()), 1, true) > 0
    }

    fn min_ready_s(&self) -> i32 {
        self.world.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_s(), self.world.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let generation = template_generation(self.world.set).map(|generation| generation.to_string());
        label(REVISION_LABEL).is_some_and(|hash| hash == self.world.hash)
            || (generation.is_some() && label(GENERATION_LABEL) == generation.as_ref())
    }

    /// Gives each node the pods it should have.
    fn manage(&self, plan: &mut Plan) {
        let none = Vec::new();
        for (node, fit) in &self.fits {
            self.manage_node(node, *fit, self.by_node.get(node).unwrap_or(&none), plan);
        }
        // The scheduler will never find their node, and who collects pods of lost nodes knows only those that have one.
        let lost = self.by_node.iter().filter(|(node, _)| !self.fits.contains_key(*node)).flat_map(|(_, pods)| pods);
        let unassigned = |pod: &&Arc<Pod>| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_none_or(str::is_empty) && !is_going(pod)
        };
        plan.delete.extend(lost.filter(unassigned).cloned());
    }

    /// Source: `podsShouldBeOnNode`.
    fn manage_node(&self, node: &str, fit: Fit, there: &[Arc<Pod>], plan: &mut Plan) {
        let staying = || there.iter().filter(|pod| !is_going(pod));
        if there.is_empty() {
            plan.create.extend(fit.run.then(|| node.to_owned()));
            return;
        }
        if !fit.stay {
            plan.delete.extend(staying().cloned());
            return;
        }
        let mut running = Vec::new();
        for pod in staying() {
            let found = |state: &str, verb: &str| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                format!(
                    "Found {state} daemon pod {namespace}/{} on node {node}, will try to {verb} it",
                    owners::name(&**pod)
                )
            };
            match pods::phase(pod) {
                "Failed" => {
                    if let Some(left) = (self.world.backoff)(node) {
                        plan.requeue = Some(plan.requeue.map_or(left, |due| due.min(left)));
                        continue;
                    }
                    plan.failed_on.push(node.to_owned());
                    plan.notes.push(Note::Failed(found("failed", "kill")));
                    plan.delete.push(pod.clone());
                }
                "Succeeded" => {
                    plan.notes.push(Note::Succeeded(found("succeeded", "delete")));
                    plan.delete.push(pod.clone());
                }
                _ => running.push(pod),
            }
        }
        if !self.surges() {
            plan.delete.extend(running.into_iter().skip(1).cloned());
            return;
        }
        match running.as_slice() {
            [] => plan.create.extend(fit.run.then(|| node.to_owned())),
            [_] => {}
            several => self.prune(several, plan),
        }
    }

    /// Two pods may be on a node while the new one is not available yet and the old one is ready.
    fn prune(&self, running: &[&Arc<Pod>], plan: &mut Plan) {
        let has_hash = |pod: &Pod| {
            let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
            label.is_some_and(|hash| hash == self.world.hash)
        };
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = running.iter().copied().partition(|pod| has_hash(pod));
        let surplus = new.iter().skip(1).chain(old.iter().skip(1));
        plan.delete.extend(surplus.copied().cloned());
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            plan.delete.push(Arc::clone(old));
        }
    }

    /// What the update may take, of the nodes that want a pod.
    fn limits(&self) -> Limits {
        let desired = self.fits.values().filter(|fit| fit.run).count();
        let total = i32::try_from(desired).unwrap_or(i32::MAX);
        let rolling = self.rolling();
        let count = |value| usize::try_from(share::scaled(value, total, true)).unwrap_or(0);
        let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()));
        let mut unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()));
        if desired > 0 && surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Limits { surge, unavailable, desired }
    }

    /// The nodes that count in an update: those that have pods or want one.
    fn sites(&self) -> impl Iterator<Item = (&String, Option<Pair<'_>>)> {
        let wanting = self.fits.iter().filter(|(_, fit)| fit.run).map(|(node, _)| node);
        let all: BTreeSet<&String> = self.by_node.keys().chain(wanting).collect();
        all.into_iter().map(move |node| (node, self.pair(self.by_node.get(node).map_or(&[][..], Vec::as_slice))))
    }

    fn pair<'p>(&self, there: &'p [Arc<Pod>]) -> Option<Pair<'p>> {
        let staying = there.iter().filter(|pod| !is_going(pod));
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = staying.partition(|pod| self.is_updated(pod));
        let fits = new.len() <= 1 && old.len() <= 1;
        fits.then(|| Pair { new: new.first().copied(), old: old.first().copied() })
    }

    fn roll(&self, plan: &mut Plan) {
        if !self.is_rolling() {
            return;
        }
        let limits = self.limits();
        if limits.surge == 0 { self.roll_in_place(&limits, plan) } else { self.roll_by_surge(&limits, plan) }
    }

    /// Deletes old pods; new ones come where none is left.
    fn roll_in_place(&self, limits: &Limits, plan: &mut Plan) {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for (_, pair) in self.sites() {
            match pair {
                Some(Pair { new: Some(new), old: None }) => unavailable += usize::from(!self.is_available(new)),
                Some(Pair { new: None, old: Some(old) }) if self.is_available(old) => candidates.push(old.clone()),
                Some(Pair { new: None, old: Some(old) }) => {
                    // Nothing is lost by replacing it.
                    plan.delete.push(old.clone());
                    unavailable += 1;
                }
                _ => unavailable += 1,
            }
        }
        plan.delete.extend(candidates.into_iter().take(limits.unavailable.saturating_sub(unavailable)));
    }

    /// Creates new pods beside old ones, which go when those are available.
    fn roll_by_surge(&self, limits: &Limits, plan: &mut Plan) {
        let (mut surging, mut available, mut candidates, mut retired) = (0, 0, Vec::new(), Vec::new());
        for (node, pair) in self.sites() {
            let Some(Pair { new, old }) = pair else {
                surging += 1;
                continue;
            };
            available += usize::from(old.or(new).is_some_and(|pod| self.is_available(pod)));
            match (new, old) {
                (_, None) => {}
                (Some(new), Some(_)) if !self.is_available(new) => surging += 1,
                (Some(_), Some(old)) => plan.delete.push(old.clone()),
                (None, Some(old)) => match (self.fit(node).run, self.is_available(old)) {
                    (true, true) => candidates.push(node.clone()),
                    (true, false) => plan.create.push(node.clone()),
                    (false, true) => retired.push(old.clone()),
                    (false, false) if self.fits.contains_key(node) => plan.delete.push(old.clone()),
                    (false, false) => {}
                },
            }
        }
        // Where the set has moved to other nodes, old ones serve until enough new ones do.
        plan.delete.extend(retired.into_iter().take(available.saturating_sub(limits.desired)));
        plan.create.extend(candidates.into_iter().take(limits.surge.saturating_sub(surging)));
    }

    fn status(&self) -> DaemonSetStatus {
        let world = self.world;
        let mut status = world.set.status.clone().unwrap_or_default();
        let (mut desired, mut current, mut strays, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
        for (node, fit) in &self.fits {
            let first = self.by_node.get(node).and_then(|pods| pods.first());
            if !fit.run {
                strays += i32::from(first.is_some());
                continue;
            }
            desired += 1;
            let Some(pod) = first else { continue };
            current += 1;
            ready += i32::from(pods::is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
        }
        // Upstream's counters are `omitempty`, but for the first four.
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        status.desired_number_scheduled = desired;
        status.current_number_scheduled = current;
        status.number_misscheduled = strays;
        status.number_ready = ready;
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(desired - available);
        if world.settled {
            status.observed_generation = world.set.metadata.generation;
        }
        status
    }

    /// When the next pod becomes available by having been ready for long enough.
    fn next_available(&self) -> Option<Duration> {
        let pods = self.by_node.values().flatten();
        let waits = pods.filter_map(|pod| pods::available_in(pod, self.min_ready_s(), self.world.now));
        waits.filter(|wait| !wait.is_zero()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemonset::fixtures::{DaemonBuilder, daemon, node, tainted};
    use crate::pods::fixtures::{PodBuilder, now, ready};

    /// A ready pod on `node`, of revision `old` or `new`.
    fn pod(node: &str, revision: &str) -> PodBuilder {
        ready(&format!("{revision}-{node}"), 60).node(node).label(REVISION_LABEL, revision)
    }

    struct Case {
        daemon: DaemonBuilder,
        nodes: Vec<Arc<Node>>,
        backoff: Option<Duration>,
        settled: bool,
    }

    fn case(daemon: DaemonBuilder, nodes: &[&str]) -> Case {
        Case { daemon, nodes: nodes.iter().map(|name| node(name)).collect(), backoff: None, settled: true }
    }

    impl Case {
        fn also(mut self, node: Arc<Node>) -> Self {
            self.nodes.push(node);
            self
        }

        fn plan(&self, pods: impl IntoIterator<Item = PodBuilder>) -> Plan {
            let pods: Vec<Arc<Pod>> = pods.into_iter().map(PodBuilder::arc).collect();
            plan(&World {
                set: &self.daemon.0,
                nodes: &self.nodes,
                pods: &pods,
                hash: "new",
                backoff: &|_| self.backoff,
                settled: self.settled,
                now: now(),
            })
        }

        fn check(&self, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
            let plan = self.plan(pods);
            let created = plan.create.iter().map(|node| format!("create {node}"));
            let deleted = plan.delete.iter().map(|pod| format!("delete {}", owners::name(&**pod)));
            assert_eq!(created.chain(deleted).collect::<Vec<_>>().join(", "), expected);
        }

        fn check_status(&self, pods: impl IntoIterator<Item = PodBuilder>, expected: &str) {
            let status = self.plan(pods).status;
            let count = |count: Option<i32>| count.unwrap_or(0);
            let shown = format!(
                "desired={} current={} stray={} ready={} updated={} available={} unavailable={} seen={}",
                status.desired_number_scheduled,
                status.current_number_scheduled,
                status.number_misscheduled,
                status.number_ready,
                count(status.updated_number_scheduled),
                count(status.number_available),
                count(status.number_unavailable),
                status.observed_generation.unwrap_or(0),
            );
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn each_node_that_fits_gets_one_pod() {
        case(daemon(), &["n1", "n2"]).check([], "create n1, create n2");
        case(daemon(), &["n1", "n2"]).check([pod("n1", "new")], "create n2");
        case(daemon(), &["n1"]).also(tainted("n2", "NoSchedule")).check([], "create n1");
        case(daemon(), &["n1"]).check([pod("n1", "new").terminating()], "");
        let others = ["a", "b"].map(|name| ready(name, 9).node("n1").label(REVISION_LABEL, "new"));
        let [one, two] = others;
        case(daemon(), &["n1"]).check([pod("n1", "new"), one, two], "delete a, delete b");
    }

    #[test]
    fn pods_leave_nodes_that_drive_them_out() {
        case(daemon(), &[]).also(tainted("n1", "NoSchedule")).check([pod("n1", "new")], "");
        case(daemon(), &[]).also(tainted("n1", "NoExecute")).check([pod("n1", "new")], "delete new-n1");
    }

    #[test]
    fn a_pod_that_waits_for_a_node_that_is_gone_goes() {
        let mut waiting = pod("", "new").phase("Pending");
        nodes::pin(waiting.0.spec.get_or_insert_default(), "gone");
        case(daemon(), &["n1"]).check([pod("n1", "new"), waiting], "delete new-");
        case(daemon(), &["n1"]).check([pod("n1", "new"), pod("gone", "new")], "");
    }

    #[test]
    fn finished_pods_are_replaced_failed_ones_with_patience() {
        let mut case = case(daemon(), &["n1"]);
        case.check([pod("n1", "new").phase("Failed")], "delete new-n1");
        let plan = case.plan([pod("n1", "new").phase("Failed")]);
        assert_eq!(plan.failed_on, ["n1"]);
        let words = "Found failed daemon pod default/new-n1 on node n1, will try to kill it";
        assert_eq!(plan.notes, [Note::Failed(words.to_owned())]);
        case.check([pod("n1", "new").phase("Succeeded")], "delete new-n1");
        case.check([pod("n1", "new").phase("Failed").terminating()], "create n1");
        case.backoff = Some(Duration::from_secs(4));
        case.check([pod("n1", "new").phase("Failed")], "");
        assert_eq!(case.plan([pod("n1", "new").phase("Failed")]).requeue, case.backoff);
    }

    #[test]
    fn an_update_replaces_old_pods_within_its_limit() {
        let all = || [pod("n1", "old"), pod("n2", "old"), pod("n3", "old")];
        let nodes = ["n1", "n2", "n3"];
        case(daemon().unavailable("1"), &nodes).check(all(), "delete old-n1");
        case(daemon().unavailable("2"), &nodes).check(all(), "delete old-n1, delete old-n2");
        case(daemon().unavailable("34%"), &nodes).check(all(), "delete old-n1, delete old-n2");
        case(daemon().on_delete(), &nodes).check(all(), "");
        let updating = || [pod("n1", "new").unready(), pod("n2", "old"), pod("n3", "old")];
        case(daemon().unavailable("1"), &nodes).check(updating(), "");
        case(daemon().unavailable("2"), &nodes).check(updating(), "delete old-n2");
        let leaving = [pod("n1", "old").terminating(), pod("n2", "old"), pod("n3", "old")];
        case(daemon().unavailable("1"), &nodes).check(leaving, "");
    }

    #[test]
    fn old_pods_that_do_not_serve_are_replaced_at_once() {
        let pods = [pod("n1", "old").unready(), pod("n2", "old"), pod("n3", "old").unready()];
        case(daemon().unavailable("1"), &["n1", "n2", "n3"]).check(pods, "delete old-n1, delete old-n3");
    }

    #[test]
    fn a_surge_brings_new_pods_before_old_ones_go() {
        let all = || [pod("n1", "old"), pod("n2", "old")];
        case(daemon().surge("1"), &["n1", "n2"]).check(all(), "create n1");
        case(daemon().surge("100%"), &["n1", "n2"]).check(all(), "create n1, create n2");
        let [one, two] = all();
        case(daemon().surge("1"), &["n1", "n2"]).check([one, two, pod("n1", "new").unready()], "");
        let [one, two] = all();
        case(daemon().surge("1"), &["n1", "n2"]).check([one, two, pod("n1", "new")], "delete old-n1");
        let [one, two] = all();
        case(daemon().surge("1"), &["n1", "n2"])
            .check([one.unready(), two, pod("n1", "new").unready()], "delete old-n1");
        let [one, two] = all();
        case(daemon().surge("1"), &["n1", "n2"]).check([one.unready(), two], "create n1, create n2");
        case(daemon().surge("1"), &["n1"]).check([pod("n1", "new").phase("Failed")], "create n1, delete new-n1");
    }

    #[test]
    fn a_set_that_moves_by_surge_serves_all_the_time() {
        let moved = |new: PodBuilder| [pod("n1", "old"), new];
        let case = case(daemon().surge("1"), &["n2"]).also(tainted("n1", "NoSchedule"));
        case.check(moved(pod("n2", "new").unready()), "");
        case.check(moved(pod("n2", "new")), "delete old-n1");
        case.check([pod("n1", "old").unready(), pod("n2", "new").unready()], "delete old-n1");
    }

    #[test]
    fn a_pod_of_the_present_template_generation_is_up_to_date() {
        let by_generation = ready("a", 60).node("n1").label(GENERATION_LABEL, "7");
        case(daemon().template_generation(7), &["n1"]).check([by_generation], "");
    }

    #[test]
    fn nothing_is_done_while_own_writes_are_unseen() {
        let mut case = case(daemon(), &["n1"]);
        case.settled = false;
        case.check([], "");
        case.check_status([], "desired=1 current=0 stray=0 ready=0 updated=0 available=0 unavailable=1 seen=0");
    }

    #[test]
    fn the_status_counts_nodes_by_their_first_pod() {
        let case = case(daemon(), &["n1", "n2", "n3", "n4"]).also(tainted("n5", "NoSchedule"));
        let pods = [pod("n1", "new"), pod("n2", "old"), pod("n3", "new").unready(), pod("n5", "new")];
        case.check_status(pods, "desired=4 current=3 stray=1 ready=2 updated=2 available=2 unavailable=2 seen=3");
        let done = [pod("n1", "new").phase("Failed").terminating()];
        case.check_status(done, "desired=4 current=0 stray=0 ready=0 updated=0 available=0 unavailable=4 seen=3");
    }

    #[test]
    fn availability_is_looked_at_again_when_it_is_due() {
        let plan = case(daemon().min_ready(90), &["n1"]).plan([pod("n1", "new")]);
        assert_eq!(plan.requeue, Some(Duration::from_secs(30)));
        assert_eq!((plan.status.number_ready, plan.status.number_available), (1, None));
    }
}
