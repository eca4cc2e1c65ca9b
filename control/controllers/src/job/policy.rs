//! What a failed pod means for its Job (`podFailurePolicy`), and when enough indexes succeeded (`successPolicy`).

use std::collections::BTreeSet;

use wharf_types::k8s::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use wharf_types::k8s::api::core::v1::{ContainerStatus, Pod};

use super::indexes;
use crate::owners;

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Count,
    Ignore,
    /// It counts, and its index fails with it.
    FailIndex,
    /// The whole Job fails, with this message.
    FailJob(String),
}

/// The first rule that matches decides.
pub fn outcome(job: &Job, pod: &Pod) -> Outcome {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy.map_or(&[][..], |policy| &policy.rules);
    for (number, rule) in rules.iter().enumerate() {
        if let Some(what) = matched(rule, pod) {
            return match rule.action.as_str() {
                "Ignore" => Outcome::Ignore,
                "FailIndex" => Outcome::FailIndex,
                "FailJob" => Outcome::FailJob(format!("{what} matching FailJob rule at index {number}")),
                _ => Outcome::Count,
            };
        }
    }
    Outcome::Count
}

/// What about the pod the rule matches.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), owners::name(pod));
    if let Some(requirement) = &rule.on_exit_codes {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) =
            all.filter_map(exit).find(|(container, code)| requires(requirement, container, *code))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let condition = status.conditions.iter().flatten().find(|condition| {
        patterns.iter().any(|pattern| {
            pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {name} has condition {}", condition.type_))
}

fn exit(status: &ContainerStatus) -> Option<(&str, i32)> {
    let terminated = status.state.as_ref()?.terminated.as_ref()?;
    (terminated.exit_code != 0).then_some((status.name.as_str(), terminated.exit_code))
}

fn requires(requirement: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let named = requirement.container_name.as_deref().is_none_or(|name| name == container);
    named && (requirement.operator == "In") == requirement.values.contains(&code)
}

/// The rule of the success policy that these indexes meet.
pub fn success_rule(job: &Job, succeeded: &BTreeSet<i32>) -> Option<usize> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions?;
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, completions));
        let met = wanted.as_ref().map_or(succeeded.len(), |wanted| wanted.intersection(succeeded).count());
        let enough = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        met >= enough.or(wanted.map(|wanted| wanted.len())).unwrap_or(usize::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::ready;
    use wharf_types::k8s::api::batch::v1::{
        JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy, SuccessPolicyRule,
    };
    use wharf_types::k8s::api::core::v1::{ContainerState, ContainerStateTerminated};

    fn failed(code: i32) -> Pod {
        let terminated = ContainerStateTerminated { exit_code: code, ..ContainerStateTerminated::default() };
        let state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        let mut pod = ready("p", 9).phase("Failed").0;
        let status = ContainerStatus { name: "main".to_owned(), state, ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
        pod
    }

    fn check(code: i32, expected: Outcome) {
        let codes = |operator: &str, values: &[i32]| {
            Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: Some("main".to_owned()),
                operator: operator.to_owned(),
                values: values.to_vec(),
            })
        };
        let ready = PodFailurePolicyOnPodConditionsPattern { type_: "Disrupted".to_owned(), status: None };
        let rules = vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![ready]),
            },
            PodFailurePolicyRule {
                action: "FailJob".to_owned(),
                on_exit_codes: codes("In", &[42]),
                on_pod_conditions: None,
            },
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: codes("NotIn", &[1, 42]),
                on_pod_conditions: None,
            },
        ];
        let spec = JobSpec { pod_failure_policy: Some(PodFailurePolicy { rules }), ..JobSpec::default() };
        assert_eq!(outcome(&Job { spec: Some(spec), ..Job::default() }, &failed(code)), expected);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        check(1, Outcome::Count);
        check(2, Outcome::Ignore);
        let message = "Container main for pod default/p failed with exit code 42 matching FailJob rule at index 1";
        check(42, Outcome::FailJob(message.to_owned()));
    }

    #[test]
    fn success_rules_count_their_indexes() {
        let rule = |indexes: Option<&str>, count| SuccessPolicyRule {
            succeeded_indexes: indexes.map(str::to_owned),
            succeeded_count: count,
        };
        let rules = vec![rule(Some("0-1"), None), rule(Some("5-9"), Some(2)), rule(None, Some(4))];
        let spec =
            JobSpec { completions: Some(10), success_policy: Some(SuccessPolicy { rules }), ..JobSpec::default() };
        let job = Job { spec: Some(spec), ..Job::default() };
        for (indexes, expected) in [("0", None), ("0,1", Some(0)), ("5,9", Some(1)), ("0,2,3,4", Some(2))] {
            assert_eq!(success_rule(&job, &indexes::parse(indexes, 10)), expected, "{indexes}");
        }
    }
}
