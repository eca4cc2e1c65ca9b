//! From what metrics ask for to what is done: limits, stability, and how fast a target may change.
//!
//! Pure but for what is remembered of each autoscaler: what was recommended and what was done. Source: `normalizeDesiredReplicas` and
//! `normalizeDesiredReplicasWithBehaviors` in `k8s.io/kubernetes/pkg/controller/podautoscaler/horizontal.go`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_types::k8s::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};

/// How long a lower number must have been recommended before it is followed. Upstream's
/// `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWN_WINDOW_S: i32 = 300;
/// Without rules a target at most doubles, or grows to this.
const UP_AT_LEAST: i32 = 4;
const UP_FACTOR: i32 = 2;
/// Longest window of a rule, which is how long things are remembered.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);
/// Recommendations and changes that are remembered of one autoscaler.
const REMEMBERED_MAX: usize = 1024;

/// What was recommended, and by how much the target was changed.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    recommended: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
}

/// What is to be done, and which conditions say why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, String),
    /// `ScalingLimited`: whether, reason and message.
    pub limited: (bool, &'static str, String),
}

impl Memory {
    /// The target was changed from the one to the other.
    pub fn changed(&mut self, now: Timestamp, from: i32, to: i32) {
        remember(&mut self.changes, now, to - from);
    }

    /// By how much it grew and shrank in the last seconds.
    fn changes(&self, now: Timestamp, seconds: i32) -> (i32, i32) {
        let since = now - Duration::from_secs(seconds.max(0).unsigned_abs().into());
        let recent = self.changes.iter().filter(|(at, _)| *at > since);
        recent.fold((0, 0), |(up, down), (_, by)| if *by > 0 { (up + by, down) } else { (up, down - by) })
    }

    fn recent(&self, now: Timestamp, seconds: i32) -> impl Iterator<Item = i32> {
        let since = now - Duration::from_secs(seconds.max(0).unsigned_abs().into());
        self.recommended.iter().filter(move |(at, _)| *at > since).map(|(_, replicas)| *replicas)
    }

    pub fn decide(
        &mut self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        wanted: i32,
        now: Timestamp,
    ) -> Decision {
        if self.recommended.is_empty() {
            remember(&mut self.recommended, now, current);
        }
        let (stable, able) = self.stable(spec, current, wanted, now);
        remember(&mut self.recommended, now, wanted);
        let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let (lower, upper) = match &spec.behavior {
            None => {
                let fastest = current.saturating_mul(UP_FACTOR).max(UP_AT_LEAST);
                ((least, false), (most.min(fastest), fastest < most))
            }
            Some(behavior) => {
                let fastest =
                    behavior.scale_up.as_ref().map_or(most, |rules| self.up(rules, current, now)).max(current);
                let slowest =
                    behavior.scale_down.as_ref().map_or(least, |rules| self.down(rules, current, now)).min(current);
                ((least.max(slowest), slowest > least), (most.min(fastest), fastest < most))
            }
        };
        let limited = |reason, message: &str| (true, reason, message.to_owned());
        let (replicas, limited) = match stable {
            wanted if wanted < lower.0 => match lower.1 && stable < current {
                true => (
                    lower.0,
                    limited(
                        "ScaleDownLimit",
                        "the desired replica count is decreasing faster than the maximum scale rate",
                    ),
                ),
                false => (
                    lower.0,
                    limited("TooFewReplicas", "the desired replica count is less than the minimum replica count"),
                ),
            },
            wanted if wanted > upper.0 => match upper.1 {
                true => (
                    upper.0,
                    limited(
                        "ScaleUpLimit",
                        "the desired replica count is increasing faster than the maximum scale rate",
                    ),
                ),
                false => (
                    upper.0,
                    limited("TooManyReplicas", "the desired replica count is more than the maximum replica count"),
                ),
            },
            wanted => {
                (wanted, (false, "DesiredWithinRange", "the desired count is within the acceptable range".to_owned()))
            }
        };
        Decision { replicas, able, limited }
    }

