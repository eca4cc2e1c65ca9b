//! Startup, liveness and readiness: when to probe, and what the answers mean.
//!
//! [`Probes`] is a pure state machine that the pod's worker drives; [`run`] makes one probe. Source of the rules:
//! `k8s.io/kubernetes/pkg/kubelet/prober/worker.go`. Until the startup probe has succeeded the other two do not run.
//! Invariants: at most one probe of a kind is in flight for a container; a probe that is cut off counts as a failure.
//! Absent on purpose: a task or a timer for each probe (the worker's one deadline serves all of them).

mod grpc;
mod http;
mod tcp;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wharf_cri::{ContainerId, Runtime};

use crate::backoff::after;

/// Longest probe output that is kept for an event, as upstream's `maxRespBodyLength`.
pub const MAX_OUTPUT_BYTES: usize = 10 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// As events have it: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// As the reason of a kill has it: `failed liveness probe`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "startup",
            Kind::Liveness => "liveness",
            Kind::Readiness => "readiness",
        }
    }

    pub fn spec(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(String),
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// Readiness or startup changed: the status must be written.
    Changed,
    /// The container must be killed (and restarts if its policy allows).
    Kill,
}

#[derive(Clone, Debug)]
struct Prober {
    period: Duration,
    initial_delay: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    /// The verdict after thresholds.
    holds: bool,
    last: Option<bool>,
    streak: u32,
    due: Timestamp,
    busy: bool,
}

impl Prober {
    fn new(spec: &Probe, holds: bool, started_at: Timestamp) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.map_or(default, |v| u64::try_from(v).unwrap_or(0)))
        };
        let threshold =
            |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default).max(1);
        let initial_delay = seconds(spec.initial_delay_seconds, 0);
        Self {
            period: seconds(spec.period_seconds, 10).max(Duration::from_secs(1)),
            initial_delay,
            success_threshold: threshold(spec.success_threshold, 1),
            failure_threshold: threshold(spec.failure_threshold, 3),
            holds,
            last: None,
            streak: 0,
            due: after(started_at, initial_delay),
            busy: false,
        }
    }

    /// True when the verdict changed or was confirmed at its threshold just now.
    fn record(&mut self, success: bool, now: Timestamp) -> bool {
        self.busy = false;
        self.due = after(now, self.period);
        self.streak = if self.last == Some(success) { self.streak.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.streak < threshold {
            return false;
        }
        let changed = self.holds != success;
        self.holds = success;
        changed || !success
    }
}

/// The probes of one running container.
#[derive(Clone, Debug)]
pub struct Probes {
    startup: Option<Prober>,
    liveness: Option<Prober>,
    readiness: Option<Prober>,
    started_at: Timestamp,
}

impl Probes {
    pub fn new(container: &Container, started_at: Timestamp) -> Self {
        let prober = |kind: Kind, holds| kind.spec(container).map(|spec| Prober::new(spec, holds, started_at));
        Self {
            startup: prober(Kind::Startup, false),
            liveness: prober(Kind::Liveness, true),
            readiness: prober(Kind::Readiness, false),
            started_at,
        }
    }

    /// The startup probe, if there is one, has succeeded.
    pub fn started(&self) -> bool {
        self.startup.as_ref().is_none_or(|probe| probe.holds)
    }

    pub fn ready(&self) -> bool {
        self.started() && self.readiness.as_ref().is_none_or(|probe| probe.holds)
    }

    fn active(&self, kind: Kind) -> Option<&Prober> {
        match kind {
            Kind::Startup => self.startup.as_ref().filter(|probe| !probe.holds),
            _ if !self.started() => None,
            Kind::Liveness => self.liveness.as_ref(),
            Kind::Readiness => self.readiness.as_ref(),
        }
    }

    fn get_mut(&mut self, kind: Kind) -> Option<&mut Prober> {
        match kind {
            Kind::Startup => self.startup.as_mut(),
            Kind::Liveness => self.liveness.as_mut(),
            Kind::Readiness => self.readiness.as_mut(),
        }
    }

    /// The probes to make now; each counts as in flight until [`Probes::record`].
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Kind> {
        let due = |kind: &Kind| self.active(*kind).is_some_and(|probe| !probe.busy && probe.due <= now);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(due).collect();
        for kind in &kinds {
            if let Some(probe) = self.get_mut(*kind) {
                probe.busy = true;
            }
        }
        kinds
    }

    /// When the next probe is due, leaving out those in flight.
    pub fn next_due(&self) -> Option<Timestamp> {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| self.active(kind))
            .filter(|probe| !probe.busy)
            .map(|probe| probe.due)
            .min()
    }

    pub fn record(&mut self, kind: Kind, success: bool, now: Timestamp) -> Verdict {
        let was_started = self.started();
        let Some(probe) = self.get_mut(kind) else { return Verdict::Same };
        if !probe.record(success, now) {
            return Verdict::Same;
        }
        if !success {
            return if kind == Kind::Readiness { Verdict::Changed } else { Verdict::Kill };
        }
        if kind == Kind::Startup && !was_started {
            // The others were held back: their time counts from the container's start, so most are due at once.
            let started_at = self.started_at;
            for probe in [&mut self.liveness, &mut self.readiness].into_iter().flatten() {
                probe.due = after(started_at, probe.initial_delay).max(now);
            }
        }
        Verdict::Changed
    }
}

/// Where a probe goes.
pub struct Target<'a> {
    pub runtime: &'a dyn Runtime,
    pub container: ContainerId,
    pub spec: &'a Container,
    pub pod_ip: Option<IpAddr>,
}

