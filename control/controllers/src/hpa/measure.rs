//! How many replicas one metric asks for.
//!
//! Pure. Source: `k8s.io/kubernetes/pkg/controller/podautoscaler/replica_calculator.go`. Pods without metrics count against a
//! change, never for it: as idle when there is more to do, as busy when there is less.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use wharf_machinery::quantity::Quantity;
use wharf_types::k8s::api::core::v1::{Container, Pod};

use crate::{owners, pods};

/// Until a pod has run for so long, its CPU counts only while it is ready. Upstream's `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that has never been ready may take so long to be. Upstream's `--horizontal-pod-autoscaler-initial-readiness-delay`.
const READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// What a pod used, in thousandths, over the window that ended then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

/// Samples by pod.
pub type Samples = BTreeMap<String, Sample>;

/// What is wanted of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Percent of what pods request.
    Utilization(i32),
    /// Thousandths, of each pod.
    Average(i64),
}

#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// `cpu`, `memory`, …
    pub resource: &'a str,
    /// Of the pod as a whole where none is named.
    pub container: Option<&'a str>,
    pub target: Target,
    pub current: i32,
    /// How far from the target nothing is done: below, above.
    pub tolerance: (f64, f64),
    pub now: Timestamp,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub replicas: i32,
    /// Percent, where pods request anything.
    pub utilization: Option<i32>,
    /// Thousandths, of each pod.
    pub average: i64,
}

struct Groups<'a> {
    ready: usize,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
    ignored: Vec<&'a str>,
}

/// The error is in upstream's words.
pub fn replicas(asked: &Asked<'_>, pods: &[&Pod], samples: &Samples) -> Result<Measured, String> {
    if pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let groups = group(asked, pods, samples);
    let mut known: BTreeMap<&str, i64> = samples.iter().map(|(name, sample)| (name.as_str(), sample.value)).collect();
    known.retain(|name, _| pods.iter().any(|pod| owners::name(*pod) == *name));
    for name in groups.ignored.iter().chain(&groups.unready) {
        known.remove(name);
    }
    if known.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match asked.target {
        Target::Utilization(_) => requests(asked, pods)?,
        Target::Average(_) => BTreeMap::new(),
    };
    let (ratio, utilization, average) = usage(asked.target, &known, &requests)?;
    let measured = |replicas: i32| Ok(Measured { replicas, utilization, average });
    let within = |ratio: f64| is_within(asked.tolerance, ratio);
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return measured(if within(ratio) { asked.current } else { whole(ratio * groups.ready as f64) });
    }
    for name in &groups.missing {
        let assumed = match asked.target {
            _ if ratio >= 1.0 => 0,
            Target::Utilization(target) => requests.get(name).copied().unwrap_or(0) * i64::from(target.max(100)) / 100,
            Target::Average(target) => target,
        };
        known.insert(name, assumed);
    }
    if with_unready {
        known.extend(groups.unready.iter().map(|name| (*name, 0)));
    }
    let (again, ..) = usage(asked.target, &known, &requests)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if within(again) || turned {
        return measured(asked.current);
    }
    let wanted = whole(again * known.len() as f64);
    let backwards = (again < 1.0 && wanted > asked.current) || (again > 1.0 && wanted < asked.current);
    measured(if backwards { asked.current } else { wanted })
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

fn is_within((below, above): (f64, f64), ratio: f64) -> bool {
    (1.0 - below..=1.0 + above).contains(&ratio)
}

/// How many replicas a value asks for that belongs to no pod, where as much of it as `target` is wanted in all. The error is in
/// upstream's words.
pub fn replicas_for_value(
    value: i64,
    target: i64,
    current: i32,
    tolerance: (f64, f64),
    pods: &[&Pod],
) -> Result<i32, String> {
    let ratio = value as f64 / target.max(1) as f64;
    if current == 0 {
        return Ok(whole(ratio));
    }
    if is_within(tolerance, ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err(format!("unable to calculate ready pods: {NO_PODS}"));
    }
    let ready = pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count();
    Ok(whole(ratio * ready as f64))
}

