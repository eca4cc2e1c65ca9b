//! `/healthz`, `/livez` and `/readyz`, and the named checks behind them.
//!
//! Source: `k8s.io/apiserver/pkg/server/healthz`. A check is a question that is answered at once, from what a component has noted
//! of itself; it never does I/O of its own. Why a check fails goes to the log, not to the caller.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderValue, Response, StatusCode, header};

use crate::reply::{self, Body};

type Probe = dyn Fn() -> Result<(), String> + Send + Sync;

const ALL: &[Endpoint] = &[Endpoint::Healthz, Endpoint::Livez, Endpoint::Readyz];

/// A named question: are you well?
#[derive(Clone)]
pub struct Check {
    name: Cow<'static, str>,
    asked_by: &'static [Endpoint],
    probe: Arc<Probe>,
}

impl Check {
    /// Asked by all three.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), asked_by: ALL, probe: Arc::new(probe) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Not asked by `/livez`: a restart would not help.
    #[must_use]
    pub fn without_livez(self) -> Self {
        Self { asked_by: &[Endpoint::Healthz, Endpoint::Readyz], ..self }
    }

    pub fn ask(&self) -> Result<(), String> {
        (self.probe)()
    }

    /// Asked by `/readyz` only.
    pub fn readiness(name: &'static str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { asked_by: &[Endpoint::Readyz], ..Self::new(name, probe) }
    }
}

/// What upstream calls the steps of its start, by what they come to here. Monitoring and conformance tests ask for them by name.
pub const SERVES: &[&str] = &[
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];
/// The objects that every cluster has.
pub const BOOTSTRAPPED: &[&str] = &[
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/bootstrap-controller",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
];
/// The roles that every cluster has.
pub const ROLES: &[&str] = &["poststarthook/rbac/bootstrap-roles"];
/// Custom resources and other servers' groups.
pub const EXTENDED: &[&str] = &[
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-discovery-controller",
];

/// A part of the start. Dropped without [`Step::done`], it stays undone.
pub struct Step(Arc<AtomicBool>);

impl Step {
    pub fn done(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All checks. Components add theirs as they start.
pub struct Health {
    checks: ArcSwap<Vec<Check>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { checks: ArcSwap::from_pointee(vec![Check::new("ping", || Ok(()))]) }
    }
}

/// Which of the three was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Healthz,
    Livez,
    Readyz,
}

impl Endpoint {
    /// `/livez/ping` is the check `ping` of `/livez`.
    pub fn parse(path: &str) -> Option<(Self, Option<&str>)> {
        let (first, rest) = match path.strip_prefix('/')?.split_once('/') {
            Some((first, rest)) => (first, Some(rest).filter(|rest| !rest.is_empty())),
            None => (path.strip_prefix('/')?, None),
        };
        let endpoint = match first {
            "healthz" => Endpoint::Healthz,
            "livez" => Endpoint::Livez,
            "readyz" => Endpoint::Readyz,
            _ => return None,
        };
        Some((endpoint, rest))
    }

    fn name(self) -> &'static str {
        match self {
            Endpoint::Healthz => "healthz",
            Endpoint::Livez => "livez",
            Endpoint::Readyz => "readyz",
        }
    }

    fn asks(self, check: &Check) -> bool {
        check.asked_by.contains(&self)
    }
}

impl Health {
    /// Adds a check, or replaces the one of the same name.
    pub fn add(&self, check: Check) {
        self.checks.rcu(|checks| {
            let mut checks: Vec<Check> = checks.iter().filter(|held| held.name != check.name).cloned().collect();
            checks.push(check.clone());
            checks
        });
    }

    /// Adds checks that fail until a step of the start is done.
    pub fn step(&self, names: &[&'static str]) -> Step {
        let done = Arc::new(AtomicBool::new(false));
        for name in names {
            let done = done.clone();
            let probe = move || if done.load(Ordering::Relaxed) { Ok(()) } else { Err("not finished".to_owned()) };
            self.add(Check::new(*name, probe));
        }
        Step(done)
    }

    /// The reply to an endpoint, or to one of its checks; none where there is no such check.
    pub fn answer(&self, endpoint: Endpoint, check: Option<&str>, query: Option<&str>) -> Option<Response<Body>> {
        let checks = self.checks.load();
        let mut asked: Vec<&Check> = checks.iter().filter(|check| endpoint.asks(check)).collect();
        if let Some(name) = check {
            asked.retain(|check| check.name == name);
            asked.first()?;
        }
        let parameters = || query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let verbose = parameters().any(|(name, _)| name == "verbose");
        let excluded: Vec<&str> = parameters()
            .filter(|(name, _)| *name == "exclude")
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
            .collect();
        let (well, lines) = report(&asked, &excluded);
        let name = endpoint.name();
        Some(match (well, verbose) {
            (true, false) => text(StatusCode::OK, "ok".to_owned()),
            (true, true) => text(StatusCode::OK, format!("{lines}{name} check passed\n")),
            (false, _) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{name} check failed\n")),
        })
    }
}

fn report(checks: &[&Check], excluded: &[&str]) -> (bool, String) {
    let (mut well, mut lines) = (true, String::new());
    for check in checks {
        let name = check.name();
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match (check.probe)() {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                tracing::warn!(check = name, why, "unhealthy");
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                well = false;
            }
        }
    }
    let mut unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|check| check.name == **name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(",")));
    }
    (well, lines)
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = reply::bytes(code, "text/plain; charset=utf-8", text);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn health() -> Health {
        let health = Health::default();
        health.add(Check::new("store", || Ok(())));
        health.add(Check::readiness("informers", || Err("not synced".to_owned())));
        health
    }

    async fn check(uri: &str, code: u16, body: &str) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        let (endpoint, name) = Endpoint::parse(path).expect("endpoint");
        let Some(response) = health().answer(endpoint, name, query) else {
            return assert_eq!((code, body), (404, ""), "{uri}");
        };
        assert_eq!(response.status().as_u16(), code, "{uri}");
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        assert_eq!(bytes, body, "{uri}");
    }

    #[tokio::test]
    async fn replies_read_as_upstream_words_them() {
        check("/healthz", 200, "ok").await;
        check("/livez?verbose", 200, "[+]ping ok\n[+]store ok\nlivez check passed\n").await;
        let failed = "[+]ping ok\n[+]store ok\n[-]informers failed: reason withheld\nreadyz check failed\n";
        check("/readyz", 500, failed).await;
        check("/readyz?exclude=informers", 200, "ok").await;
        let excluded = "[+]ping ok\n[+]store ok\n[+]informers excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nreadyz check passed\n";
        check("/readyz?verbose&exclude=informers&exclude=x", 200, excluded).await;
        check("/livez/store", 200, "ok").await;
        check("/readyz/informers", 500, "[-]informers failed: reason withheld\nreadyz check failed\n").await;
        check("/livez/informers", 404, "").await;
        check("/livez/", 200, "ok").await;
    }

    #[test]
    fn other_paths_are_not_endpoints() {
        for path in ["/", "/health", "/healthzz", "healthz"] {
            assert!(Endpoint::parse(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_step_is_unwell_until_it_is_done() {
        let health = Health::default();
        let step = health.step(ROLES);
        let code =
            |health: &Health| health.answer(Endpoint::Readyz, None, None).map(|response| response.status().as_u16());
        assert_eq!(code(&health), Some(500));
        step.done();
        assert_eq!(code(&health), Some(200));
    }
}
