//! Checks of the level `restricted`: what hardening asks for. Source: `policy/check_*.go` of that level.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::Volume;

use super::baseline::{confines, seccomp_1_19 as seccomp_baseline};
use super::checks::{Broken, Subject, broken, containers, plural, quoted, setters};

pub fn escalation_1_8(subject: &Subject) -> Option<Broken> {
    let denies = |container: &super::checks::Container| {
        container.security.and_then(|it| it.allow_privilege_escalation) == Some(false)
    };
    let names: Vec<&str> = subject.containers().filter(|it| !denies(it)).map(|container| container.name).collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    broken("allowPrivilegeEscalation != false", detail)
}

pub fn escalation_1_25(subject: &Subject) -> Option<Broken> {
    if subject.is_windows() { None } else { escalation_1_8(subject) }
}

pub fn capabilities_1_22(subject: &Subject) -> Option<Broken> {
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), BTreeSet::new());
    for container in subject.containers() {
        let capabilities = container.security.and_then(|it| it.capabilities.as_ref());
        let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
        if !list(capabilities.and_then(|it| it.drop.as_ref())).iter().any(|name| name == "ALL") {
            keeping.push(container.name);
        }
        let mut bad = list(capabilities.and_then(|it| it.add.as_ref()));
        bad.retain(|name| name != "NET_BIND_SERVICE");
        if !bad.is_empty() {
            adding.push(container.name);
            added.extend(bad);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let what = quoted(added);
        details.push(format!("{} must not include {what} in securityContext.capabilities.add", containers(&adding)));
    }
    if details.is_empty() { None } else { broken("unrestricted capabilities", details.join("; ")) }
}

pub fn capabilities_1_25(subject: &Subject) -> Option<Broken> {
    if subject.is_windows() { None } else { capabilities_1_22(subject) }
}

pub fn volumes(subject: &Subject) -> Option<Broken> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in subject.spec.volumes.iter().flatten() {
        if let Some(kind) = restricted_kind(volume) {
            names.push(volume.name.as_str());
            kinds.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    broken("restricted volume types", detail)
}

/// The volume's kind, unless it is one of those that need no rights on the node.
fn restricted_kind(volume: &Volume) -> Option<&'static str> {
    let is_harmless = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if is_harmless {
        return None;
    }
    let kinds = [
        ("hostPath", volume.host_path.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("fc", volume.fc.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("storageos", volume.storageos.is_some()),
    ];
    Some(kinds.iter().find(|(_, is_set)| *is_set).map_or("unknown", |(name, _)| name))
}

pub fn non_root_1_0(subject: &Subject) -> Option<Broken> {
    const REASON: &str = "runAsNonRoot != true";
    let pod = subject.spec.security_context.as_ref().and_then(|it| it.run_as_non_root);
    let explicit = subject.named(|it| it.run_as_non_root == Some(false));
    if let Some(who) = setters(pod == Some(false), &explicit) {
        return broken(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = subject.containers().filter(|it| it.security.and_then(|it| it.run_as_non_root).is_none());
    let silent: Vec<&str> = silent.map(|container| container.name).collect();
    if pod == Some(true) || silent.is_empty() {
        return None;
    }
    broken(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

pub fn non_root_1_35(subject: &Subject) -> Option<Broken> {
    if subject.has_own_users() { None } else { non_root_1_0(subject) }
}

pub fn user_1_23(subject: &Subject) -> Option<Broken> {
    let pod = subject.spec.security_context.as_ref().and_then(|it| it.run_as_user);
    let names = subject.named(|it| it.run_as_user == Some(0));
    let who = setters(pod == Some(0), &names)?;
    broken("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub fn user_1_35(subject: &Subject) -> Option<Broken> {
    if subject.has_own_users() { None } else { user_1_23(subject) }
}

pub fn seccomp_1_19(subject: &Subject) -> Option<Broken> {
    let explicit = seccomp_baseline(subject);
    if explicit.is_some() {
        return explicit;
    }
    let pod = subject.spec.security_context.as_ref().and_then(|it| it.seccomp_profile.as_ref());
    let silent = subject.containers().filter(|it| it.security.and_then(|it| it.seccomp_profile.as_ref()).is_none());
    let silent: Vec<&str> = silent.map(|container| container.name).collect();
    if pod.is_some_and(confines) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    broken("seccompProfile", detail)
}

pub fn seccomp_1_25(subject: &Subject) -> Option<Broken> {
    if subject.is_windows() { None } else { seccomp_1_19(subject) }
}