/// How many replicas a value asks for that belongs to no pod, where each pod is to have `target` of it; and how much of it each
/// has now.
pub fn replicas_for_share(value: i64, target: i64, running: i32, tolerance: (f64, f64)) -> (i32, i64) {
    let (total, target) = (value as f64, target.max(1) as f64);
    let ratio = total / (target * f64::from(running));
    let wanted = if is_within(tolerance, ratio) { running } else { whole(total / target) };
    (wanted, (total / f64::from(running.max(1))).ceil() as i64)
}

fn whole(replicas: f64) -> i32 {
    replicas.ceil().min(f64::from(i32::MAX)) as i32
}

fn group<'a>(asked: &Asked<'_>, pods: &[&'a Pod], samples: &Samples) -> Groups<'a> {
    let mut groups = Groups { ready: 0, unready: Vec::new(), missing: Vec::new(), ignored: Vec::new() };
    for pod in pods {
        let name = owners::name(*pod);
        if pod.metadata.deletion_timestamp.is_some() || pods::phase(pod) == "Failed" {
            groups.ignored.push(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.push(name);
        } else {
            match samples.get(name) {
                None => groups.missing.push(name),
                Some(sample) if asked.resource == "cpu" && !counts(pod, sample, asked.now) => groups.unready.push(name),
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether a pod's CPU tells of its work, and not of its start.
fn counts(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return false };
    let turned = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if started.0 + CPU_INITIALIZATION > now {
        return ready.status != "False" && sample.at >= turned + sample.window;
    }
    ready.status != "False" || started.0 + READINESS_DELAY <= turned
}

/// What the pods request, in thousandths.
fn requests<'a>(asked: &Asked<'_>, pods: &[&'a Pod]) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut all = BTreeMap::new();
    for pod in pods {
        let spec = pod.spec.as_ref();
        // Sidecars run as long as the others do.
        let sidecars = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers: Vec<&Container> = spec.into_iter().flat_map(|spec| &spec.containers).chain(sidecars).collect();
        let chosen = |container: &&&Container| asked.container.is_none_or(|name| container.name == name);
        let mut sum = 0;
        for container in containers.iter().filter(chosen) {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let request = requests.and_then(|requests| requests.get(asked.resource));
            let missing = || {
                format!(
                    "missing request for {} in container {} of Pod {}",
                    asked.resource,
                    container.name,
                    owners::name(*pod)
                )
            };
            let quantity = request.and_then(|text| text.0.parse::<Quantity>().ok()).ok_or_else(missing)?;
            sum += quantity.milli_value();
        }
        all.insert(owners::name(*pod), sum);
    }
    Ok(all)
}

/// How much is used against what is wanted; percent of what is requested; and how much a pod uses.
fn usage(
    target: Target,
    known: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
) -> Result<(f64, Option<i32>, i64), String> {
    let count = known.len().max(1) as i64;
    let total: i64 = known.values().sum();
    match target {
        Target::Average(target) => {
            let average = total / count;
            Ok((average as f64 / target.max(1) as f64, None, average))
        }
        Target::Utilization(target) => {
            let both = known.iter().filter_map(|(name, used)| Some((*used, *requests.get(name)?)));
            let (used, requested) = both.fold((0, 0), |(used, requested), (own, wish)| (used + own, requested + wish));
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
            Ok((f64::from(utilization) / f64::from(target.max(1)), Some(utilization), used / count))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    /// `running`, `fresh`, `pending` or `leaving`, each requesting 100m.
    fn pod(name: &str, state: &str) -> Pod {
        let (phase, ready, started, turned) = match state {
            "pending" => ("Pending", "False", "2026-01-01T00:59:50Z", "2026-01-01T00:59:50Z"),
            "fresh" => ("Running", "True", "2026-01-01T00:59:50Z", "2026-01-01T00:59:55Z"),
            _ => ("Running", "True", "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"),
        };
        let deleted = (state == "leaving").then_some(NOW);
        serde_json::from_value(json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": phase, "startTime": started,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": turned}]},
        }))
        .expect("a pod")
    }

    /// Pods as `name state used` (`-` has no metrics), a target in percent, and the replicas that come out.
    fn check(pods: &[(&str, &str, &str)], target: i32, current: i32, expected: Result<i32, &str>) {
        let now: Timestamp = NOW.parse().expect("a time");
        let made: Vec<Pod> = pods.iter().map(|(name, state, _)| pod(name, state)).collect();
        let samples = pods.iter().filter_map(|(name, _, used)| {
            let sample = Sample { value: used.parse().ok()?, at: now, window: SignedDuration::from_secs(10) };
            Some(((*name).to_owned(), sample))
        });
        let asked = Asked {
            resource: "cpu",
            container: None,
            target: Target::Utilization(target),
            current,
            tolerance: (0.1, 0.1),
            now,
        };
        let got = replicas(&asked, &made.iter().collect::<Vec<_>>(), &samples.collect());
        assert_eq!(got.map(|measured| measured.replicas), expected.map_err(str::to_owned), "{pods:?}");
    }

    #[test]
    fn replicas_follow_what_is_used() {
        check(&[("a", "running", "100"), ("b", "running", "100")], 50, 2, Ok(4));
        check(&[("a", "running", "10"), ("b", "running", "30")], 80, 2, Ok(1));
        check(&[("a", "running", "52")], 50, 1, Ok(1));
        check(&[("a", "running", "56")], 50, 1, Ok(2));
    }

    #[test]
    fn pods_without_metrics_never_speed_a_change_up() {
        // Idle when there is more to do, and busy when there is less.
        check(&[("a", "running", "150"), ("b", "running", "-")], 50, 2, Ok(3));
        check(&[("a", "running", "10"), ("b", "running", "-")], 100, 2, Ok(2));
        check(&[("a", "running", "200"), ("b", "pending", "-")], 50, 2, Ok(4));
        check(&[("a", "running", "100"), ("b", "leaving", "100")], 50, 2, Ok(2));
        check(
            &[("a", "fresh", "100")],
            50,
            1,
            Err("did not receive metrics for targeted pods (pods might be unready)"),
        );
    }

    #[test]
    fn pods_must_request_what_is_measured() {
        let mut bare = pod("a", "running");
        bare.spec.as_mut().expect("a spec").containers[0].resources = None;
        let now: Timestamp = NOW.parse().expect("a time");
        let samples = Samples::from([("a".to_owned(), Sample { value: 1, at: now, window: SignedDuration::ZERO })]);
        let asked = |target| Asked { resource: "cpu", container: None, target, current: 1, tolerance: (0.1, 0.1), now };
        let refused = replicas(&asked(Target::Utilization(50)), &[&bare], &samples);
        assert_eq!(refused, Err("missing request for cpu in container c of Pod a".to_owned()));
        let average = replicas(&asked(Target::Average(1)), &[&bare], &samples).expect("no request is needed");
        assert_eq!((average.replicas, average.utilization), (1, None));
    }

    #[test]
    fn a_value_of_no_pod_is_spread_over_those_that_are_ready() {
        let made = [pod("a", "running"), pod("b", "running"), pod("c", "pending")];
        let pods: Vec<&Pod> = made.iter().collect();
        let spread = |value, current, pods: &[&Pod]| replicas_for_value(value, 100, current, (0.1, 0.1), pods);
        assert_eq!(spread(150, 3, &pods), Ok(3));
        assert_eq!(spread(105, 3, &pods), Ok(3), "about as much as is wanted");
        assert_eq!(spread(250, 0, &[]), Ok(3), "from nothing, the value alone counts");
        let why = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
        assert_eq!(spread(250, 1, &[]), Err(why.to_owned()));
    }

    #[test]
    fn each_pod_has_its_share_of_a_value_of_no_pod() {
        let share = |value, running| replicas_for_share(value, 100, running, (0.1, 0.1));
        assert_eq!(share(450, 3), (5, 150));
        assert_eq!(share(310, 3), (3, 104));
        assert_eq!(share(0, 3), (0, 0));
        assert_eq!(share(50, 0), (1, 50));
    }
}
