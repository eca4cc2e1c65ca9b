//! What a pod spec says when its author says nothing.
//!
//! Source: `pkg/apis/core/v1/defaults.go`. [`template`] is for pod templates, [`pod`] adds what upstream fills in only when a
//! pod itself is made.

use std::collections::BTreeMap;

use wharf_types::k8s::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    ObjectFieldSelector, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, Volume, VolumeProjection,
};
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

/// `0644`
const FILE_MODE: i32 = 0o644;
const TERMINATION_GRACE_S: i64 = 30;
const SERVICE_ACCOUNT_TOKEN_S: i64 = 3600;

/// Sets an optional string that is absent or empty.
pub fn text(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Sets an optional number that is absent or zero.
fn number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(value);
    }
}

pub fn template(template: &mut PodTemplateSpec) {
    spec(template.spec.get_or_insert_default());
}

/// What a pod gets beyond what its template shows: link variables, requests from limits, host ports.
pub fn pod(pod: &mut PodSpec) {
    spec(pod);
    pod.enable_service_links.get_or_insert(true);
    let host_network = pod.host_network == Some(true);
    for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
    }
    if host_network {
        // Upstream looks at init containers, too: they share the host's ports.
        for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
            for port in container.ports.iter_mut().flatten().filter(|port| port.host_port.unwrap_or_default() == 0) {
                port.host_port = Some(port.container_port);
            }
        }
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else { return };
    let requests: &mut BTreeMap<String, Quantity> = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_S);
    // The old name of the field is kept equal to the new one.
    let old_name = spec.service_account.take().filter(|name| !name.is_empty());
    let account = spec.service_account_name.take().filter(|name| !name.is_empty()).or(old_name);
    spec.service_account = account.clone();
    spec.service_account_name = account;
    for item in spec.volumes.iter_mut().flatten() {
        volume(item);
    }
    for item in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container(item);
    }
    for item in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(item);
    }
}

fn container(container: &mut Container) {
    if container.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        container.image_pull_policy = Some(pull_policy(container.image.as_deref().unwrap_or_default()).to_owned());
    }
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    ports(container.ports.as_deref_mut());
    env(container.env.as_deref_mut());
    container.resources.get_or_insert_default();
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        .into_iter()
        .flatten()
    {
        set_probe(probe);
    }
    lifecycle(container.lifecycle.as_mut());
}

/// Ephemeral containers have the fields of containers, and the same defaults.
pub fn ephemeral_container(container: &mut EphemeralContainer) {
    if container.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        container.image_pull_policy = Some(pull_policy(container.image.as_deref().unwrap_or_default()).to_owned());
    }
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    ports(container.ports.as_deref_mut());
    env(container.env.as_deref_mut());
    container.resources.get_or_insert_default();
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        .into_iter()
        .flatten()
    {
        set_probe(probe);
    }
    lifecycle(container.lifecycle.as_mut());
}

fn ports(ports: Option<&mut [ContainerPort]>) {
    for port in ports.into_iter().flatten() {
        text(&mut port.protocol, "TCP");
    }
}

fn env(env: Option<&mut [EnvVar]>) {
    for source in env.into_iter().flatten().filter_map(|var| var.value_from.as_mut()) {
        field_ref(source.field_ref.as_mut());
        resource_ref(source.resource_field_ref.as_mut());
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn field_ref(field: Option<&mut ObjectFieldSelector>) {
    if let Some(field) = field {
        text(&mut field.api_version, "v1");
    }
}

fn resource_ref(resource: Option<&mut ResourceFieldSelector>) {
    if let Some(resource) = resource {
        resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
    }
}

fn set_probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
    if let Some(get) = &mut probe.http_get {
        http_get(get);
    }
}

fn lifecycle(lifecycle: Option<&mut Lifecycle>) {
    let Some(lifecycle) = lifecycle else { return };
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(get) = &mut handler.http_get {
            http_get(get);
        }
    }
}

