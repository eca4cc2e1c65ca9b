//! Keeps the status of each PodDisruptionBudget: how many pods there should be, are, and may be taken away.
//!
//! Level-triggered. Invariants: a budget that cannot be counted allows nothing; what `pods/eviction` has spent is given back only
//! when the pod is gone, or has stayed for too long. Source: `k8s.io/kubernetes/pkg/controller/disruption`.
//! Absent on purpose: taking back the condition `DisruptionTarget` of a pod that was never deleted.

mod plan;
mod scale;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client};
use wharf_client::{
    Action, Changed, Clock, Error, FENCE_LIMIT, Fences, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger,
};
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::k8s::api::policy::v1::PodDisruptionBudget;

use self::plan::{Plan, plan};
use self::scale::Scales;
use crate::call::{During as _, gone_is_fine};

pub struct Budgets {
    client: Client,
    budgets: Lister<PodDisruptionBudget>,
    pods: Lister<Pod>,
    scales: Scales,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<PodDisruptionBudget>,
    recorder: Recorder,
    clock: Clock,
}

impl Budgets {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let budgets = informers.of::<PodDisruptionBudget>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(budgets.clone()),
            budgets,
            pods: informers.of::<Pod>(),
            scales: Scales::new(informers),
            recorder,
            clock,
        }
    }

    /// The pods that the budget is about.
    fn covered(&self, budget: &PodDisruptionBudget) -> Vec<Arc<Pod>> {
        let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
        let mut pods = self.pods.list_in(namespace);
        pods.retain(|pod| covers(budget, pod));
        pods
    }

    fn tell(&self, budget: &PodDisruptionBudget, plan: &Plan) {
        if plan.no_pods {
            self.recorder.normal(budget, "NoPods", "No matching pods found");
        }
        if let Some(why) = &plan.failed {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            self.recorder.warning(budget, "CalculateExpectedPodCountFailed", message);
        }
    }
}

#[async_trait]
impl Reconcile for Budgets {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let budgets = self.budgets.clone();
        let covering = move |changed: &Changed<Pod>| covering(&budgets, changed);
        let mut triggers = vec![Trigger::primary(&self.budgets), Trigger::mapped(&self.pods, covering)];
        triggers.extend(self.scales.triggers());
        triggers
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(budget) = self.budgets.get(key) else {
            self.written.forget(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let covered = self.covered(&budget);
        let scale = |pod: &Pod| self.scales.of(pod);
        let plan = plan(&budget, &covered, &scale, self.clock.now());
        if budget.status.as_ref() != Some(&plan.status) {
            self.tell(&budget, &plan);
            let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), &key.namespace);
            let updated = PodDisruptionBudget { status: Some(plan.status), ..(*budget).clone() };
            let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
            if let Some(written) = gone_is_fine(written).during("write the status of disruption budget", key)? {
                self.written.wrote(key, &written);
            }
        }
        Ok(plan.again.map_or(Action::done(), Action::requeue_after))
    }
}

/// Budgets that cover the pod as it is or as it was.
fn covering(budgets: &Lister<PodDisruptionBudget>, changed: &Changed<Pod>) -> Vec<ObjectKey> {
    let all = budgets.list_in(&changed.key.namespace).into_iter();
    let concerned = all.filter(|budget| {
        let mut states = [&changed.old, &changed.new].into_iter().flatten();
        states.any(|pod| covers(budget, pod))
    });
    concerned.map(|budget| ObjectKey::of(&*budget)).collect()
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let none = BTreeMap::new();
    LabelSelector::from_meta(selector).matches(pod.metadata.labels.as_ref().unwrap_or(&none))
}
