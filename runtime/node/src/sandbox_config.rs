//! A pod's sandbox as the runtime is to run it.

use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodSpec};
use wharf_cri::{PortMapping, SandboxConfig};

use crate::container_config::protocol;
use crate::context::Context;
use crate::{dns, names};

/// As long as a host name may be.
const MAX_HOSTNAME_BYTES: usize = 63;

/// The sandbox of a pod.
pub fn sandbox_config(ctx: &Context, pod: &Pod, spec: &PodSpec, attempt: u32) -> SandboxConfig {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend([
        ("io.kubernetes.pod.name".to_owned(), names::name(pod).to_owned()),
        ("io.kubernetes.pod.namespace".to_owned(), names::namespace(pod).to_owned()),
        ("io.kubernetes.pod.uid".to_owned(), names::uid(pod).to_owned()),
    ]);
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let mapping = |port: &ContainerPort| {
        Some(PortMapping {
            protocol: protocol(port.protocol.as_deref())?,
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: u16::try_from(port.host_port.unwrap_or(0)).ok()?,
            host_ip: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
        })
    };
    SandboxConfig {
        name: names::name(pod).to_owned(),
        namespace: names::namespace(pod).to_owned(),
        uid: names::uid(pod).to_owned(),
        attempt,
        hostname: hostname(pod, spec),
        log_dir: ctx.log_dir(pod),
        dns: dns::config(pod, spec, &ctx.cluster_dns, &ctx.cluster_domain, &ctx.host_dns),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        host_network: spec.host_network == Some(true),
        port_mappings: ports.filter_map(mapping).collect(),
    }
}

/// The pod's name, cut to what a host name may hold, unless the pod says otherwise.
fn hostname(pod: &Pod, spec: &PodSpec) -> String {
    let wanted = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = wanted.unwrap_or_else(|| names::name(pod));
    name.chars().take(MAX_HOSTNAME_BYTES).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}
