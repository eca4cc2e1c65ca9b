//! What the node's server may know of a pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use wharf_cri::ContainerId;

use super::Worker;
use crate::observed::View;

#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub pod: Arc<Pod>,
    pub containers: BTreeMap<String, Runs>,
}

/// The runs of a container that have logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub latest: Option<Run>,
    pub previous: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub attempt: u32,
    pub id: Option<ContainerId>,
    pub running: bool,
}

impl Worker {
    pub(super) fn publish(&self) {
        let runs = |view: &View| Runs {
            latest: view.latest.as_ref().map(|attempt| Run {
                attempt: attempt.number,
                id: attempt.id.clone(),
                running: attempt.running(),
            }),
            previous: view.previous.as_ref().map(|attempt| attempt.number),
        };
        let containers = self.seen.containers.iter().map(|(name, view)| (name.clone(), runs(view))).collect();
        let next = Snapshot { pod: self.pod.clone(), containers };
        self.snapshot.send_if_modified(|held| {
            let same = held
                .as_ref()
                .is_some_and(|held| Arc::ptr_eq(&held.pod, &next.pod) && held.containers == next.containers);
            if !same {
                *held = Some(Arc::new(next));
            }
            !same
        });
    }
}