fn http_get(get: &mut HTTPGetAction) {
    text(&mut get.path, "/");
    text(&mut get.scheme, "HTTP");
}

/// `Always` for an image whose tag is, or is implied to be, `latest`.
pub fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(name, digest)| (name, digest));
    let last = name.rsplit('/').next().unwrap_or_default();
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_empty() && !image.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        for file in source.items.iter_mut().flatten() {
            field_ref(file.field_ref.as_mut());
            resource_ref(file.resource_field_ref.as_mut());
        }
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        source.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(source.reference.as_deref().unwrap_or_default());
        text(&mut source.pull_policy, policy);
    }
    if let Some(source) = &mut volume.iscsi {
        text(&mut source.iscsi_interface, "default");
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut()) {
        claim(&mut template.spec);
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(SERVICE_ACCOUNT_TOKEN_S);
    }
    for file in source.downward_api.iter_mut().flat_map(|source| source.items.iter_mut().flatten()) {
        field_ref(file.field_ref.as_mut());
        resource_ref(file.resource_field_ref.as_mut());
    }
}

/// A claim's spec, in a claim or in the template of an ephemeral volume.
pub fn claim(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: &str) {
        let mut given: PodSpec = serde_yaml::from_str(input).unwrap();
        spec(&mut given);
        let expected: PodSpec = serde_yaml::from_str(expected).unwrap();
        assert_eq!(given, expected);
        let once = given.clone();
        spec(&mut given);
        assert_eq!(given, once, "defaults are idempotent");
    }

    #[test]
    fn a_bare_container_gets_every_default() {
        check(
            "containers: [{name: a, image: x, ports: [{containerPort: 80}], readinessProbe: {httpGet: {port: 80}}}]",
            "
            containers:
            - name: a
              image: x
              imagePullPolicy: Always
              terminationMessagePath: /dev/termination-log
              terminationMessagePolicy: File
              resources: {}
              ports: [{containerPort: 80, protocol: TCP}]
              readinessProbe:
                httpGet: {port: 80, path: /, scheme: HTTP}
                timeoutSeconds: 1
                periodSeconds: 10
                successThreshold: 1
                failureThreshold: 3
            dnsPolicy: ClusterFirst
            restartPolicy: Always
            schedulerName: default-scheduler
            securityContext: {}
            terminationGracePeriodSeconds: 30
            ",
        );
    }

    #[test]
    fn volumes_get_modes_and_a_source() {
        let rest = "dnsPolicy: Default\nrestartPolicy: Never\nschedulerName: mine\nsecurityContext: {}\nterminationGracePeriodSeconds: 0";
        check(
            &format!(
                "containers: []\nvolumes: [{{name: a}}, {{name: b, secret: {{secretName: s}}}}, {{name: c, hostPath: {{path: /x}}}}]\n{rest}"
            ),
            &format!(
                "containers: []\nvolumes: [{{name: a, emptyDir: {{}}}}, {{name: b, secret: {{secretName: s, defaultMode: 420}}}}, {{name: c, hostPath: {{path: /x, type: ''}}}}]\n{rest}"
            ),
        );
    }

    #[test]
    fn the_old_name_of_the_service_account_follows_the_new_one() {
        let mut given: PodSpec = serde_yaml::from_str("{containers: [], serviceAccount: old}").unwrap();
        spec(&mut given);
        assert_eq!(given.service_account_name.as_deref(), Some("old"));
    }

    #[test]
    fn only_latest_is_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_pod_requests_what_it_is_limited_to() {
        let mut given: PodSpec = serde_yaml::from_str(
            "{containers: [{name: a, resources: {limits: {cpu: '1', memory: 1Gi}, requests: {cpu: 100m}}}]}",
        )
        .unwrap();
        pod(&mut given);
        let requests = given.containers[0].resources.as_ref().unwrap().requests.clone().unwrap();
        assert_eq!(requests["cpu"].0, "100m");
        assert_eq!(requests["memory"].0, "1Gi");
        assert_eq!(given.enable_service_links, Some(true));
    }
}
