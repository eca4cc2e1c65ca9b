//! Prefers nodes whose cpu and memory fill up evenly (upstream's `NodeResourcesBalancedAllocation`).

use crate::cluster::NodeInfo;
use crate::framework::{MAX_SCORE, Score};
use crate::pod::PodInfo;

pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    /// With two resources the standard deviation of the fractions is half their distance.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a score of 0 to 100")]
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let fraction = |asked: i64, taken: i64, has: i64| {
            if has <= 0 { 1.0 } else { ((asked.saturating_add(taken)) as f64 / has as f64).min(1.0) }
        };
        let cpu = fraction(pod.requests.milli_cpu, node.requested.milli_cpu, node.allocatable.milli_cpu);
        let memory = fraction(pod.requests.memory_bytes, node.requested.memory_bytes, node.allocatable.memory_bytes);
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}
