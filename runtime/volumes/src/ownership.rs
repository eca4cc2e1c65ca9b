//! Whose a volume's files are: the user and the group that the pod runs with.
//!
//! Source: `FsUserFrom` and `SetVolumeOwnership` (`pkg/volume`), `DetermineEffectiveRunAsUser` (`pkg/securitycontext`).
//! A node that does not run as root cannot give files away; then they stay the node's own, with the same modes.

use k8s_openapi::api::core::v1::Pod;

use crate::writer::Payload;

/// What `fsGroup` adds to a file of a read-only volume.
const GROUP_READS: u32 = 0o440;

/// The one user that all containers run as, if there is one.
pub fn user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = crate::containers(pod).map(|container| {
        let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}

pub fn group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Gives the files to the pod's group, which may then read them.
pub fn give_to_group(payload: &mut Payload, pod: &Pod) {
    let Some(group) = group(pod) else { return };
    for file in payload.values_mut() {
        file.group = Some(group);
        file.mode |= GROUP_READS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(spec: Value, expected: (Option<u32>, Option<u32>)) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        assert_eq!((user(&pod), group(&pod)), expected);
    }

    #[test]
    fn files_are_the_one_user_s_that_all_containers_run_as() {
        check(json!({"containers": [{"name": "a"}]}), (None, None));
        check(
            json!({"securityContext": {"runAsUser": 5, "fsGroup": 7}, "containers": [{"name": "a"}]}),
            (Some(5), Some(7)),
        );
        let own = json!({"name": "b", "securityContext": {"runAsUser": 6}});
        check(json!({"securityContext": {"runAsUser": 5}, "containers": [{"name": "a"}, own]}), (None, None));
        check(json!({"initContainers": [own], "containers": [own]}), (Some(6), None));
        check(json!({"containers": [own, {"name": "a"}]}), (None, None));
    }
}
