//! `autoscaling/v1` over the autoscalers of `autoscaling/v2`: the CPU's share is a field, and all else an annotation.
//!
//! Source: `pkg/apis/autoscaling/v1/conversion.go`. Rules are those of v2: an object goes there, is judged or changed, and comes
//! back. Invariant: what goes there and back is the same, as far as v1 can say it.

mod convert;
mod metric;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::autoscaling::{v1, v2};

pub use self::convert::{to_v1, to_v2};
use super::HorizontalPodAutoscalers;
use crate::strategy::{Column, Strategy};

#[derive(Debug)]
pub struct HorizontalPodAutoscalersV1;

impl Strategy for HorizontalPodAutoscalersV1 {
    type Object = v1::HorizontalPodAutoscaler;

    fn default(&self, scaler: &mut v1::HorizontalPodAutoscaler) {
        let mut newer = up(scaler);
        HorizontalPodAutoscalers.default(&mut newer);
        *scaler = down(&newer);
    }

    fn prepare_for_create(&self, scaler: &mut v1::HorizontalPodAutoscaler) {
        let mut newer = up(scaler);
        HorizontalPodAutoscalers.prepare_for_create(&mut newer);
        *scaler = down(&newer);
    }

    fn prepare_for_update(&self, scaler: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) {
        let mut newer = up(scaler);
        HorizontalPodAutoscalers.prepare_for_update(&mut newer, &up(old));
        *scaler = down(&newer);
    }

    fn prepare_for_status_update(&self, scaler: &mut v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) {
        let mut newer = up(scaler);
        HorizontalPodAutoscalers.prepare_for_status_update(&mut newer, &up(old));
        *scaler = down(&newer);
    }

    fn validate(&self, scaler: &v1::HorizontalPodAutoscaler) -> Errors {
        HorizontalPodAutoscalers.validate(&up(scaler))
    }

    fn validate_new(&self, scaler: &v1::HorizontalPodAutoscaler) -> Errors {
        HorizontalPodAutoscalers.validate_new(&up(scaler))
    }

    fn validate_update(&self, new: &v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) -> Errors {
        HorizontalPodAutoscalers.validate_update(&up(new), &up(old))
    }

    fn validate_status_update(&self, new: &v1::HorizontalPodAutoscaler, old: &v1::HorizontalPodAutoscaler) -> Errors {
        HorizontalPodAutoscalers.validate_status_update(&up(new), &up(old))
    }

    fn columns(&self) -> &'static [Column] {
        HorizontalPodAutoscalers.columns()
    }

    fn cells(&self, scaler: &v1::HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        HorizontalPodAutoscalers.cells(&up(scaler), now)
    }
}

fn up(scaler: &v1::HorizontalPodAutoscaler) -> v2::HorizontalPodAutoscaler {
    converted(scaler, to_v2, "autoscaling/v2")
}

fn down(scaler: &v2::HorizontalPodAutoscaler) -> v1::HorizontalPodAutoscaler {
    converted(scaler, to_v1, "autoscaling/v1")
}

/// An annotation that does not hold what it should is lost, so what comes out always has the shape.
fn converted<A: Serialize, B: DeserializeOwned>(object: &A, edit: fn(&mut Value), version: &str) -> B {
    let mut value = serde_json::to_value(object).expect("Kubernetes structs serialise to JSON");
    edit(&mut value);
    value["apiVersion"] = version.into();
    serde_json::from_value(value).expect("a conversion keeps the shape")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, object};

    fn web(extra: &str) -> String {
        format!(
            "{{metadata: {{name: web}}, spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}, maxReplicas: 5{extra}}}}}"
        )
    }

    #[test]
    fn the_share_of_the_cpu_is_a_field() {
        let bare = object(&HorizontalPodAutoscalersV1, &web(""));
        assert_eq!(bare.spec.target_cpu_utilization_percentage, Some(80));
        assert_eq!(bare.metadata.annotations, None);
        let given = object(&HorizontalPodAutoscalersV1, &web(", targetCPUUtilizationPercentage: 50"));
        assert_eq!(up(&given).spec.metrics.unwrap().len(), 1);
        assert_eq!(given.spec.target_cpu_utilization_percentage, Some(50));
        check(
            &HorizontalPodAutoscalersV1,
            &web(", targetCPUUtilizationPercentage: 0"),
            &["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"],
        );
        check_cells(
            &HorizontalPodAutoscalersV1,
            &web(""),
            "web | Deployment/web | cpu: <unknown>/80% | 1 | 5 | 0 | <unknown>",
        );
    }
}