    /// What recent recommendations leave of this one.
    fn stable(
        &self,
        spec: &HorizontalPodAutoscalerSpec,
        current: i32,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, (&'static str, String)) {
        let rules = |of: Option<&HPAScalingRules>, otherwise: i32| {
            of.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(otherwise)
        };
        let behavior = spec.behavior.as_ref();
        let up = rules(behavior.and_then(|it| it.scale_up.as_ref()), 0);
        let down = rules(behavior.and_then(|it| it.scale_down.as_ref()), DOWN_WINDOW_S);
        let least_recent = self.recent(now, up).fold(wanted, i32::min);
        let most_recent = self.recent(now, down).fold(wanted, i32::max);
        // Up only as far as all have asked for, down only as far.
        let stable = current.max(least_recent).min(most_recent);
        if behavior.is_none() {
            return match most_recent > wanted {
                true => (
                    most_recent,
                    stabilized(
                        "ScaleDownStabilized",
                        "recent recommendations were higher than current one, applying the highest recent recommendation",
                    ),
                ),
                false => (wanted, ready()),
            };
        }
        match (stable, wanted) {
            (stable, wanted) if stable == wanted => (wanted, ready()),
            (_, wanted) if wanted >= current => (
                stable,
                stabilized(
                    "ScaleUpStabilized",
                    "recent recommendations were lower than current one, applying the lowest recent recommendation",
                ),
            ),
            _ => (
                stable,
                stabilized(
                    "ScaleDownStabilized",
                    "recent recommendations were higher than current one, applying the highest recent recommendation",
                ),
            ),
        }
    }

    /// The most that rules allow.
    fn up(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let proposals = rules.policies.iter().flatten().map(|policy| {
            let (added, removed) = self.changes(now, policy.period_seconds);
            let start = current - added + removed;
            match policy.type_.as_str() {
                "Pods" => start.saturating_add(policy.value),
                _ => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.min().unwrap_or(current),
            _ => proposals.max().unwrap_or(current),
        }
    }

    /// The least that rules allow.
    fn down(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let proposals = rules.policies.iter().flatten().map(|policy| {
            let (added, removed) = self.changes(now, policy.period_seconds);
            let start = current - added + removed;
            match policy.type_.as_str() {
                "Pods" => start.saturating_sub(policy.value),
                _ => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.max().unwrap_or(current),
            _ => proposals.min().unwrap_or(current),
        }
    }
}

fn ready() -> (&'static str, String) {
    ("ReadyForNewScale", "recommended size matches current size".to_owned())
}

fn stabilized(reason: &'static str, message: &str) -> (&'static str, String) {
    (reason, message.to_owned())
}

fn remember(list: &mut Vec<(Timestamp, i32)>, now: Timestamp, value: i32) {
    list.retain(|(at, _)| *at > now - REMEMBERED);
    if list.len() == REMEMBERED_MAX {
        list.remove(0);
    }
    list.push((now, value));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(behavior: Value) -> HorizontalPodAutoscalerSpec {
        let target = json!({"kind": "Deployment", "name": "web"});
        let spec = json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 20, "behavior": behavior});
        serde_json::from_value(spec).expect("a spec")
    }

    /// Steps of (second, wanted), each followed by what is done, which is the target then.
    fn check(behavior: Value, start: i32, steps: &[(i64, i32, i32, &str)]) {
        let (spec, mut memory, mut current) = (spec(behavior), Memory::default(), start);
        for (second, wanted, expected, reason) in steps {
            let now = Timestamp::from_second(*second).expect("a time");
            let decision = memory.decide(&spec, current, *wanted, now);
            let why = if decision.limited.0 { decision.limited.1 } else { decision.able.0 };
            assert_eq!((decision.replicas, why), (*expected, *reason), "at {second}: {wanted}");
            if decision.replicas != current {
                memory.changed(now, current, decision.replicas);
            }
            current = decision.replicas;
        }
    }

    #[test]
    fn a_target_grows_at_once_and_shrinks_later() {
        check(
            json!(null),
            2,
            &[
                (1_000, 3, 3, "ReadyForNewScale"),
                (1_015, 10, 6, "ScaleUpLimit"),
                (1_030, 30, 12, "ScaleUpLimit"),
                (1_045, 30, 20, "TooManyReplicas"),
                (1_060, 1, 20, "TooManyReplicas"),
                (1_400, 0, 1, "TooFewReplicas"),
            ],
        );
        check(json!(null), 3, &[(1_000, 1, 3, "ScaleDownStabilized"), (1_400, 1, 1, "ReadyForNewScale")]);
    }

    #[test]
    fn rules_say_how_fast() {
        let one_a_minute = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
        check(
            one_a_minute,
            5,
            &[(1_000, 1, 4, "ScaleDownLimit"), (1_015, 1, 4, "ScaleDownLimit"), (1_061, 1, 3, "ScaleDownLimit")],
        );
        let never = json!({"scaleUp": {"selectPolicy": "Disabled", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}});
        check(never, 2, &[(1_000, 9, 2, "ScaleUpLimit")]);
        let patient = json!({"scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 9, "periodSeconds": 15}]}});
        check(patient, 2, &[(1_000, 5, 2, "ScaleUpStabilized"), (1_061, 5, 5, "ReadyForNewScale")]);
    }
}
