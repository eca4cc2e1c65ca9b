//! What a pod's worker knows of its pod: the input of the plan and of the status.
//!
//! Filled from the runtime, from the outcome of steps and, after a restart of the node, from the API's status. Plain data:
//! nothing here acts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus as ApiStatus, Pod};
use wharf_cri::{ContainerId, ContainerState, ContainerStatus, SandboxId};

use crate::backoff::Backoff;
use crate::names;
use crate::probes::Probes;

/// Where a container remembers the image that its spec named: runtimes resolve names, so theirs cannot be compared.
pub const IMAGE_ANNOTATION: &str = "wharf.dev/image";

/// Exit code of a container whose end nobody saw, as upstream's.
const UNKNOWN_EXIT_CODE: i32 = 137;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    Created,
    Running,
    Exited,
}

/// One run of a container.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Restart count of the container when this run began.
    pub number: u32,
    /// None for a run that is known from the API's status only.
    pub id: Option<ContainerId>,
    pub sandbox: Option<SandboxId>,
    /// As the API shows it, with the runtime's scheme in front.
    pub shown_id: String,
    pub image_id: String,
    /// The image as the spec named it; none where that is not known.
    pub image: Option<String>,
    pub state: AttemptState,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
}

impl Attempt {
    pub fn from_runtime(status: ContainerStatus, scheme: &str, image_id: String) -> Self {
        let state = match status.state {
            ContainerState::Created => AttemptState::Created,
            ContainerState::Running => AttemptState::Running,
            ContainerState::Exited | ContainerState::Unknown => AttemptState::Exited,
        };
        Self {
            number: status.attempt,
            shown_id: format!("{scheme}://{}", status.id),
            id: Some(status.id),
            sandbox: Some(status.sandbox),
            image_id,
            image: status.annotations.get(IMAGE_ANNOTATION).cloned(),
            state,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
        }
    }

    pub fn running(&self) -> bool {
        self.state == AttemptState::Running
    }

    /// It runs from another image than `container` asks for.
    pub fn outdated(&self, container: &Container) -> bool {
        self.image.as_deref().is_some_and(|image| Some(image) != container.image.as_deref())
    }

    pub fn exited(&self) -> bool {
        self.state == AttemptState::Exited
    }
}

/// Why a container does not run, until when nothing is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: &'static str,
    pub message: String,
    pub retry_at: Timestamp,
}

/// One container.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub latest: Option<Attempt>,
    pub previous: Option<Attempt>,
    pub trouble: Option<Trouble>,
    pub restart_backoff: Option<Backoff>,
    pub image_backoff: Option<Backoff>,
    /// None until the running container's post-start hook is done.
    pub probes: Option<Probes>,
    /// A probe condemned the running container: the reason, as the event has it.
    pub condemned: Option<String>,
    /// Its end was asked for to start it anew, whatever its exit code will be.
    pub restart_wanted: bool,
}

impl View {
    pub fn running(&self) -> bool {
        self.latest.as_ref().is_some_and(Attempt::running)
    }

    /// Running, past its hook and its startup probe.
    pub fn started(&self) -> bool {
        self.running() && self.probes.as_ref().is_some_and(Probes::started)
    }

    pub fn ready(&self) -> bool {
        self.running() && self.probes.as_ref().is_some_and(Probes::ready)
    }

    pub fn restart_count(&self) -> u32 {
        self.latest.as_ref().map_or(0, |attempt| attempt.number)
    }
}

#[derive(Clone, Debug)]
pub struct Sandbox {
    pub id: SandboxId,
    pub attempt: u32,
    pub ready: bool,
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Pending,
    Mounted,
    /// Mounted, and something that they show has changed.
    Stale,
    Failed {
        retry_at: Timestamp,
    },
}

/// Work that is under way; the plan never asks for the same twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Sandbox,
    Volumes,
    Start(String),
    Stop(String),
    TearDown,
    Delete,
}

