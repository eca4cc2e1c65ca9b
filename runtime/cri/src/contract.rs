//! What every [`Runtime`] must do, as a suite that each implementation's tests run.
//!
//! The claims are CRI's: stop and remove are idempotent (also for what is not known), start happens once, what exited stays
//! listed until it is removed, and a sandbox takes its containers with it. A failed claim panics with its words.
//! Absent on purpose: what only one kind of runtime can show (logs, memory limits, ports); those tests live with it.

use std::any::Any;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::*;

/// How long a claim may take to come true on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An image that is present in the runtime under test.
#[derive(Clone, Debug)]
pub struct Program {
    pub image: String,
    pub image_id: String,
}

/// A runtime and programs that do what their names say.
pub struct Subject {
    pub runtime: Arc<dyn Runtime>,
    pub forever: Program,
    pub exits_0: Program,
    pub exits_3: Program,
    /// Where pods' log directories may be made.
    pub log_root: PathBuf,
    /// Whatever must outlive the claims (a temporary directory).
    pub keep: Box<dyn Any + Send>,
}

/// Runs every claim, each on a subject of its own.
pub async fn suite<F, Fut>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Subject>,
{
    sandboxes_are_made_once(&factory().await).await;
    stop_and_remove_of_a_sandbox_are_idempotent(&factory().await).await;
    create_needs_a_ready_sandbox_and_a_present_image(&factory().await).await;
    a_container_starts_once(&factory().await).await;
    exit_codes_are_told(&factory().await).await;
    stop_ends_what_runs(&factory().await).await;
    a_restart_is_a_new_container(&factory().await).await;
    a_sandbox_takes_its_containers_with_it(&factory().await).await;
    every_change_is_an_event(&factory().await).await;
    exec_needs_a_running_container(&factory().await).await;
    streams_need_something_that_runs(&factory().await).await;
    an_attach_ends_with_its_container(&factory().await).await;
    a_closed_port_refuses(&factory().await).await;
}

impl Subject {
    pub fn sandbox_config(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            hostname: name.into(),
            log_dir: self.log_root.join(name),
            ..Default::default()
        }
    }

    async fn sandbox(&self, name: &str) -> SandboxId {
        self.runtime.run_sandbox(self.sandbox_config(name)).await.expect("a sandbox runs")
    }

    async fn create(&self, sandbox: &SandboxId, name: &str, attempt: u32, program: &Program) -> Result<ContainerId> {
        let config = ContainerConfig {
            name: name.into(),
            attempt,
            image: program.image.clone(),
            image_id: program.image_id.clone(),
            log_path: format!("{name}/{attempt}.log").into(),
            ..Default::default()
        };
        self.runtime.create_container(sandbox, config).await
    }

    async fn start(&self, sandbox: &SandboxId, name: &str, program: &Program) -> ContainerId {
        let id = self.create(sandbox, name, 0, program).await.expect("a container is created");
        self.runtime.start_container(&id).await.expect("a created container starts");
        id
    }

    /// Waits until the container has exited, woken by events as a node would be.
    pub async fn exited(&self, id: &ContainerId) -> ContainerStatus {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                let status = self.runtime.container(id).await.expect("an exited container is still known");
                if status.state == ContainerState::Exited {
                    return status;
                }
                events.next().await.expect("events never end");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container exits and an event says so")
    }
}

async fn sandboxes_are_made_once(subject: &Subject) {
    let runtime = &subject.runtime;
    let first = subject.sandbox("once").await;
    assert_eq!(subject.sandbox("once").await, first, "the same uid and attempt are the same sandbox");
    let other = subject.sandbox("other").await;
    assert_ne!(first, other);
    let status = runtime.sandbox(&first).await.unwrap();
    assert_eq!(status.state, SandboxState::Ready);
    assert!(!status.ips.is_empty(), "a pod has an address");
    assert_ne!(status.ips, runtime.sandbox(&other).await.unwrap().ips, "and nobody else has it");
    assert_eq!(runtime.sandboxes().await.unwrap().len(), 2);

    runtime.stop_sandbox(&first).await.unwrap();
    let again = runtime.run_sandbox(subject.sandbox_config("once")).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "a stopped sandbox is not run again: {again:?}");
    let next = SandboxConfig { attempt: 1, ..subject.sandbox_config("once") };
    assert_ne!(runtime.run_sandbox(next).await.unwrap(), first, "the next attempt is another sandbox");
}

