//! Scales what autoscalers point at, by what its pods use.
//!
//! Level-triggered, but for time: metrics cannot be watched, so each autoscaler is looked at every [`PERIOD`], as upstream does. What
//! was recommended and done before is remembered in memory alone; after a restart a target shrinks no earlier than its window says.
//! Source: `k8s.io/kubernetes/pkg/controller/podautoscaler`. Absent on purpose: `Pods`, `Object` and `External` metrics, whose APIs
//! (`custom.metrics.k8s.io`, `external.metrics.k8s.io`) nobody serves here; they count as metrics that cannot be had.

mod limits;
mod measure;
mod target;

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
use wharf_machinery::selector::LabelSelector;
use wharf_types::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;
use wharf_types::meta::Time;

use self::limits::Memory;
use self::measure::{Asked, Measured, Target};
use self::target::{Scale, Targets};
use crate::call::{During as _, gone_is_fine, message};

/// Upstream's `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);
/// Upstream's `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

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

/// What metrics together ask for.
struct Wish {
    replicas: i32,
    /// The metric that asks for most, as events name it.
    by: String,
    statuses: Vec<MetricStatus>,
}

/// Why there is no wish: a reason, and words.
type NoWish = (&'static str, String);

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
            let wish = match self.wish(key, spec.metrics.as_deref().unwrap_or_default(), scaler, &scale, now).await {
                Ok(wish) => wish,
                Err((reason, text)) => {
                    self.recorder.warning(scaler, reason, text.clone());
                    let told = format!("the HPA was unable to compute the replica count: {text}");
                    tell(status, ACTIVE, false, reason, &told);
                    status.desired_replicas = current;
                    return Ok(());
                }
            };
            let found = format!("the HPA was able to successfully calculate a replica count from {}", wish.by);
            tell(status, ACTIVE, true, "ValidMetricFound", &found);
            status.current_metrics = Some(wish.statuses);
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

    /// The most that any metric asks for. A metric that cannot be had stops shrinking, and everything where there is no other.
    async fn wish(
        &self,
        key: &ObjectKey,
        metrics: &[MetricSpec],
        scaler: &HorizontalPodAutoscaler,
        scale: &Scale,
        now: Timestamp,
    ) -> Result<Wish, NoWish> {
        let selector = LabelSelector::parse(&scale.selector).ok().filter(|_| !scale.selector.is_empty());
        let selector =
            selector.ok_or(("InvalidSelector", "the HPA target's scale is missing a selector".to_owned()))?;
        let mut pods = self.pods.list_in(&key.namespace);
        let none = std::collections::BTreeMap::new();
        pods.retain(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)));
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let behavior = scaler.spec.behavior.as_ref();
        let tolerance = |rules: Option<&wharf_types::k8s::api::autoscaling::v2::HPAScalingRules>| {
            let text = rules.and_then(|rules| rules.tolerance.as_ref());
            let quantity = text.and_then(|text| text.0.parse::<wharf_machinery::quantity::Quantity>().ok());
            quantity.map_or(TOLERANCE, |quantity| quantity.as_f64())
        };
        let tolerance = (
            tolerance(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
            tolerance(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        );
        let (mut best, mut statuses, mut failed): (Option<(i32, String)>, Vec<MetricStatus>, Option<NoWish>) =
            (None, Vec::new(), None);
        for metric in metrics {
            let measured = match asked(metric, scale.replicas, tolerance, now) {
                Ok(asked) => {
                    let samples =
                        target::samples(&self.client, &key.namespace, &scale.selector, asked.resource, asked.container);
                    let samples = samples.await;
                    let measured = samples.and_then(|samples| measure::replicas(&asked, &pods, &samples));
                    let reason = if asked.container.is_some() {
                        "FailedGetContainerResourceMetric"
                    } else {
                        "FailedGetResourceMetric"
                    };
                    let what = match asked.target {
                        Target::Utilization(_) => "utilization",
                        Target::Average(_) => "value",
                    };
                    measured
                        .map(|measured| (measured, named(&asked, what), status_of(metric, &measured)))
                        .map_err(|why| (reason, format!("failed to get {} {what}: {why}", asked.resource)))
                }
                Err(failed) => Err(failed),
            };
            match measured {
                Ok((measured, name, status)) => {
                    statuses.push(status);
                    if best.as_ref().is_none_or(|(most, _)| measured.replicas > *most) {
                        best = Some((measured.replicas, name));
                    }
                }
                Err(why) => {
                    failed.get_or_insert(why);
                }
            }
        }
        match (best, failed) {
            (Some((replicas, _)), Some((reason, text))) if replicas < scale.replicas => {
                Err((reason, format!("invalid metrics (1 invalid out of {}), first error is: {text}", metrics.len())))
            }
            (Some((replicas, by)), _) => Ok(Wish { replicas, by, statuses }),
            (None, Some((reason, text))) => {
                let count = metrics.len();
                Err((reason, format!("invalid metrics ({count} invalid out of {count}), first error is: {text}")))
            }
            (None, None) => Err(("InvalidMetricSourceType", "there are no metrics to scale by".to_owned())),
        }
    }
}

/// What a metric asks of pods.
fn asked<'a>(metric: &'a MetricSpec, current: i32, tolerance: (f64, f64), now: Timestamp) -> Result<Asked<'a>, NoWish> {
    let asked = |resource: &'a str, container: Option<&'a str>, target: &MetricTarget| {
        let average = || target.average_value.as_ref()?.0.parse::<wharf_machinery::quantity::Quantity>().ok();
        let target = match (target.average_utilization, average()) {
            (Some(percent), _) => Target::Utilization(percent),
            (None, Some(quantity)) => Target::Average(quantity.milli_value()),
            (None, None) => {
                let text = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
                return Err(("FailedGetResourceMetric", text.to_owned()));
            }
        };
        Ok(Asked { resource, container, target, current, tolerance, now })
    };
    match (&metric.resource, &metric.container_resource) {
        (Some(source), _) => asked(&source.name, None, &source.target),
        (_, Some(source)) => asked(&source.name, Some(&source.container), &source.target),
        _ => {
            let reason = match metric.type_.as_str() {
                "Pods" => "FailedGetPodsMetric",
                "Object" => "FailedGetObjectMetric",
                "External" => "FailedGetExternalMetric",
                _ => return Err(("InvalidMetricSourceType", format!("unknown metric source type {:?}", metric.type_))),
            };
            Err((reason, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered".to_owned()))
        }
    }
}

/// As events and conditions name a metric.
fn named(asked: &Asked<'_>, what: &str) -> String {
    match (asked.container, asked.target) {
        (None, Target::Utilization(_)) => format!("{} resource {what} (percentage of request)", asked.resource),
        (None, Target::Average(_)) => format!("{} resource", asked.resource),
        (Some(container), _) => format!("{} container resource of container {container}", asked.resource),
    }
}

fn status_of(metric: &MetricSpec, measured: &Measured) -> MetricStatus {
    let current = MetricValueStatus {
        average_utilization: measured.utilization,
        average_value: Some(Quantity(wharf_machinery::quantity::Quantity::from_millis(measured.average).to_string())),
        value: None,
    };
    let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
    if let Some(source) = &metric.resource {
        status.resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
    } else if let Some(source) = &metric.container_resource {
        status.container_resource = Some(ContainerResourceMetricStatus {
            name: source.name.clone(),
            container: source.container.clone(),
            current,
        });
    }
    status
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
