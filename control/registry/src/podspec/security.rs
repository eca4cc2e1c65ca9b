//! Security contexts of pods and containers. Source: `ValidatePodSecurityContext`, `ValidateSecurityContext`.

use std::collections::BTreeSet;

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use crate::checks;

const ID_MAX: i64 = i32::MAX as i64;
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_MAX: usize = 253;

pub fn validate_pod(spec: &PodSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, why));
    }
    if spec.host_users == Some(false) {
        let host = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        for (field, _) in host.iter().filter(|(_, on)| *on == Some(true)) {
            errors.push(Error::forbidden(&path.child(field), "when `hostUsers` is false"));
        }
    }
    let Some(context) = &spec.security_context else { return errors };
    let path = path.child("securityContext");
    errors.extend(id(context.fs_group, &path.child("fsGroup")));
    errors.extend(id(context.run_as_user, &path.child("runAsUser")));
    errors.extend(id(context.run_as_group, &path.child("runAsGroup")));
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        errors.extend(id(Some(*group), &path.child("supplementalGroups").index(index)));
    }
    let mut names = BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = path.child("sysctls").index(index).child("name");
        if sysctl.name.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !is_sysctl(&sysctl.name) {
            let why = format!(
                "must have at most {SYSCTL_MAX} characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.push(Error::invalid(&path, &sysctl.name, why));
        } else if !names.insert(&sysctl.name) {
            errors.push(Error::duplicate(&path, &sysctl.name));
        }
    }
    if let Some(policy) = &context.fs_group_change_policy {
        errors.extend(checks::one_of(policy, &["Always", "OnRootMismatch"], &path.child("fsGroupChangePolicy")));
    }
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.extend(checks::one_of(policy, &["Merge", "Strict"], &path.child("supplementalGroupsPolicy")));
    }
    errors.extend(profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), &path));
    errors
}

pub fn validate_container(context: &SecurityContext, path: &Path) -> Errors {
    let mut errors = id(context.run_as_user, &path.child("runAsUser"));
    errors.extend(id(context.run_as_group, &path.child("runAsGroup")));
    if let Some(mount) = &context.proc_mount {
        errors.extend(checks::one_of(mount, &["Default", "Unmasked"], &path.child("procMount")));
    }
    errors.extend(profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path));
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, checks::json(context), why));
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        if added.into_iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, checks::json(context), why));
        }
    }
    errors
}

fn id(id: Option<i64>, path: &Path) -> Errors {
    match id {
        Some(id) if !(0..=ID_MAX).contains(&id) => {
            vec![Error::invalid(path, id, format!("must be between 0 and {ID_MAX}, inclusive"))]
        }
        _ => Vec::new(),
    }
}

fn is_sysctl(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let good = |part: &str| edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(inner);
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(good)
}

fn profiles(seccomp: Option<&SeccompProfile>, app_armor: Option<&AppArmorProfile>, path: &Path) -> Errors {
    let seccomp = seccomp.map(|profile| ("seccompProfile", &profile.type_, &profile.localhost_profile));
    let app_armor = app_armor.map(|profile| ("appArmorProfile", &profile.type_, &profile.localhost_profile));
    let mut errors = Vec::new();
    for (field, kind, local) in [seccomp, app_armor].into_iter().flatten() {
        let path = path.child(field);
        errors.extend(checks::required_one_of(kind, PROFILES, &path.child("type")));
        let at = path.child("localhostProfile");
        match (kind.as_str(), local) {
            ("Localhost", None) => {
                let word = if field == "seccompProfile" { "seccomp" } else { "AppArmor" };
                errors.push(Error::required(&at, format!("must be set when {word} type is Localhost")));
            }
            ("Localhost", Some(_)) | (_, None) => {}
            (_, Some(local)) => {
                let why = "can only be set when type is Localhost";
                errors.push(Error::invalid(&at, local, why));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(context: &str, expected: &[&str]) {
        let context: SecurityContext = serde_yaml::from_str(context).unwrap();
        let errors: Vec<String> =
            validate_container(&context, &Path::new("c")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn containers_do_not_contradict_themselves() {
        check("{runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}", &[]);
        check("{runAsUser: -1}", &["c.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"]);
        check(
            "{privileged: true, allowPrivilegeEscalation: false}",
            &[
                "c: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        );
        check(
            "{seccompProfile: {type: Localhost}}",
            &["c.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"],
        );
    }

    #[test]
    fn pods_share_or_own_their_processes() {
        let spec: PodSpec =
            serde_yaml::from_str("{containers: [], shareProcessNamespace: true, hostPID: true, securityContext: {sysctls: [{name: A, value: '1'}]}}").unwrap();
        let errors = validate_pod(&spec, &Path::new("s"));
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[1]
                .to_string()
                .starts_with("s.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253")
        );
    }
}
