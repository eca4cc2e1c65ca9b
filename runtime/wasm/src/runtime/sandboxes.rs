//! The sandboxes of a runtime, and which containers they have.
//!
//! Invariant: what is entered here has its name to itself; an address is given back when no sandbox of its pod is in use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use wharf_cri::{ContainerId, Error, Result, Runtime, SandboxConfig, SandboxId, SandboxState, SandboxStatus};

use super::{WasmRuntime, internal, new_id, not_found};
use crate::container::Container;
use crate::pod::Pod;

#[derive(Default)]
pub(super) struct State {
    pub(super) sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// Sandboxes by pod UID and attempt.
    pub(super) by_pod: BTreeMap<(String, u32), SandboxId>,
    pub(super) containers: BTreeMap<ContainerId, Arc<Container>>,
}

pub(super) struct Sandbox {
    pub(super) status: SandboxStatus,
    pub(super) pod: Arc<Pod>,
    /// Its containers, by name and attempt.
    pub(super) containers: BTreeMap<(String, u32), ContainerId>,
}

impl State {
    /// The sandbox, if it is ready and has no such container yet.
    pub(super) fn room_for(&mut self, id: &SandboxId, name: &str, attempt: u32) -> Result<&mut Sandbox> {
        let sandbox = self.sandboxes.get_mut(id).ok_or_else(|| not_found("sandbox", id))?;
        if sandbox.status.state != SandboxState::Ready {
            return Err(Error::Create(format!("sandbox {id} is not running")));
        }
        if sandbox.containers.contains_key(&(name.to_owned(), attempt)) {
            return Err(Error::AlreadyExists(format!("container {name} attempt {attempt}")));
        }
        Ok(sandbox)
    }

    pub(super) fn forget(&mut self, id: &ContainerId, container: &Container) -> bool {
        let status = container.status();
        if let Some(sandbox) = self.sandboxes.get_mut(&status.sandbox) {
            sandbox.containers.remove(&(status.name, status.attempt));
        }
        self.containers.remove(id).is_some()
    }

    /// Whether any sandbox of the pod is still in use.
    pub(super) fn in_use(&self, uid: &str) -> bool {
        let of_pod = self.by_pod.range((uid.to_owned(), 0)..=(uid.to_owned(), u32::MAX));
        of_pod.filter_map(|(_, id)| self.sandboxes.get(id)).any(|sandbox| sandbox.status.state == SandboxState::Ready)
    }
}

impl WasmRuntime {
    pub(super) async fn begin_sandbox(&self, config: SandboxConfig) -> Result<SandboxId> {
        let uid = config.uid.clone();
        let id = {
            let mut state = self.state.lock();
            let key = (uid.clone(), config.attempt);
            match state.by_pod.get(&key).and_then(|id| state.sandboxes.get(id)).map(|sandbox| &sandbox.status) {
                Some(status) if status.state == SandboxState::Ready => return Ok(status.id.clone()),
                Some(status) => return Err(Error::AlreadyExists(format!("sandbox {}", status.id))),
                None => {}
            }
            let (hostname, searches, network) =
                (config.hostname.clone(), config.dns.searches.clone(), self.network.clone());
            let pod = if config.host_network {
                Pod::on_host(uid.clone(), hostname, searches, network)
            } else {
                let address = self.network.allocate(&uid).map_err(internal("allocate a pod address"))?;
                Pod::new(uid.clone(), hostname, searches, address, network)
            };
            let id = SandboxId(new_id());
            let status = SandboxStatus {
                id: id.clone(),
                config,
                state: SandboxState::Ready,
                created_at: (self.context.clock)(),
                ips: pod.ip().into_iter().collect(),
            };
            state.by_pod.insert(key, id.clone());
            let sandbox = Sandbox { status, pod: Arc::new(pod), containers: BTreeMap::new() };
            state.sandboxes.insert(id.clone(), sandbox);
            id
        };
        self.events_hub().pod(&uid);
        Ok(id)
    }

    pub(super) async fn end_sandbox(&self, id: &SandboxId) -> Result<()> {
        let uid = {
            let mut state = self.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
            if sandbox.status.state == SandboxState::NotReady {
                return Ok(());
            }
            sandbox.status.state = SandboxState::NotReady;
            sandbox.status.config.uid.clone()
        };
        let containers = self.containers_of(id);
        join_all(containers.iter().map(|(_, container)| container.stop(Duration::ZERO))).await;
        {
            let state = self.state.lock();
            // The pod's next sandbox may have been given the same address already.
            if !state.in_use(&uid) {
                self.network.release(&uid);
            }
        }
        self.events_hub().pod(&uid);
        Ok(())
    }

    pub(super) async fn forget_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.end_sandbox(id).await?;
        for (container, _) in self.containers_of(id) {
            self.remove_container(&container).await?;
        }
        let removed = {
            let mut state = self.state.lock();
            let removed = state.sandboxes.remove(id);
            if let Some(sandbox) = &removed {
                state.by_pod.remove(&(sandbox.status.config.uid.clone(), sandbox.status.config.attempt));
            }
            removed
        };
        if let Some(sandbox) = removed {
            self.events_hub().pod(&sandbox.status.config.uid);
        }
        Ok(())
    }
}