async fn stop_and_remove_of_a_sandbox_are_idempotent(subject: &Subject) {
    let runtime = &subject.runtime;
    let id = subject.sandbox("gone").await;
    for _ in 0..2 {
        runtime.stop_sandbox(&id).await.unwrap();
        assert_eq!(runtime.sandbox(&id).await.unwrap().state, SandboxState::NotReady);
    }
    for _ in 0..2 {
        runtime.remove_sandbox(&id).await.unwrap();
        assert!(matches!(runtime.sandbox(&id).await, Err(Error::NotFound(_))));
    }
    runtime.stop_sandbox(&id).await.expect("stopping what is not known is no error");
    assert!(runtime.sandboxes().await.unwrap().is_empty());
}

async fn create_needs_a_ready_sandbox_and_a_present_image(subject: &Subject) {
    let runtime = &subject.runtime;
    let nowhere = SandboxId("no-such-sandbox".into());
    let created = subject.create(&nowhere, "c", 0, &subject.forever).await;
    assert!(matches!(created, Err(Error::NotFound(_))), "{created:?}");

    let sandbox = subject.sandbox("pod").await;
    let absent = Program { image: "absent".into(), image_id: format!("sha256:{}", "0".repeat(64)) };
    let created = subject.create(&sandbox, "c", 0, &absent).await;
    assert!(matches!(created, Err(Error::Create(_))), "{created:?}");
    assert!(runtime.containers().await.unwrap().is_empty(), "a failed create leaves nothing behind");

    subject.create(&sandbox, "c", 0, &subject.forever).await.unwrap();
    let twice = subject.create(&sandbox, "c", 0, &subject.forever).await;
    assert!(matches!(twice, Err(Error::AlreadyExists(_))), "{twice:?}");

    runtime.stop_sandbox(&sandbox).await.unwrap();
    let late = subject.create(&sandbox, "late", 0, &subject.forever).await;
    assert!(matches!(late, Err(Error::Create(_))), "a stopped sandbox takes no containers: {late:?}");
}

async fn a_container_starts_once(subject: &Subject) {
    let runtime = &subject.runtime;
    let sandbox = subject.sandbox("pod").await;
    let id = subject.create(&sandbox, "c", 0, &subject.forever).await.unwrap();
    let status = runtime.container(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Created);
    assert_eq!((status.started_at, status.finished_at), (None, None));
    assert_eq!(status.log_path, subject.log_root.join("pod").join("c/0.log"));

    runtime.start_container(&id).await.unwrap();
    let status = runtime.container(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
    assert!(status.started_at >= Some(status.created_at));
    assert!(runtime.start_container(&id).await.is_err(), "a running container is not started again");
    runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert!(runtime.start_container(&id).await.is_err(), "nor is one that exited");
    let unknown = runtime.start_container(&ContainerId("no-such-container".into())).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
}

async fn exit_codes_are_told(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    for (name, program, code, reason) in
        [("ok", &subject.exits_0, 0, "Completed"), ("bad", &subject.exits_3, 3, "Error")]
    {
        let id = subject.start(&sandbox, name, program).await;
        let status = subject.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
        assert!(status.finished_at >= status.started_at);
    }
}

async fn stop_ends_what_runs(subject: &Subject) {
    let runtime = &subject.runtime;
    let sandbox = subject.sandbox("pod").await;
    let killed = subject.start(&sandbox, "killed", &subject.forever).await;
    for _ in 0..2 {
        runtime.stop_container(&killed, Duration::ZERO).await.unwrap();
        let status = runtime.container(&killed).await.unwrap();
        assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137), "no grace is a kill");
    }
    let asked = subject.start(&sandbox, "asked", &subject.forever).await;
    runtime.stop_container(&asked, PATIENCE).await.unwrap();
    let status = runtime.container(&asked).await.unwrap();
    assert_eq!(status.state, ContainerState::Exited, "stop returns when it no longer runs");
    assert_ne!(status.exit_code, 137, "a program that heeds SIGTERM is not killed");

    let created = subject.create(&sandbox, "created", 0, &subject.forever).await.unwrap();
    runtime.stop_container(&created, Duration::ZERO).await.expect("stopping what never ran is no error");
    runtime.stop_container(&ContainerId("no-such-container".into()), Duration::ZERO).await.unwrap();
}

async fn a_restart_is_a_new_container(subject: &Subject) {
    let runtime = &subject.runtime;
    let sandbox = subject.sandbox("pod").await;
    let first = subject.start(&sandbox, "c", &subject.exits_3).await;
    subject.exited(&first).await;
    let second = subject.create(&sandbox, "c", 1, &subject.forever).await.unwrap();
    runtime.start_container(&second).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(runtime.container(&first).await.unwrap().exit_code, 3, "the first attempt is still told");
    assert_eq!(runtime.container(&second).await.unwrap().attempt, 1);
    assert_eq!(runtime.containers().await.unwrap().len(), 2);

    for _ in 0..2 {
        runtime.remove_container(&first).await.unwrap();
        assert!(matches!(runtime.container(&first).await, Err(Error::NotFound(_))));
    }
    runtime.remove_container(&second).await.expect("removing a running container kills it");
    assert!(runtime.containers().await.unwrap().is_empty());
}

