//! Pods: containers that live and die together.
//!
//! Source: `pkg/registry/core/pod/strategy.go`. The pod's spec is described in [`crate::podspec`], which templates share.

mod parts;
mod printer;
mod update;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Errors, Path};
use wharf_types::k8s::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus};
use wharf_types::meta::DeleteOptions;

use crate::podspec::{self, defaults, qos};
use crate::row::Subresource;
use crate::strategy::{Column, FieldPaths, Graceful, Strategy};

#[derive(Debug)]
pub struct Pods;

impl Strategy for Pods {
    type Object = Pod;

    fn default(&self, pod: &mut Pod) {
        defaults::pod(pod.spec.get_or_insert_default());
        if let Some(status) = &mut pod.status {
            same_addresses(status);
        }
    }

    fn prepare_for_create(&self, pod: &mut Pod) {
        pod.metadata.generation = Some(1);
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::class(spec).to_owned()),
            conditions: gated.then(|| vec![scheduling_gated()]),
            ..PodStatus::default()
        });
    }

    fn prepare_for_update(&self, pod: &mut Pod, old: &Pod) {
        pod.status.clone_from(&old.status);
        let changed = pod.spec != old.spec;
        super::generation(&mut pod.metadata, &old.metadata, changed);
    }

    fn prepare_for_status_update(&self, pod: &mut Pod, old: &Pod) {
        pod.spec.clone_from(&old.spec);
        pod.metadata.owner_references.clone_from(&old.metadata.owner_references);
        pod.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
        // The class is decided when a pod is made.
        pod.status.get_or_insert_default().qos_class = old.status.as_ref().and_then(|status| status.qos_class.clone());
    }

    fn prepare_for_subresource(&self, which: Subresource, pod: &mut Pod, old: &Pod) {
        match which {
            Subresource::EphemeralContainers => parts::keep_all_but_ephemeral(pod, old),
            Subresource::Resize => parts::keep_all_but_resources(pod, old),
            _ => {}
        }
        let changed = pod.spec != old.spec;
        super::generation(&mut pod.metadata, &old.metadata, changed);
    }

    fn validate_subresource(&self, which: Subresource, new: &Pod, old: &Pod) -> Errors {
        let mut errors = self.validate(new);
        errors.extend(match which {
            Subresource::EphemeralContainers => parts::validate_ephemeral(new, old),
            Subresource::Resize => parts::validate_resize(new, old),
            _ => Vec::new(),
        });
        errors
    }

    fn reset_fields(&self, subresource: Option<Subresource>) -> Option<FieldPaths> {
        (subresource == Some(Subresource::Status)).then_some(&[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ])
    }

    fn validate(&self, pod: &Pod) -> Errors {
        let empty = PodSpec::default();
        podspec::validate_pod(pod.spec.as_ref().unwrap_or(&empty), &pod.metadata, &Path::new("spec"))
    }

    fn validate_update(&self, new: &Pod, old: &Pod) -> Errors {
        update::spec(new, old)
    }

    fn validate_status_update(&self, new: &Pod, old: &Pod) -> Errors {
        update::status(new, old)
    }

    fn warnings(&self, pod: &Pod, old: Option<&Pod>) -> Vec<String> {
        let mut warnings = Vec::new();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let wrong = wharf_machinery::names::dns1123_label(name);
        if old.is_none() && !wrong.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
        warnings.extend(pod.spec.iter().flat_map(|spec| podspec::warnings::spec(spec, "spec")));
        warnings
    }

    fn fields(&self, pod: &Pod) -> Vec<(&'static str, String)> {
        // Asked for at every change of every pod: nothing but the values is copied.
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let of_spec =
            |get: fn(&PodSpec) -> &Option<String>| spec.and_then(|spec| get(spec).clone()).unwrap_or_default();
        let of_status =
            |get: fn(&PodStatus) -> &Option<String>| status.and_then(|status| get(status).clone()).unwrap_or_default();
        let host_network = spec.and_then(|spec| spec.host_network).unwrap_or_default();
        vec![
            ("spec.nodeName", of_spec(|spec| &spec.node_name)),
            ("spec.restartPolicy", of_spec(|spec| &spec.restart_policy)),
            ("spec.schedulerName", of_spec(|spec| &spec.scheduler_name)),
            ("spec.serviceAccountName", of_spec(|spec| &spec.service_account_name)),
            ("spec.hostNetwork", host_network.to_string()),
            ("status.phase", of_status(|status| &status.phase)),
            ("status.podIP", of_status(|status| &status.pod_ip)),
            ("status.nominatedNodeName", of_status(|status| &status.nominated_node_name)),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    }

    fn columns(&self) -> &'static [Column] {
        printer::COLUMNS
    }

    fn stored_cells(&self, stored: &[u8], now: Timestamp) -> serde_json::Result<Vec<Value>> {
        printer::cells(stored, now)
    }

    /// Source: `CheckGracefulDelete`.
    fn delete(&self, pod: &mut Pod, options: &DeleteOptions) -> Graceful {
        let spec = pod.spec.as_ref();
        let asked = options.grace_period_seconds;
        let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let unscheduled = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default().is_empty();
        if unscheduled || is_finished(pod) {
            return Graceful::Immediate;
        }
        match asked.or(own).unwrap_or_default() {
            0 => Graceful::Immediate,
            seconds if seconds < 0 => Graceful::After { seconds: 1 },
            seconds => Graceful::After { seconds },
        }
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn scheduling_gated() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..PodCondition::default()
    }
}

