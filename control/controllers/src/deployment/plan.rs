//! What one step does for a Deployment. Pure: same inputs, same plan.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wharf_types::k8s::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::progress;
use super::revision;
use super::rollout::{Rollout, is_recreate};

#[derive(Debug)]
pub enum Step {
    Create(Box<ReplicaSet>),
    /// `scaled`: from and to how many replicas, if that changes.
    Update {
        rs: Box<ReplicaSet>,
        scaled: Option<(i32, i32)>,
    },
    Delete(Box<ReplicaSet>),
}

#[derive(Debug)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// The revision to note on the Deployment, if it is another one.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub requeue: Option<Duration>,
}

/// `has_live_pods` tells whether pods of a set may still run; only `Recreate` asks.
pub fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    has_live_pods: impl Fn(&ReplicaSet) -> bool,
    now: Timestamp,
) -> Plan {
    let mut rollout = Rollout::new(deployment, sets);
    let mut base = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = progress::counted(&rollout, &base, now);
        return Plan { steps: Vec::new(), revision: None, status, requeue: None };
    }
    progress::note_pause(deployment, &mut base, now);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if paused || rollout.is_scaling_event() {
        return resized(rollout, &base, paused, now);
    }
    let before = rollout.new;
    let mut revision = None;
    if is_recreate(deployment) {
        let stopping = rollout.stop_old()
            || rollout.old().any(|at| {
                let rs = &rollout.sets[at].rs;
                rs.status.as_ref().is_some_and(|status| status.replicas > 0) || has_live_pods(rs)
            });
        if !stopping {
            revision = Some(rollout.ensure_new());
            rollout.start_new();
        }
    } else {
        revision = Some(rollout.ensure_new());
        rollout.roll();
    }
    if revision.is_some() || before.is_some() {
        progress::note_new_set(&rollout, &mut base, now);
    }
    let mut steps = rollout.steps();
    let mut status = progress::counted(&rollout, &base, now);
    if progress::is_complete(&rollout, &status) && steps.is_empty() {
        steps.extend(rollout.obsolete().into_iter().map(|at| Step::Delete(Box::new(rollout.sets[at].rs.clone()))));
    }
    progress::judge(&rollout, &base, &mut status, now);
    let requeue = progress::check_again(&rollout, &status, now);
    Plan { steps, revision: changed_revision(deployment, revision), status, requeue }
}

/// Paused, or scaled by somebody: sizes follow, the rollout does not go on.
fn resized(mut rollout: Rollout<'_>, base: &DeploymentStatus, paused: bool, now: Timestamp) -> Plan {
    let new_revision = rollout.new.map(|_| rollout.ensure_new());
    rollout.resize();
    let mut steps = rollout.steps();
    if paused && steps.is_empty() {
        steps.extend(rollout.obsolete().into_iter().map(|at| Step::Delete(Box::new(rollout.sets[at].rs.clone()))));
    }
    let status = progress::counted(&rollout, base, now);
    let requeue = progress::check_again(&rollout, &status, now);
    Plan { steps, revision: changed_revision(rollout.deployment, new_revision), status, requeue }
}

