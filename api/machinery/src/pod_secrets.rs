//! The secrets that a pod refers to, wherever it does.
//!
//! Source: `VisitPodSecretNames` (`pkg/api/v1/pod/util.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, Volume};

/// Their names, in the pod's namespace.
pub fn names(pod: &Pod) -> BTreeSet<&str> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    found.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()));
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        found.extend(of_env(container.env.as_deref(), container.env_from.as_deref()));
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        found.extend(of_env(container.env.as_deref(), container.env_from.as_deref()));
    }
    found.extend(spec.volumes.iter().flatten().flat_map(of_volume));
    found.retain(|name| !name.is_empty());
    found
}

fn of_env<'a>(env: Option<&'a [EnvVar]>, from: Option<&'a [EnvFromSource]>) -> impl Iterator<Item = &'a str> {
    let whole = from.unwrap_or_default().iter().filter_map(|source| source.secret_ref.as_ref());
    let keys = env.unwrap_or_default().iter().filter_map(|var| var.value_from.as_ref()?.secret_key_ref.as_ref());
    whole.map(|secret| secret.name.as_str()).chain(keys.map(|secret| secret.name.as_str()))
}

fn of_volume(volume: &Volume) -> Vec<&str> {
    let mut found: Vec<Option<&str>> = vec![
        volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()),
        volume.azure_file.as_ref().map(|source| source.secret_name.as_str()),
    ];
    let references = [
        volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|source| &source.secret_ref),
        volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref()),
    ];
    found.extend(references.into_iter().map(|reference| reference.map(|secret| secret.name.as_str())));
    let projections = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
    found.extend(projections.map(|projection| projection.secret.as_ref().map(|secret| secret.name.as_str())));
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_that_names_a_secret_counts() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "whole"}}, {"configMapRef": {"name": "map"}}]}],
            "containers": [{"name": "c", "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "debug"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "files"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "map"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "mount"}}},
                {"name": "d", "emptyDir": {}},
            ],
        }}))
        .expect("a pod");
        let expected = ["debug", "files", "key", "mount", "part", "pull", "whole"];
        assert_eq!(names(&pod).into_iter().collect::<Vec<_>>(), expected);
    }
}
