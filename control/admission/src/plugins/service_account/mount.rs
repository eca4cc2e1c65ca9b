//! Puts the credentials of a pod's account where its containers look for them.

use wharf_types::k8s::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};

/// Where clients in the cluster look (`DefaultAPITokenMountPath`).
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: by this the token API knows the tokens that every pod has (`WarnOnlyBoundTokenExpirationSeconds`).
const TOKEN_S: i64 = 60 * 60 + 7;
const FILE_MODE: i32 = 0o644;

/// The pod decides; if it says nothing, its account does.
pub fn wanted(account: &ServiceAccount, pod: &Pod) -> bool {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token);
    of_pod.or(account.automount_service_account_token).unwrap_or(true)
}

/// Mounts the volume into every container that has nothing at its place yet, and adds it if one needs it.
pub fn mount(spec: &mut PodSpec, suffix: impl FnOnce() -> String) {
    let held = spec.volumes.iter().flatten().find(|volume| volume.name.starts_with(VOLUME_PREFIX));
    let held = held.map(|volume| volume.name.clone());
    let (name, is_new) = match held {
        Some(name) => (name, false),
        None => (format!("{VOLUME_PREFIX}{}", suffix()), true),
    };
    let mut mounted = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        mounted |= mount_into(container, &name);
    }
    if is_new && mounted {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

/// False where something is mounted there already.
fn mount_into(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        read_only: Some(true),
        mount_path: MOUNT_PATH.to_owned(),
        ..VolumeMount::default()
    });
    true
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(TOKEN_S),
        ..ServiceAccountTokenProjection::default()
    };
    let authority = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        optional: None,
    };
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: "metadata.namespace".to_owned() };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(field),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources: Some(sources) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}
