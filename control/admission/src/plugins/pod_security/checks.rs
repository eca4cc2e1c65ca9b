//! The table of checks, and which of them a level and version of the policy asks for.
//!
//! Source: `k8s.io/pod-security-admission/policy` (`registry.go`, `checks.go`, `visitor.go`). Baseline checks come first, each
//! level in the order of its names; a restricted check stands in for the baseline checks that it names.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::{ContainerPort, Lifecycle, PodSpec, Probe, SecurityContext};
use wharf_types::meta::ObjectMeta;

use super::policy::{Level, LevelVersion, Version};
use super::{baseline, restricted};

/// The newest version that changed a check; later ones ask for the same.
const NEWEST: u32 = 35;

/// What a check says of a pod that breaks it: a reason, and what exactly.
pub type Broken = (String, String);

pub type Check = fn(&Subject) -> Option<Broken>;

/// A pod, or what a workload makes pods of.
pub struct Subject<'a> {
    pub meta: &'a ObjectMeta,
    pub spec: &'a PodSpec,
}

/// What checks look at in a container of any kind.
pub struct Container<'a> {
    pub name: &'a str,
    pub security: Option<&'a SecurityContext>,
    pub ports: &'a [ContainerPort],
    pub probes: [Option<&'a Probe>; 3],
    pub lifecycle: Option<&'a Lifecycle>,
}

struct Row {
    id: &'static str,
    /// By the version since which it holds.
    versions: &'static [(u32, Check)],
    /// Baseline checks that it stands in for.
    replaces: &'static [&'static str],
}

const fn row(id: &'static str, versions: &'static [(u32, Check)], replaces: &'static [&'static str]) -> Row {
    Row { id, versions, replaces }
}

const BASELINE: &[Row] = &[
    row("appArmorProfile", &[(0, baseline::app_armor)], &[]),
    row("capabilities_baseline", &[(0, baseline::capabilities)], &[]),
    row("hostNamespaces", &[(0, baseline::host_namespaces)], &[]),
    row("hostPathVolumes", &[(0, baseline::host_path_volumes)], &[]),
    row("hostPorts", &[(0, baseline::host_ports)], &[]),
    row("hostProbesAndHostLifecycle", &[(34, baseline::host_probes)], &[]),
    row("privileged", &[(0, baseline::privileged)], &[]),
    row("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_1_35)], &[]),
    row("seLinuxOptions", &[(0, baseline::se_linux_1_0), (31, baseline::se_linux_1_31)], &[]),
    row("seccompProfile_baseline", &[(0, baseline::seccomp_1_0), (19, baseline::seccomp_1_19)], &[]),
    row(
        "sysctls",
        &[
            (0, baseline::sysctls_1_0),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
        &[],
    ),
    row("windowsHostProcess", &[(0, baseline::windows_host_process)], &[]),
];

const RESTRICTED: &[Row] = &[
    row("allowPrivilegeEscalation", &[(8, restricted::escalation_1_8), (25, restricted::escalation_1_25)], &[]),
    row(
        "capabilities_restricted",
        &[(22, restricted::capabilities_1_22), (25, restricted::capabilities_1_25)],
        &["capabilities_baseline"],
    ),
    row("procMount_restricted", &[(35, baseline::proc_mount)], &["procMount"]),
    row("restrictedVolumes", &[(0, restricted::volumes)], &["hostPathVolumes"]),
    row("runAsNonRoot", &[(0, restricted::non_root_1_0), (35, restricted::non_root_1_35)], &[]),
    row("runAsUser", &[(23, restricted::user_1_23), (35, restricted::user_1_35)], &[]),
    row(
        "seccompProfile_restricted",
        &[(19, restricted::seccomp_1_19), (25, restricted::seccomp_1_25)],
        &["seccompProfile_baseline"],
    ),
];

/// What the pod breaks.
pub fn evaluate(asked: LevelVersion, subject: &Subject) -> Vec<Broken> {
    let minor = match asked.version {
        Version::Latest => NEWEST,
        Version::Minor(minor) => minor.min(NEWEST),
    };
    let at = |row: &'static Row| row.versions.iter().rev().find(|(since, _)| *since <= minor).map(|(_, check)| check);
    let is_restricted = asked.level == Level::Restricted;
    let replaced: BTreeSet<&str> = match is_restricted {
        true => {
            RESTRICTED.iter().filter(|row| at(row).is_some()).flat_map(|row| row.replaces.iter().copied()).collect()
        }
        false => BTreeSet::new(),
    };
    let baseline = BASELINE.iter().filter(|row| asked.level >= Level::Baseline && !replaced.contains(row.id));
    let restricted = RESTRICTED.iter().filter(|_| is_restricted);
    baseline.chain(restricted).filter_map(at).filter_map(|check| check(subject)).collect()
}

/// `host namespaces (hostNetwork=true), privileged (…)`
pub fn details(broken: &[Broken]) -> String {
    let shown = broken.iter().map(|(reason, detail)| match detail.is_empty() {
        true => reason.clone(),
        false => format!("{reason} ({detail})"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// `host namespaces, privileged`
pub fn reasons(broken: &[Broken]) -> String {
    broken.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>().join(", ")
}

impl<'a> Subject<'a> {
    /// Init containers, containers and ephemeral containers, in this order.
    pub fn containers(&self) -> impl Iterator<Item = Container<'a>> {
        macro_rules! view {
            ($container:expr) => {
                Container {
                    name: &$container.name,
                    security: $container.security_context.as_ref(),
                    ports: $container.ports.as_deref().unwrap_or_default(),
                    probes: [
                        $container.liveness_probe.as_ref(),
                        $container.readiness_probe.as_ref(),
                        $container.startup_probe.as_ref(),
                    ],
                    lifecycle: $container.lifecycle.as_ref(),
                }
            };
        }
        let spec = self.spec;
        let init = spec.init_containers.iter().flatten().map(|container| view!(container));
        let ordinary = spec.containers.iter().map(|container| view!(container));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| view!(container));
        init.chain(ordinary).chain(ephemeral)
    }

    /// The names of the containers of which this holds.
    pub fn named(&self, holds: impl Fn(&SecurityContext) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| container.security.is_some_and(&holds));
        bad.map(|container| container.name).collect()
    }

    pub fn is_windows(&self) -> bool {
        self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }

    /// True where root in the pod is nobody on the node.
    pub fn has_own_users(&self) -> bool {
        self.spec.host_users == Some(false)
    }
}

pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`
pub fn quoted(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
pub fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`; none where it is neither.
pub fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (true, true) => Some("pod".to_owned()),
        (true, false) => Some(format!("pod and {}", containers(names))),
        (false, false) => Some(containers(names)),
        (false, true) => None,
    }
}

pub fn broken(reason: &str, detail: String) -> Option<Broken> {
    Some((reason.to_owned(), detail))
}
