//! What is kept of an object that was read to be looked at, not to be written back whole.
//!
//! Reading a list from JSON makes room for four elements with the first; a pod's lists are of one or two, and their elements are
//! large: a pod takes a third less when what is not used is given back. Only pods are worth it, of which there are many.

use std::any::Any;

use crate::k8s::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, Pod, PodSpec, PodStatus, Volume, VolumeProjection,
};
use crate::meta::ObjectMeta;

/// Drops the managed fields, often larger than the rest, and gives back room that nothing uses.
pub fn lean<K: Any>(object: &mut K, meta: impl FnOnce(&mut K) -> &mut ObjectMeta) {
    meta(object).managed_fields = None;
    if let Some(pod) = (object as &mut dyn Any).downcast_mut::<Pod>() {
        lean_pod(pod);
    }
}

fn lean_pod(pod: &mut Pod) {
    fit(&mut pod.metadata.owner_references, |_| {});
    if let Some(spec) = &mut pod.spec {
        lean_spec(spec);
    }
    if let Some(status) = &mut pod.status {
        lean_status(status);
    }
}

fn lean_spec(spec: &mut PodSpec) {
    fit(&mut spec.init_containers, lean_container);
    spec.containers.shrink_to_fit();
    spec.containers.iter_mut().for_each(lean_container);
    fit(&mut spec.ephemeral_containers, lean_ephemeral);
    fit(&mut spec.volumes, lean_volume);
    fit(&mut spec.tolerations, |_| {});
}

fn lean_container(container: &mut Container) {
    fit(&mut container.env, |_| {});
    fit(&mut container.ports, |_| {});
    fit(&mut container.volume_mounts, |_| {});
}

fn lean_ephemeral(container: &mut EphemeralContainer) {
    fit(&mut container.env, |_| {});
    fit(&mut container.volume_mounts, |_| {});
}

fn lean_volume(volume: &mut Volume) {
    if let Some(projected) = &mut volume.projected {
        fit(&mut projected.sources, lean_projection);
    }
}

fn lean_projection(source: &mut VolumeProjection) {
    if let Some(map) = &mut source.config_map {
        fit(&mut map.items, |_| {});
    }
    if let Some(fields) = &mut source.downward_api {
        fit(&mut fields.items, |_| {});
    }
}

fn lean_status(status: &mut PodStatus) {
    fit(&mut status.conditions, |_| {});
    fit(&mut status.host_ips, |_| {});
    fit(&mut status.pod_ips, |_| {});
    fit(&mut status.init_container_statuses, lean_container_status);
    fit(&mut status.container_statuses, lean_container_status);
    fit(&mut status.ephemeral_container_statuses, lean_container_status);
}

fn lean_container_status(status: &mut ContainerStatus) {
    fit(&mut status.volume_mounts, |_| {});
}

fn fit<T>(list: &mut Option<Vec<T>>, each: impl FnMut(&mut T)) {
    if let Some(list) = list {
        list.shrink_to_fit();
        list.iter_mut().for_each(each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_pod_says_the_same_and_has_no_room_to_spare() {
        let json = serde_json::json!({
            "metadata": { "name": "web", "managedFields": [{ "manager": "kubectl" }] },
            "spec": {
                "containers": [{ "name": "c", "env": [{ "name": "A" }], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
                "volumes": [{ "name": "v", "projected": { "sources": [
                    { "configMap": { "items": [{ "key": "k", "path": "p" }] } },
                    { "downwardAPI": { "items": [{ "path": "ns" }] } },
                ] } }],
            },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }], "containerStatuses": [
                { "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0 },
            ] },
        });
        let read: Pod = serde_json::from_str(&json.to_string()).expect("a pod");
        let mut kept = read.clone();
        // A clone has no room to spare; what was read has.
        kept.spec = serde_json::from_str(&json["spec"].to_string()).expect("a spec");
        let env = |pod: &Pod| pod.spec.as_ref().and_then(|spec| Some(spec.containers[0].env.as_ref()?.capacity()));
        assert!(env(&kept) > Some(1), "reading leaves no room to spare any more: nothing is left to do here");
        lean(&mut kept, |pod| &mut pod.metadata);
        let spec = kept.spec.as_ref().expect("a spec");
        let container = &spec.containers[0];
        let sources = spec.volumes.as_ref().and_then(|volumes| volumes[0].projected.as_ref()?.sources.as_ref());
        let room = |list: Option<usize>| list.expect("a list");
        assert_eq!(spec.containers.capacity(), 1);
        assert_eq!(env(&kept), Some(1));
        assert_eq!(room(container.volume_mounts.as_ref().map(Vec::capacity)), 1);
        assert_eq!(room(sources.map(Vec::capacity)), 2);
        assert_eq!(kept.metadata.managed_fields, None);
        assert_eq!((kept.spec, kept.status), (read.spec, read.status));
    }
}