/// The node refused the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub start_time: Option<Timestamp>,
    pub sandbox: Option<Sandbox>,
    pub sandbox_retry_at: Option<Timestamp>,
    /// Attempt number for the next sandbox.
    pub next_sandbox: u32,
    pub volumes: Volumes,
    /// In boxes, because a map keeps room for eleven.
    pub containers: BTreeMap<String, Box<View>>,
    pub busy: BTreeSet<Job>,
    /// When each stop under way will have killed its container.
    pub stopping: BTreeMap<String, Timestamp>,
    /// The API no longer has the pod.
    pub removed: bool,
    pub rejected: Option<Rejection>,
    /// When the pod's end was first seen.
    pub ending_since: Option<Timestamp>,
    /// Nothing of the pod is left on the node but its logs.
    pub torn_down: bool,
}

impl Observed {
    pub fn view(&self, container: &str) -> Option<&View> {
        self.containers.get(container).map(Box::as_ref)
    }

    pub fn view_mut(&mut self, container: &str) -> &mut View {
        self.containers.entry(container.to_owned()).or_default()
    }

    /// The container's latest run, if it belongs to the sandbox that stands now.
    pub fn current(&self, container: &str) -> Option<&Attempt> {
        let sandbox = self.sandbox.as_ref().map(|sandbox| &sandbox.id)?;
        self.view(container)?.latest.as_ref().filter(|attempt| attempt.sandbox.as_ref() == Some(sandbox))
    }

    pub fn is_busy(&self, test: impl Fn(&Job) -> bool) -> bool {
        self.busy.iter().any(test)
    }

    /// What the API's status says of a pod that this process sees for the first time.
    ///
    /// The containers of a dead process are gone: one that ran counts as ended in an unknown way and one that had ended
    /// keeps its end, so a finished container never runs twice.
    pub fn recover(pod: &Pod, now: Timestamp) -> Self {
        let status = pod.status.as_ref();
        let start_time = status.and_then(|status| status.start_time.as_ref()).map_or(now, |time| time.0);
        let mut seen = Self { start_time: Some(start_time), ..Self::default() };
        let init = status.and_then(|status| status.init_container_statuses.as_ref());
        let main = status.and_then(|status| status.container_statuses.as_ref());
        for container in init.into_iter().chain(main).flatten() {
            seen.containers.insert(container.name.clone(), Box::new(recover_view(container, now)));
        }
        // A name that the spec no longer has would never be planned for.
        if let Some(spec) = &pod.spec {
            seen.containers.retain(|name, _| names::container(spec, name).is_some());
        }
        seen
    }
}

fn recover_view(status: &ApiStatus, now: Timestamp) -> View {
    let state = status.state.as_ref();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let number = u32::try_from(status.restart_count).unwrap_or(0);
    let attempt = |number, shown_id: Option<&String>| Attempt {
        number,
        id: None,
        sandbox: None,
        shown_id: shown_id.cloned().unwrap_or_default(),
        image_id: status.image_id.clone(),
        image: None,
        state: AttemptState::Exited,
        started_at: None,
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
    };
    let ended = |number, ended: &k8s_openapi::api::core::v1::ContainerStateTerminated| Attempt {
        started_at: ended.started_at.as_ref().map(|time| time.0),
        finished_at: ended.finished_at.as_ref().map(|time| time.0),
        exit_code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone().unwrap_or_default(),
        ..attempt(number, ended.container_id.as_ref())
    };
    let running = state.and_then(|state| state.running.as_ref()).map(|running| Attempt {
        started_at: running.started_at.as_ref().map(|time| time.0),
        finished_at: Some(now),
        exit_code: UNKNOWN_EXIT_CODE,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was deleted.  The container used to be Running"
            .to_owned(),
        ..attempt(number, status.container_id.as_ref())
    });
    let terminated = state.and_then(|state| state.terminated.as_ref()).map(|state| ended(number, state));
    match running.or(terminated) {
        Some(latest) => View {
            latest: Some(latest),
            previous: last.map(|last| ended(number.saturating_sub(1), last)),
            ..View::default()
        },
        // Waiting: what ended last is the latest run there was.
        None => View { latest: last.map(|last| ended(number, last)), ..View::default() },
    }
}