fn changed_revision(deployment: &Deployment, revision: Option<i64>) -> Option<String> {
    let noted = deployment.metadata.annotations.as_ref().and_then(|annotations| annotations.get(revision::REVISION));
    revision.map(|revision| revision.to_string()).filter(|revision| Some(revision) != noted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owners;
    use crate::pods::fixtures::{NOW_S, now};
    use wharf_types::k8s::api::apps::v1::{
        DeploymentSpec, DeploymentStrategy, ReplicaSetSpec, ReplicaSetStatus, RollingUpdateDeployment,
    };
    use wharf_types::k8s::api::core::v1::{Container, PodSpec, PodTemplateSpec};
    use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;
    use wharf_types::meta::{LabelSelector, ObjectMeta, Time};

    fn template(image: &str) -> PodTemplateSpec {
        let container = Container { name: "c".to_owned(), image: Some(image.to_owned()), ..Container::default() };
        let metadata =
            ObjectMeta { labels: Some([("app".to_owned(), "web".to_owned())].into()), ..ObjectMeta::default() };
        PodTemplateSpec {
            metadata: Some(metadata),
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        }
    }

    /// A Deployment of image `v2`; its sets are described as `image size/total/available`.
    struct Case {
        deployment: Deployment,
        sets: Vec<Arc<ReplicaSet>>,
        live_pods: bool,
    }

    fn case(replicas: i32, surge: i32, unavailable: i32) -> Case {
        let rolling_update = RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        };
        let spec = DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: template("").metadata.and_then(|meta| meta.labels),
                match_expressions: None,
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(rolling_update),
            }),
            template: template("v2"),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(1),
            ..DeploymentSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some("web".to_owned()),
            generation: Some(2),
            uid: Some("d".to_owned()),
            ..ObjectMeta::default()
        };
        let deployment = Deployment { metadata, spec: Some(spec), status: None };
        Case { deployment, sets: Vec::new(), live_pods: false }
    }

    impl Case {
        fn spec(&mut self) -> &mut DeploymentSpec {
            self.deployment.spec.as_mut().expect("has one")
        }

        fn recreate(mut self) -> Self {
            self.spec().strategy =
                Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None });
            self
        }

        fn paused(mut self) -> Self {
            self.spec().paused = Some(true);
            self
        }

        fn live_pods(mut self) -> Self {
            self.live_pods = true;
            self
        }

        fn set(self, image: &str, size: i32, total: i32, available: i32) -> Self {
            let desired = self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            self.set_for(desired, image, size, total, available)
        }

        /// A set that was sized when the Deployment wanted `desired`.
        fn set_for(mut self, desired: i32, image: &str, size: i32, total: i32, available: i32) -> Self {
            let number = self.sets.len() as i64 + 1;
            let (surge, _) = super::super::rollout::fenceposts(&self.deployment, desired);
            let annotations = [
                (revision::REVISION, number.to_string()),
                (revision::DESIRED_REPLICAS, desired.to_string()),
                (revision::MAX_REPLICAS, (desired + surge).to_string()),
            ];
            let metadata = ObjectMeta {
                name: Some(format!("web-{image}")),
                annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
                creation_timestamp: Some(Time(Timestamp::from_second(NOW_S - 1000 + number).expect("in range"))),
                ..ObjectMeta::default()
            };
            let spec =
                ReplicaSetSpec { replicas: Some(size), template: Some(template(image)), ..ReplicaSetSpec::default() };
            let status = ReplicaSetStatus {
                replicas: total,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..ReplicaSetStatus::default()
            };
            self.sets.push(Arc::new(ReplicaSet { metadata, spec: Some(spec), status: Some(status) }));
            self
        }

        fn status(mut self, status: DeploymentStatus) -> Self {
            self.deployment.status = Some(status);
            self
        }

        fn plan(&self) -> Plan {
            plan(&self.deployment, &self.sets, |_| self.live_pods, now())
        }

        fn check(&self, expected: &str) {
            assert_eq!(shown(&self.plan()), expected);
        }
    }

    fn shown(plan: &Plan) -> String {
        let mut words = Vec::new();
        for step in &plan.steps {
            words.push(match step {
                Step::Create(rs) => format!("create {}", super::super::rollout::replicas(rs)),
                Step::Update { rs, scaled: Some((from, to)) } => format!("{} {from}->{to}", owners::name(&**rs)),
                Step::Update { rs, scaled: None } => format!("update {}", owners::name(&**rs)),
                Step::Delete(rs) => format!("delete {}", owners::name(&**rs)),
            });
        }
        words.join(", ")
    }

    fn progressing(plan: &Plan) -> String {
        let conditions = plan.status.conditions.as_deref().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition.type_ == "Progressing");
        found.map_or_else(String::new, |found| {
            format!(
                "{} {}: {}",
                found.status,
                found.reason.as_deref().unwrap_or(""),
                found.message.as_deref().unwrap_or("")
            )
        })
    }

    #[test]
    fn a_first_rollout_creates_the_whole_set() {
        let case = case(3, 1, 0);
        case.check("create 3");
        assert_eq!(case.plan().revision.as_deref(), Some("1"));
        assert!(progressing(&case.plan()).starts_with("True NewReplicaSetCreated: Created new replica set \"web-"));
    }

    #[test]
    fn a_rolling_update_never_leaves_its_bounds() {
        case(4, 1, 1).set("v1", 4, 4, 4).check("create 1, web-v1 4->3");
        case(4, 1, 1).set("v1", 3, 3, 3).set("v2", 1, 1, 0).check("web-v2 1->2");
        case(4, 1, 1).set("v1", 3, 3, 3).set("v2", 2, 2, 0).check("");
        case(4, 1, 1).set("v1", 3, 3, 3).set("v2", 2, 2, 2).check("web-v1 3->1");
        case(4, 1, 1).set("v1", 1, 1, 1).set("v2", 4, 4, 4).check("web-v1 1->0");
        case(3, 1, 0).set("v1", 3, 3, 3).check("create 1");
        case(3, 0, 1).set("v1", 3, 3, 3).check("create 0, web-v1 3->2");
    }

    #[test]
    fn old_pods_that_do_not_serve_go_first() {
        case(4, 1, 1).set("v1", 4, 4, 1).set("v2", 1, 1, 0).check("web-v1 4->3");
        case(4, 1, 1).set("v1", 4, 4, 0).set("v2", 1, 1, 1).check("web-v1 4->2");
    }

    #[test]
    fn a_rollback_reuses_the_old_set_under_a_new_revision() {
        let case = case(2, 1, 0).set("v2", 0, 0, 0).set("v1", 2, 2, 2);
        case.check("web-v2 0->1");
        assert_eq!(case.plan().revision.as_deref(), Some("3"));
    }

    #[test]
    fn recreate_stops_all_old_pods_before_it_starts_new_ones() {
        case(3, 0, 0).recreate().set("v1", 3, 3, 3).check("web-v1 3->0");
        case(3, 0, 0).recreate().set("v1", 0, 2, 0).check("");
        case(3, 0, 0).recreate().set("v1", 0, 0, 0).live_pods().check("");
        case(3, 0, 0).recreate().set("v1", 0, 0, 0).check("create 3");
    }

    #[test]
    fn a_paused_deployment_scales_but_does_not_roll() {
        case(2, 1, 0).paused().set("v1", 2, 2, 2).check("");
        case(5, 1, 0).paused().set_for(2, "v1", 2, 2, 2).check("web-v1 2->5");
        let plan = case(2, 1, 0).paused().set("v1", 2, 2, 2).plan();
        assert_eq!(progressing(&plan), "Unknown DeploymentPaused: Deployment is paused");
    }

    #[test]
    fn scaling_in_the_middle_of_a_rollout_is_in_proportion() {
        // Upstream's example: 10 replicas, surge 3, sizes 8 and 5, scaled to 15.
        case(15, 3, 2).set_for(10, "v1", 8, 8, 8).set_for(10, "v2", 5, 5, 0).check("web-v1 8->11, web-v2 5->7");
        case(0, 3, 2).set_for(10, "v1", 8, 8, 8).set_for(10, "v2", 5, 5, 0).check("web-v1 8->0, web-v2 5->0");
    }

    #[test]
    fn a_complete_rollout_says_so_and_trims_its_history() {
        let case = case(2, 1, 0).set("v0", 0, 0, 0).set("v1", 0, 0, 0).set("v2", 2, 2, 2);
        case.check("delete web-v0");
        let plan = case.plan();
        assert_eq!(
            progressing(&plan),
            "True NewReplicaSetAvailable: ReplicaSet \"web-v2\" has successfully progressed."
        );
        assert_eq!((plan.status.available_replicas, plan.status.unavailable_replicas), (Some(2), None));
        assert_eq!(plan.requeue, None);
    }

    #[test]
    fn a_rollout_that_stands_still_runs_out_of_time() {
        let stuck = |age_s: i64| {
            let started = case(2, 1, 0).set("v2", 2, 2, 0).plan().status;
            let mut status = started;
            for condition in status.conditions.iter_mut().flatten() {
                condition.last_update_time = Some(Time(Timestamp::from_second(NOW_S - age_s).expect("in range")));
            }
            case(2, 1, 0).set("v2", 2, 2, 0).status(status).plan()
        };
        assert_eq!(stuck(100).requeue, Some(Duration::from_secs(501)));
        assert!(progressing(&stuck(100)).starts_with("True"));
        let plan = stuck(601);
        assert_eq!(
            progressing(&plan),
            "False ProgressDeadlineExceeded: ReplicaSet \"web-v2\" has timed out progressing."
        );
        assert_eq!(plan.requeue, None);
    }

    #[test]
    fn availability_is_told_in_upstreams_words() {
        let available = |plan: &Plan| {
            let conditions = plan.status.conditions.clone().unwrap_or_default();
            let found = conditions.into_iter().find(|condition| condition.type_ == "Available");
            found.and_then(|condition| condition.reason).unwrap_or_default()
        };
        assert_eq!(available(&case(2, 1, 0).set("v2", 2, 2, 2).plan()), "MinimumReplicasAvailable");
        assert_eq!(available(&case(2, 1, 0).set("v2", 2, 2, 1).plan()), "MinimumReplicasUnavailable");
    }
}
