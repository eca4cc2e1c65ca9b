//! Checks of the level `baseline`: what is known to lead out of a pod. Source: `policy/check_*.go` of that level.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::{LifecycleHandler, SELinuxOptions, SeccompProfile};

use super::checks::{Broken, Subject, broken, containers, plural, quoted, setters};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// What a container runtime gives by default.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// By the version since which they are safe.
const SYSCTLS: &[(u32, &str)] = &[
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

const SE_LINUX_TYPES: &[(u32, &str)] =
    &[(0, ""), (0, "container_t"), (0, "container_init_t"), (0, "container_kvm_t"), (31, "container_engine_t")];

fn since(table: &[(u32, &str)], minor: u32, name: &str) -> bool {
    table.iter().any(|(since, known)| *since <= minor && *known == name)
}

pub fn app_armor(subject: &Subject) -> Option<Broken> {
    let mut values = BTreeSet::new();
    let mut bad = |kind: Option<&String>| match kind.map(String::as_str) {
        None | Some("RuntimeDefault" | "Localhost") => false,
        Some(other) => {
            values.insert(other.to_owned());
            true
        }
    };
    let pod = subject.spec.security_context.as_ref().and_then(|it| it.app_armor_profile.as_ref());
    let is_pod = bad(pod.map(|profile| &profile.type_));
    let mut names = Vec::new();
    for container in subject.containers() {
        let profile = container.security.and_then(|it| it.app_armor_profile.as_ref());
        if bad(profile.map(|profile| &profile.type_)) {
            names.push(container.name);
        }
    }
    let annotations = subject.meta.annotations.iter().flatten().filter(|(key, value)| {
        let is_allowed = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
        key.starts_with(APP_ARMOR) && !is_allowed
    });
    let annotated: BTreeSet<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    let mut who: Vec<String> = setters(is_pod, &names).into_iter().collect();
    if !annotated.is_empty() {
        who.push(plural("annotation", "annotations", annotated.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotated).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    broken(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)))
}

pub fn capabilities(subject: &Subject) -> Option<Broken> {
    let mut added = BTreeSet::new();
    let mut names = Vec::new();
    for container in subject.containers() {
        let capabilities = container.security.and_then(|it| it.capabilities.as_ref());
        let asked = capabilities.and_then(|it| it.add.as_deref()).unwrap_or_default();
        let bad: Vec<&String> = asked.iter().filter(|name| !CAPABILITIES.contains(&name.as_str())).collect();
        if !bad.is_empty() {
            names.push(container.name);
            added.extend(bad);
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail =
        format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(added));
    broken("non-default capabilities", detail)
}

pub fn host_namespaces(subject: &Subject) -> Option<Broken> {
    let spec = subject.spec;
    let set =
        [("hostNetwork=true", spec.host_network), ("hostPID=true", spec.host_pid), ("hostIPC=true", spec.host_ipc)];
    let set: Vec<&str> = set.iter().filter(|(_, is_set)| *is_set == Some(true)).map(|(text, _)| *text).collect();
    if set.is_empty() { None } else { broken("host namespaces", set.join(", ")) }
}

pub fn host_path_volumes(subject: &Subject) -> Option<Broken> {
    let volumes = subject.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    broken("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

pub fn host_ports(subject: &Subject) -> Option<Broken> {
    let (mut names, mut ports) = (Vec::new(), BTreeSet::new());
    for container in subject.containers() {
        let used: Vec<i32> =
            container.ports.iter().filter_map(|port| port.host_port).filter(|port| *port != 0).collect();
        if !used.is_empty() {
            names.push(container.name);
            ports.extend(used.iter().map(ToString::to_string));
        }
    }
    if names.is_empty() {
        return None;
    }
    let uses = plural("uses", "use", names.len());
    let what = plural("hostPort", "hostPorts", ports.len());
    let list = ports.into_iter().collect::<Vec<_>>().join(", ");
    broken("hostPort", format!("{} {uses} {what} {list}", containers(&names)))
}

pub fn host_probes(subject: &Subject) -> Option<Broken> {
    let (mut names, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in subject.containers() {
        let mut note = |host: Option<&String>| {
            if let Some(host) = host.filter(|host| !host.is_empty()) {
                names.insert(container.name);
                hosts.insert(host.clone());
            }
        };
        for probe in container.probes.iter().flatten() {
            note(probe.http_get.as_ref().and_then(|get| get.host.as_ref()));
            note(probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()));
        }
        let hooks = container.lifecycle.map(|lifecycle| [lifecycle.post_start.as_ref(), lifecycle.pre_stop.as_ref()]);
        let hooks: Vec<&LifecycleHandler> = hooks.into_iter().flatten().flatten().collect();
        for hook in hooks {
            note(hook.http_get.as_ref().and_then(|get| get.host.as_ref()));
            note(hook.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()));
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let uses = plural("uses", "use", names.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    broken("probe or lifecycle host", format!("{} {uses} {what} {}", containers(&names), quoted(hosts)))
}

pub fn privileged(subject: &Subject) -> Option<Broken> {
    let names = subject.named(|it| it.privileged == Some(true));
    if names.is_empty() {
        return None;
    }
    broken("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

pub fn proc_mount(subject: &Subject) -> Option<Broken> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for container in subject.containers() {
        let kind = container.security.and_then(|it| it.proc_mount.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "Default") {
            names.push(container.name);
            kinds.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    broken("procMount", format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(kinds)))
}

pub fn proc_mount_1_35(subject: &Subject) -> Option<Broken> {
    if subject.has_own_users() { None } else { proc_mount(subject) }
}

fn se_linux(subject: &Subject, minor: u32) -> Option<Broken> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let set = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
        let kind = options.type_.as_deref().unwrap_or_default();
        let bad_type = !since(SE_LINUX_TYPES, minor, kind);
        if bad_type {
            types.insert(kind.to_owned());
        }
        user |= set(&options.user);
        role |= set(&options.role);
        bad_type || set(&options.user) || set(&options.role)
    };
    let is_pod = bad(subject.spec.security_context.as_ref().and_then(|it| it.se_linux_options.as_ref()));
    let mut names = Vec::new();
    for container in subject.containers() {
        if bad(container.security.and_then(|it| it.se_linux_options.as_ref())) {
            names.push(container.name);
        }
    }
    let who = setters(is_pod, &names)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    broken("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

pub fn se_linux_1_0(subject: &Subject) -> Option<Broken> {
    se_linux(subject, 0)
}

pub fn se_linux_1_31(subject: &Subject) -> Option<Broken> {
    se_linux(subject, 31)
}

/// True for an annotation that says how a pod's containers are confined, as it was said before there was a field.
pub fn is_seccomp(annotation: &str) -> bool {
    annotation == SECCOMP_POD || annotation.starts_with(SECCOMP_CONTAINER)
}

pub fn seccomp_1_0(subject: &Subject) -> Option<Broken> {
    let own = subject.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", container.name));
    let keys: BTreeSet<String> = own.chain([SECCOMP_POD.to_owned()]).collect();
    let annotations = subject.meta.annotations.iter().flatten().filter(|(key, value)| {
        let is_allowed =
            matches!(value.as_str(), "runtime/default" | "docker/default") || value.starts_with("localhost/");
        keys.contains(*key) && !is_allowed
    });
    let bad: Vec<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", bad.len());
    broken("seccompProfile", format!("forbidden {what} {}", bad.join(", ")))
}

/// True for a profile that confines.
pub fn confines(profile: &SeccompProfile) -> bool {
    matches!(profile.type_.as_str(), "RuntimeDefault" | "Localhost")
}

/// Whoever sets a profile that does not confine.
pub fn seccomp_1_19(subject: &Subject) -> Option<Broken> {
    let mut values = BTreeSet::new();
    let mut bad = |profile: Option<&SeccompProfile>| {
        let bad = profile.filter(|profile| !confines(profile));
        values.extend(bad.map(|profile| profile.type_.clone()));
        bad.is_some()
    };
    let is_pod = bad(subject.spec.security_context.as_ref().and_then(|it| it.seccomp_profile.as_ref()));
    let mut names = Vec::new();
    for container in subject.containers() {
        if bad(container.security.and_then(|it| it.seccomp_profile.as_ref())) {
            names.push(container.name);
        }
    }
    let who = setters(is_pod, &names)?;
    broken("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values)))
}

fn sysctls(subject: &Subject, minor: u32) -> Option<Broken> {
    let set = subject.spec.security_context.as_ref().and_then(|it| it.sysctls.as_deref()).unwrap_or_default();
    let bad = set.iter().filter(|sysctl| !since(SYSCTLS, minor, &sysctl.name));
    let bad: Vec<&str> = bad.map(|sysctl| sysctl.name.as_str()).collect();
    if bad.is_empty() { None } else { broken("forbidden sysctls", bad.join(", ")) }
}

pub fn sysctls_1_0(subject: &Subject) -> Option<Broken> {
    sysctls(subject, 0)
}

pub fn sysctls_1_27(subject: &Subject) -> Option<Broken> {
    sysctls(subject, 27)
}

pub fn sysctls_1_29(subject: &Subject) -> Option<Broken> {
    sysctls(subject, 29)
}

pub fn sysctls_1_32(subject: &Subject) -> Option<Broken> {
    sysctls(subject, 32)
}

pub fn windows_host_process(subject: &Subject) -> Option<Broken> {
    let pod = subject.spec.security_context.as_ref().and_then(|it| it.windows_options.as_ref());
    let is_pod = pod.is_some_and(|options| options.host_process == Some(true));
    let names =
        subject.named(|it| it.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true)));
    let who = setters(is_pod, &names)?;
    broken("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