/// Makes one probe, within its timeout.
pub async fn run(probe: &Probe, target: &Target<'_>) -> Outcome {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    match tokio::time::timeout(timeout, run_unbounded(probe, target, timeout)).await {
        Ok(outcome) => outcome,
        Err(_) if probe.exec.is_some() => {
            Outcome::Failure(format!("command timed out: timed out after {}s", timeout.as_secs()))
        }
        Err(_) => {
            Outcome::Failure("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned())
        }
    }
}

async fn run_unbounded(probe: &Probe, target: &Target<'_>, timeout: Duration) -> Outcome {
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default(), timeout).await;
    }
    let result = match (&probe.http_get, &probe.tcp_socket, &probe.grpc) {
        (Some(action), ..) => match address(target, action.host.as_deref(), &action.port) {
            Ok(address) => http::probe(action, address).await,
            Err(error) => Err(error),
        },
        (_, Some(action), _) => match address(target, action.host.as_deref(), &action.port) {
            Ok((host, port)) => tcp::probe(&host, port).await,
            Err(error) => Err(error),
        },
        (_, _, Some(action)) => match address(target, None, &IntOrString::Int(action.port)) {
            Ok((host, port)) => grpc::probe(&host, port, action.service.as_deref().unwrap_or_default()).await,
            Err(error) => Err(error),
        },
        _ => Err(format!("missing probe handler for {}", target.spec.name)),
    };
    result.map_or_else(Outcome::Failure, |()| Outcome::Success)
}

/// Exit code 0 is success; the output goes into the event.
async fn exec(target: &Target<'_>, command: Vec<String>, timeout: Duration) -> Outcome {
    match target.runtime.exec_sync(&target.container, command, Some(timeout)).await {
        Ok(result) if result.exit_code == 0 => Outcome::Success,
        Ok(result) => {
            let mut output = result.stdout;
            output.extend(result.stderr);
            output.truncate(MAX_OUTPUT_BYTES);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) => Outcome::Failure(crate::names::chain(&error)),
    }
}

/// Host and port of a handler. A port may be named after one of the container's.
pub fn address(target: &Target<'_>, host: Option<&str>, port: &IntOrString) -> Result<(String, u16), String> {
    let port = port_number(target.spec, port)?;
    let host = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.to_owned(),
        None => target.pod_ip.ok_or("pod has no address yet")?.to_string(),
    };
    Ok((host, port))
}

fn port_number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
                named
                    .map(|port| port.container_port)
                    .ok_or_else(|| format!("couldn't find port: {name:?} in container {:?}", container.name))?
            }
        },
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// An HTTP handler of a lifecycle hook.
pub async fn hook(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), String> {
    let address = address(target, action.host.as_deref(), &action.port)?;
    http::probe(action, address).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn container(probes: serde_json::Value) -> Container {
        let mut all = json!({"name": "c"});
        all.as_object_mut().unwrap().extend(probes.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    /// Feeds results `+` and `-` at one-second steps; writes `r`/`n` for ready or not after each, `K` for a kill.
    fn check(probes: serde_json::Value, kind: Kind, results: &str, expected: &str) {
        let mut probes = Probes::new(&container(probes), at(0));
        let mut seen = String::new();
        for (second, result) in results.chars().enumerate() {
            let verdict = probes.record(kind, result == '+', at(second as i64));
            seen.push(match verdict {
                Verdict::Kill => 'K',
                _ if probes.ready() => 'r',
                _ => 'n',
            });
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn readiness_follows_its_thresholds() {
        let probe = json!({"readinessProbe": {"successThreshold": 2, "failureThreshold": 3}});
        check(probe, Kind::Readiness, "+-++---+", "nnnrrrnn");
    }

    #[test]
    fn liveness_kills_at_its_threshold() {
        check(json!({"livenessProbe": {"failureThreshold": 2}}), Kind::Liveness, "-+--", "rrrK");
    }

    #[test]
    fn startup_holds_the_others_back() {
        check(json!({"startupProbe": {"failureThreshold": 3}}), Kind::Startup, "--+", "nnr");
        check(json!({"startupProbe": {"failureThreshold": 2}}), Kind::Startup, "--", "nK");
        let spec = json!({"startupProbe": {"periodSeconds": 5}, "readinessProbe": {"initialDelaySeconds": 3}});
        let mut probes = Probes::new(&container(spec), at(0));
        assert_eq!(probes.take_due(at(10)), [Kind::Startup]);
        assert_eq!(probes.take_due(at(10)), [], "one in flight");
        assert_eq!(probes.record(Kind::Startup, true, at(10)), Verdict::Changed);
        assert_eq!(probes.take_due(at(10)), [Kind::Readiness]);
        assert_eq!(probes.next_due(), None);
    }

    #[test]
    fn the_first_probe_waits_for_its_delay_and_the_next_for_the_period() {
        let mut probes =
            Probes::new(&container(json!({"readinessProbe": {"initialDelaySeconds": 2, "periodSeconds": 7}})), at(0));
        assert_eq!(probes.next_due(), Some(at(2)));
        probes.record(Kind::Readiness, false, at(3));
        assert_eq!(probes.next_due(), Some(at(10)));
    }

    #[test]
    fn ports_are_numbers_or_names_of_the_container() {
        let container = container(json!({"ports": [{"name": "http", "containerPort": 8080}]}));
        for (port, expected) in [
            (IntOrString::Int(80), Ok(80)),
            (IntOrString::String("http".into()), Ok(8080)),
            (IntOrString::String("81".into()), Ok(81)),
            (IntOrString::Int(0), Err("invalid port number: 0".to_owned())),
            (IntOrString::String("x".into()), Err("couldn't find port: \"x\" in container \"c\"".to_owned())),
        ] {
            assert_eq!(port_number(&container, &port), expected);
        }
    }
}