async fn a_sandbox_takes_its_containers_with_it(subject: &Subject) {
    let runtime = &subject.runtime;
    let (sandbox, other) = (subject.sandbox("pod").await, subject.sandbox("other").await);
    let id = subject.start(&sandbox, "c", &subject.forever).await;
    let survivor = subject.start(&other, "c", &subject.forever).await;
    runtime.stop_sandbox(&sandbox).await.unwrap();
    let status = runtime.container(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Exited, "a stopped sandbox runs nothing");
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(matches!(runtime.container(&id).await, Err(Error::NotFound(_))));
    assert_eq!(runtime.container(&survivor).await.unwrap().state, ContainerState::Running);
    runtime.remove_sandbox(&other).await.expect("a running sandbox is stopped, then removed");
    assert!(runtime.containers().await.unwrap().is_empty());
}

async fn every_change_is_an_event(subject: &Subject) {
    let runtime = &subject.runtime;
    let mut events = runtime.events();
    let next = async |events: &mut futures::stream::BoxStream<'static, RuntimeEvent>, what: &str| {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("an event for: {what}")).expect("events never end");
        assert_eq!(event, RuntimeEvent::Pod { uid: "uid-pod".into() }, "{what}");
    };
    let sandbox = subject.sandbox("pod").await;
    next(&mut events, "sandbox run").await;
    let id = subject.create(&sandbox, "c", 0, &subject.exits_0).await.unwrap();
    next(&mut events, "container created").await;
    runtime.start_container(&id).await.unwrap();
    next(&mut events, "container started").await;
    next(&mut events, "container exited").await;
    assert_eq!(runtime.container(&id).await.unwrap().state, ContainerState::Exited, "the state precedes its event");
    runtime.remove_container(&id).await.unwrap();
    next(&mut events, "container removed").await;
}

async fn exec_needs_a_running_container(subject: &Subject) {
    let runtime = &subject.runtime;
    let sandbox = subject.sandbox("pod").await;
    let id = subject.create(&sandbox, "c", 0, &subject.forever).await.unwrap();
    assert!(runtime.exec_sync(&id, vec!["true".into()], None).await.is_err());
    let unknown = runtime.exec_sync(&ContainerId("none".into()), vec!["true".into()], None).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
}

async fn streams_need_something_that_runs(subject: &Subject) {
    let runtime = &subject.runtime;
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let sandbox = subject.sandbox("pod").await;
    let id = subject.create(&sandbox, "c", 0, &subject.forever).await.unwrap();
    assert!(runtime.exec(&id, vec!["true".into()], wanted.open().0).await.is_err());
    assert!(runtime.attach(&id, wanted.open().0).await.is_err());
    let none = ContainerId("none".into());
    let unknown = runtime.exec(&none, vec!["true".into()], wanted.open().0).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    assert!(matches!(runtime.attach(&none, wanted.open().0).await, Err(Error::NotFound(_))));
    let nowhere = runtime.port_forward(&SandboxId("none".into()), 80).await;
    assert!(matches!(nowhere, Err(Error::NotFound(_))), "{:?}", nowhere.err());
    runtime.stop_sandbox(&sandbox).await.unwrap();
    assert!(runtime.port_forward(&sandbox, 80).await.is_err(), "a stopped sandbox has no ports");
}

async fn an_attach_ends_with_its_container(subject: &Subject) {
    let runtime = &subject.runtime;
    let sandbox = subject.sandbox("pod").await;
    let id = subject.start(&sandbox, "c", &subject.forever).await;
    let (streams, mut ends) = Wanted { stdin: true, stdout: true, stderr: true, tty: false }.open();
    let attached = runtime.attach(&id, streams);
    let stop = async {
        tokio::task::yield_now().await;
        runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    };
    let both = async { tokio::join!(attached, stop) };
    let (attached, ()) = tokio::time::timeout(PATIENCE, both).await.expect("the attach ends");
    // A container that has ended before the attach came refuses it; either way nothing is left open.
    let _ = attached;
    let end = tokio::time::timeout(PATIENCE, ends.stdout.as_mut().expect("stdout").recv()).await;
    assert_eq!(end.expect("stdout ends"), None);
}

async fn a_closed_port_refuses(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let refused = subject.runtime.port_forward(&sandbox, 1).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{:?}", refused.err());
}
