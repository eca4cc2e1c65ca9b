//! What one metric of an autoscaler asks for, and what its status says.

use wharf_machinery::quantity::Quantity;
use wharf_types::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus,
    ResourceMetricStatus,
};
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity as Shown;

use super::custom;
use super::measure::{self, Asked, Target};
use super::target::{self, Scale};
use super::wish::Asking;

/// What one metric asks for.
pub struct Proposal {
    pub replicas: i32,
    pub by: String,
    pub status: MetricStatus,
}

/// Why a metric asks for nothing.
pub struct Unknown {
    pub reason: &'static str,
    pub why: String,
    /// What was not to be had, before the words above.
    pub what: String,
}

/// The target of all metrics, and its pods.
pub struct Question<'a> {
    pub asking: &'a Asking<'a>,
    pub namespace: &'a str,
    pub scale: &'a Scale,
    pub pods: Vec<&'a Pod>,
    pub tolerance: (f64, f64),
}

impl Question<'_> {
    pub async fn ask(&self, metric: &MetricSpec) -> Result<Proposal, Unknown> {
        let unknown = |reason: &'static str, what: String| move |why: String| Unknown { reason, why, what };
        if let Some(source) = &metric.resource {
            let unknown = unknown("FailedGetResourceMetric", format!("{} resource", source.name));
            return self.of_resource(metric, &source.name, None, &source.target).await.map_err(unknown);
        }
        if let Some(source) = &metric.container_resource {
            let unknown = unknown("FailedGetContainerResourceMetric", format!("{} container", source.name));
            let container = Some(source.container.as_str());
            return self.of_resource(metric, &source.name, container, &source.target).await.map_err(unknown);
        }
        if let Some(source) = &metric.pods {
            return self.of_pods(source).await.map_err(unknown("FailedGetPodsMetric", "pods".to_owned()));
        }
        if let Some(source) = &metric.object {
            return self.of_object(source).await.map_err(unknown("FailedGetObjectMetric", "object".to_owned()));
        }
        if let Some(source) = &metric.external {
            let unknown = unknown("FailedGetExternalMetric", format!("{} external", source.metric.name));
            return self.external(source).await.map_err(unknown);
        }
        let why = format!("unknown metric source type {:?}", metric.type_);
        Err(unknown("InvalidMetricSourceType", metric.type_.clone())(why))
    }

    fn asked<'a>(&self, resource: &'a str, container: Option<&'a str>, target: Target) -> Asked<'a> {
        let (current, now) = (self.scale.replicas, self.asking.now);
        Asked { resource, container, target, current, tolerance: self.tolerance, now }
    }

    /// What pods, or one container of each, use of a resource.
    async fn of_resource(
        &self,
        metric: &MetricSpec,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<Proposal, String> {
        let (wanted, what) = match (target.average_utilization, millis(target.average_value.as_ref())) {
            (_, Some(average)) => (Target::Average(average), "usage"),
            (Some(percent), None) => (Target::Utilization(percent), "utilization"),
            (None, None) => {
                let text = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
                return Err(text.to_owned());
            }
        };
        let asked = self.asked(resource, container, wanted);
        let (client, selector) = (self.asking.client, &self.scale.selector);
        let samples = target::samples(client, self.namespace, selector, resource, container).await;
        let measured = samples.and_then(|samples| measure::replicas(&asked, &self.pods, &samples));
        let measured = measured.map_err(|why| format!("failed to get {resource} {what}: {why}"))?;
        let current = MetricValueStatus {
            average_utilization: measured.utilization,
            average_value: Some(shown(measured.average)),
            value: None,
        };
        let name = resource.to_owned();
        let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
        match container.map(ToOwned::to_owned) {
            None => status.resource = Some(ResourceMetricStatus { name, current }),
            Some(container) => {
                status.container_resource = Some(ContainerResourceMetricStatus { name, container, current });
            }
        }
        Ok(Proposal { replicas: measured.replicas, by: named(&asked, what), status })
    }

    /// What pods have of a metric of their own.
    async fn of_pods(&self, source: &PodsMetricSource) -> Result<Proposal, String> {
        let average = millis(source.target.average_value.as_ref()).unwrap_or_default();
        let samples = custom::of_pods(self.asking.client, self.namespace, &self.scale.selector, &source.metric).await?;
        // No resource: whatever it is, it counts from the start.
        let measured = measure::replicas(&self.asked("", None, Target::Average(average)), &self.pods, &samples)?;
        let current =
            MetricValueStatus { average_value: Some(shown(measured.average)), ..MetricValueStatus::default() };
        let pods = PodsMetricStatus { metric: source.metric.clone(), current };
        let status = MetricStatus { type_: "Pods".to_owned(), pods: Some(pods), ..MetricStatus::default() };
        Ok(Proposal { replicas: measured.replicas, by: format!("pods metric {}", source.metric.name), status })
    }

    /// What an object has of a metric.
    async fn of_object(&self, source: &ObjectMetricSource) -> Result<Proposal, String> {
        let Asking { client, targets, .. } = self.asking;
        let (object, metric) = (&source.described_object, &source.metric);
        let read = custom::of_object(client, targets, self.namespace, object, metric);
        let invalid = "invalid object metric source: neither a value target nor an average value target was set";
        let (replicas, current) = match source.target.type_.as_str() {
            "Value" => self.for_value(read.await?, &source.target, invalid)?,
            "AverageValue" => self.for_share(
                read.await.map_err(|why| format!("failed to get {} object metric: {why}", metric.name))?,
                &source.target,
                invalid,
            )?,
            _ => return Err(invalid.to_owned()),
        };
        let by = match current.value {
            Some(_) => format!("{} metric {}", object.kind, metric.name),
            None => format!("external metric {}({})", metric.name, custom::shown(metric)),
        };
        let object = ObjectMetricStatus { current, described_object: object.clone(), metric: metric.clone() };
        let status = MetricStatus { type_: "Object".to_owned(), object: Some(object), ..MetricStatus::default() };
        Ok(Proposal { replicas, by, status })
    }

    /// What there is of a metric of something outside the cluster.
    async fn external(&self, source: &ExternalMetricSource) -> Result<Proposal, String> {
        let metric = &source.metric;
        let read = custom::external(self.asking.client, self.namespace, metric);
        let invalid = "invalid external metric source: neither a value target nor an average value target was set";
        let (replicas, current) = if source.target.average_value.is_some() {
            let value = read.await.map_err(|why| format!("failed to get {} external metric: {why}", metric.name))?;
            self.for_share(value, &source.target, invalid)?
        } else if source.target.value.is_some() {
            let value = read.await.map_err(|why| format!("failed to get external metric {}: {why}", metric.name))?;
            self.for_value(value, &source.target, invalid)?
        } else {
            return Err(invalid.to_owned());
        };
        let by = format!("external metric {}({})", metric.name, custom::shown(metric));
        let external = ExternalMetricStatus { current, metric: metric.clone() };
        let status = MetricStatus { type_: "External".to_owned(), external: Some(external), ..MetricStatus::default() };
        Ok(Proposal { replicas, by, status })
    }

    /// So much is wanted in all.
    fn for_value(&self, value: i64, target: &MetricTarget, invalid: &str) -> Result<(i32, MetricValueStatus), String> {
        let wanted = millis(target.value.as_ref()).ok_or(invalid)?;
        let replicas = measure::replicas_for_value(value, wanted, self.scale.replicas, self.tolerance, &self.pods)?;
        Ok((replicas, MetricValueStatus { value: Some(shown(value)), ..MetricValueStatus::default() }))
    }

    /// So much is wanted for each pod.
    fn for_share(&self, value: i64, target: &MetricTarget, invalid: &str) -> Result<(i32, MetricValueStatus), String> {
        let wanted = millis(target.average_value.as_ref()).ok_or(invalid)?;
        let (replicas, share) = measure::replicas_for_share(value, wanted, self.scale.current, self.tolerance);
        Ok((replicas, MetricValueStatus { average_value: Some(shown(share)), ..MetricValueStatus::default() }))
    }
}

fn millis(quantity: Option<&Shown>) -> Option<i64> {
    quantity?.0.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

fn shown(millis: i64) -> Shown {
    Shown(Quantity::from_millis(millis).to_string())
}

/// As events and conditions name a metric of a resource.
fn named(asked: &Asked<'_>, what: &str) -> String {
    match (asked.container, asked.target) {
        (None, Target::Utilization(_)) => format!("{} resource {what} (percentage of request)", asked.resource),
        (None, Target::Average(_)) => format!("{} resource", asked.resource),
        (Some(container), _) => format!("{} container resource of container {container}", asked.resource),
    }
}