/// `podIP` is the first of `podIPs`, and `hostIP` of `hostIPs`; where they disagree the single one wins.
fn same_addresses(status: &mut PodStatus) {
    let single = status.pod_ip.take().filter(|ip| !ip.is_empty());
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first().map(|ip| ip.ip.clone()));
    if single.is_some() && single != first {
        status.pod_ips = single.clone().map(|ip| vec![PodIP { ip }]);
    }
    status.pod_ip = single.or(first);
    if let Some(host) = status.host_ip.clone().filter(|ip| !ip.is_empty())
        && status.host_ips.as_ref().is_none_or(Vec::is_empty)
    {
        status.host_ips = Some(vec![HostIP { ip: host }]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[track_caller]
    fn check_delete(pod: &str, asked_s: Option<i64>, expected: Graceful) {
        let mut pod = object(&Pods, pod);
        let options = DeleteOptions { grace_period_seconds: asked_s, ..DeleteOptions::default() };
        assert_eq!(Pods.delete(&mut pod, &options), expected);
    }

    #[test]
    fn deletion_waits_for_the_grace_period() {
        let scheduled = "{spec: {nodeName: n, terminationGracePeriodSeconds: 7}}";
        check_delete(scheduled, None, Graceful::After { seconds: 7 });
        check_delete(scheduled, Some(2), Graceful::After { seconds: 2 });
        check_delete(scheduled, Some(0), Graceful::Immediate);
        check_delete(scheduled, Some(-1), Graceful::After { seconds: 1 });
        check_delete("{spec: {nodeName: n}}", None, Graceful::After { seconds: 30 });
        check_delete("{spec: {}}", None, Graceful::Immediate);
        check_delete("{spec: {nodeName: n}, status: {phase: Succeeded}}", None, Graceful::Immediate);
    }

    #[test]
    fn a_new_pod_is_pending_and_has_its_class() {
        let mut pod = object(
            &Pods,
            "{spec: {schedulingGates: [{name: a.b/c}], containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}]}, status: {phase: Running}}",
        );
        Pods.prepare_for_create(&mut pod);
        let status = pod.status.unwrap();
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(status.qos_class.as_deref(), Some("Guaranteed"));
        assert_eq!(status.conditions.unwrap()[0].reason.as_deref(), Some("SchedulingGated"));
        assert_eq!(pod.metadata.generation, Some(1));
    }

    #[test]
    fn a_name_that_is_no_hostname_is_warned_of() {
        let pod = object(&Pods, "{metadata: {name: a.b}, spec: {}}");
        assert!(Pods.warnings(&pod, None)[0].starts_with("metadata.name: this is used in the Pod's hostname"));
        assert!(Pods.warnings(&pod, Some(&pod)).is_empty());
    }

    #[test]
    fn one_address_stands_for_the_list() {
        let pod = object(&Pods, "{status: {podIP: 127.64.0.2, podIPs: [{ip: 127.64.0.1}], hostIP: 127.0.0.1}}");
        let status = pod.status.unwrap();
        assert_eq!(status.pod_ips.unwrap(), [PodIP { ip: "127.64.0.2".to_owned() }]);
        assert_eq!(status.host_ips.unwrap(), [HostIP { ip: "127.0.0.1".to_owned() }]);
        let pod = object(&Pods, "{status: {podIPs: [{ip: 127.64.0.1}]}}");
        assert_eq!(pod.status.unwrap().pod_ip.as_deref(), Some("127.64.0.1"));
    }
}
