//! Pods with `spec.schedulingGates` wait until the last gate is gone (KEP-3521).

use crate::framework::PreEnqueue;
use crate::pod::PodInfo;

pub struct SchedulingGates;

impl PreEnqueue for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn hold(&self, pod: &PodInfo) -> Option<String> {
        let gates = pod.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
        if gates.is_empty() {
            return None;
        }
        let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
        Some(format!("waiting for scheduling gates: {names:?}"))
    }
}
