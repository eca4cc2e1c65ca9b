//! Scales what autoscalers point at, by what its pods use.
//!
//! Level-triggered, but for time: metrics cannot be watched, so each autoscaler is looked at every [`PERIOD`], as upstream does. What
//! was recommended and done before is remembered in memory alone; after a restart a target shrinks no earlier than its window says.
//!
//! - [`wish`]: what all metrics together ask for; [`metric`]: what one does; [`measure`]: the same in numbers, purely.
//! - [`target`], [`custom`]: what is read of scales and metrics. [`limits`]: what may be done of it.
//!
//! Source: `k8s.io/kubernetes/pkg/controller/podautoscaler`.

mod custom;
mod limits;
mod measure;
mod metric;
mod target;
mod wish;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use wharf_client::{
    Action, Clock, Error, FENCE_LIMIT, Fences, Informers, Lister, ObjectKey, Reconcile, Recorder, Trigger,
};
use wharf_types::k8s::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::meta::Time;

use self::limits::Memory;
use self::target::Targets;
use self::wish::{Asking, Failure, Told, wish};
use crate::call::{During as _, gone_is_fine, message};

/// Upstream's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

pub struct Autoscalers {
    client: Client,
    autoscalers: Lister<HorizontalPodAutoscaler>,
    pods: Lister<Pod>,
    targets: Targets,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
    /// Own status writes: a step on an older version would lose the race.
    written: Fences<HorizontalPodAutoscaler>,
    recorder: Recorder,
    clock: Clock,
}

impl Autoscalers {
    pub fn new(informers: &Informers, recorder: Recorder, clock: Clock) -> Self {
        let autoscalers = informers.of::<HorizontalPodAutoscaler>();
        Self {
            client: informers.client().clone(),
            written: Fences::new(autoscalers.clone()),
            autoscalers,
            pods: informers.of(),
            targets: Targets::new(informers.client().clone()),
            memories: Mutex::default(),
            recorder,
            clock,
        }
    }

    /// Looks, decides, scales, and says so in `status`.
    async fn step(
        &self,
        scaler: &HorizontalPodAutoscaler,
        key: &ObjectKey,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let spec = &scaler.spec;
        let tell = |status: &mut HorizontalPodAutoscalerStatus, kind: &str, holds: bool, reason: &str, text: &str| {
            set(status, kind, holds, reason, text, now);
        };
        let scale = match self.targets.scale(&key.namespace, &spec.scale_target_ref).await {
            Ok(scale) => scale,
            Err(why) => {
                self.recorder.warning(scaler, "FailedGetScale", why.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                tell(status, ABLE, false, "FailedGetScale", &text);
                return Ok(());
            }
        };
        tell(status, ABLE, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        status.current_replicas = Some(scale.current);
        let (current, least) = (scale.replicas, spec.min_replicas.unwrap_or(1));
        let (wanted, why) = if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            tell(status, ACTIVE, false, "ScalingDisabled", text);
            (0, String::new())
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let asking = Asking { client: &self.client, targets: &self.targets, pods: &self.pods, now };
            let Told { outcome, notes, statuses } = wish(&asking, scaler, &scale).await;
            notes.iter().for_each(|note| note.tell(&self.recorder, scaler));
            status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
            let wish = match outcome {
                Ok(wish) => wish,
                Err(Failure { reason, text, all }) => {
                    self.recorder.warning(scaler, "FailedComputeMetricsReplicas", all);
                    tell(status, ACTIVE, false, reason, &text);
                    status.desired_replicas = current;
                    return Ok(());
                }
            };
            let found = format!("the HPA was able to successfully calculate a replica count from {}", wish.by);
            tell(status, ACTIVE, true, "ValidMetricFound", &found);
            let why = match wish.replicas > current {
                true => format!("{} above target", wish.by),
                false => "All metrics below target".to_owned(),
            };
            let decision = {
                let mut memories = self.memories.lock();
                memories.entry(key.clone()).or_default().decide(spec, current, wish.replicas, now)
            };
            tell(status, ABLE, true, decision.able.0, &decision.able.1);
            let (limited, reason, text) = decision.limited;
            tell(status, LIMITED, limited, reason, &text);
            (decision.replicas, why)
        };
        status.desired_replicas = wanted;
        if wanted == current {
            return Ok(());
        }
        if let Err(error) = self.targets.set(&scale, wanted).await {
            let text = format!("New size: {wanted}; reason: {why}; error: {}", message(&error));
            self.recorder.warning(scaler, "FailedRescale", text);
            let text = format!("the HPA controller was unable to update the target scale: {}", message(&error));
            tell(status, ABLE, false, "FailedUpdateScale", &text);
            status.desired_replicas = current;
            return Ok(());
        }
        let text = format!("the HPA controller was able to update the target scale to {wanted}");
        tell(status, ABLE, true, "SucceededRescale", &text);
        self.recorder.normal(scaler, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
        self.memories.lock().entry(key.clone()).or_default().changed(now, current, wanted);
        status.last_scale_time = Some(Time(now));
        Ok(())
    }
}

/// Sets a condition; its time changes with its status alone.
fn set(status: &mut HorizontalPodAutoscalerStatus, kind: &str, holds: bool, reason: &str, text: &str, now: Timestamp) {
    let holds = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let place = conditions.iter().position(|condition| condition.type_ == kind);
    let old = place.map(|place| &conditions[place]).filter(|old| old.status == holds);
    let since = old.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
    let new = HorizontalPodAutoscalerCondition {
        type_: kind.to_owned(),
        status: holds.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(text.to_owned()),
        last_transition_time: Some(since),
    };
    match place {
        Some(place) => conditions[place] = new,
        None => conditions.push(new),
    }
}

#[async_trait]
impl Reconcile for Autoscalers {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.autoscalers), Trigger::reads(&self.pods)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let current = self.written.open(key);
        let Some(scaler) = self.autoscalers.get(key) else {
            self.written.forget(key);
            self.memories.lock().remove(key);
            return Ok(Action::done());
        };
        if !current {
            return Ok(Action::requeue_after(FENCE_LIMIT));
        }
        let mut status = scaler.status.clone().unwrap_or_default();
        if status.last_scale_time.is_none() && status.conditions.is_none() {
            // Nothing was ever looked at.
            status.desired_replicas = 0;
        }
        status.observed_generation = scaler.metadata.generation;
        self.step(&scaler, key, &mut status).await?;
        if scaler.status.as_ref() != Some(&status) {
            let api = Api::<HorizontalPodAutoscaler>::namespaced(self.client.clone(), &key.namespace);
            let updated = HorizontalPodAutoscaler { status: Some(status), ..(*scaler).clone() };
            let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
            if let Some(written) = gone_is_fine(written).during("write the status of autoscaler", key)? {
                self.written.wrote(key, &written);
            }
        }
        Ok(Action::requeue_after(PERIOD))
    }
}
