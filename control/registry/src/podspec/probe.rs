//! Probes and lifecycle hooks. Source: `validateProbe`, `validateHandler`, `validateLifecycle`.

use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};

use crate::checks;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Liveness,
    Readiness,
    Startup,
}

pub fn validate(probe: &Probe, role: Role, path: &Path) -> Errors {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    let mut errors = handler.validate(0, path);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.extend(checks::non_negative(value.unwrap_or_default(), &path.child(field)));
    }
    let grace = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.push(Error::invalid(&grace, seconds, "must be greater than 0"));
    }
    match (role, probe.termination_grace_period_seconds) {
        (Role::Readiness, Some(seconds)) => {
            errors.push(Error::invalid(&grace, seconds, "must not be set for readinessProbes"));
        }
        (Role::Readiness, None) => {}
        (Role::Liveness | Role::Startup, _) => {
            // One success is enough to live.
            if let Some(successes) = probe.success_threshold.filter(|successes| *successes != 1) {
                errors.push(Error::invalid(&path.child("successThreshold"), successes, "must be 1"));
            }
        }
    }
    errors
}

/// `grace_s` is the pod's termination grace period, which bounds a sleep.
pub fn validate_lifecycle(lifecycle: &Lifecycle, grace_s: i64, path: &Path) -> Errors {
    let hooks = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    let set = hooks.into_iter().filter_map(|(field, hook)| hook.as_ref().map(|hook| (field, hook)));
    set.flat_map(|(field, hook)| Handler::of(hook).validate(grace_s, &path.child(field))).collect()
}

/// What a probe or a hook does: one of these.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> Handler<'a> {
    fn of(hook: &'a LifecycleHandler) -> Self {
        Self {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        }
    }

    fn validate(&self, grace_s: i64, path: &Path) -> Errors {
        let found: Vec<(&str, Errors)> = [
            self.exec.map(|exec| ("exec", validate_exec(exec, &path.child("exec")))),
            self.http_get.map(|get| ("httpGet", validate_http_get(get, &path.child("httpGet")))),
            self.tcp_socket.map(|tcp| {
                ("tcpSocket", checks::port_number_or_name(&tcp.port, &path.child("tcpSocket").child("port")))
            }),
            self.grpc.map(|grpc| ("grpc", checks::port_number(grpc.port, &path.child("grpc").child("port")))),
            self.sleep.map(|sleep| ("sleep", validate_sleep(sleep, grace_s, &path.child("sleep")))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if found.is_empty() {
            return vec![Error::required(path, "must specify a handler type")];
        }
        let mut errors = Vec::new();
        for (index, (field, wrong)) in found.into_iter().enumerate() {
            if index == 0 {
                errors.extend(wrong);
            } else {
                errors.push(Error::forbidden(&path.child(field), "may not specify more than 1 handler type"));
            }
        }
        errors
    }
}

fn validate_exec(exec: &ExecAction, path: &Path) -> Errors {
    match exec.command.as_deref().unwrap_or_default() {
        [] => vec![Error::required(&path.child("command"), "")],
        _ => Vec::new(),
    }
}

fn validate_http_get(get: &HTTPGetAction, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if get.path.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    errors.extend(checks::port_number_or_name(&get.port, &path.child("port")));
    errors.extend(checks::one_of(get.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"], &path.child("scheme")));
    for header in get.http_headers.iter().flatten() {
        if header.name.is_empty() || !header.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(Error::invalid(&path.child("httpHeaders"), &header.name, why));
        }
    }
    errors
}

fn validate_sleep(sleep: &SleepAction, grace_s: i64, path: &Path) -> Errors {
    if sleep.seconds >= 0 && sleep.seconds <= grace_s {
        return Vec::new();
    }
    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
    vec![Error::invalid(path, sleep.seconds, why)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::defaults;
    use wharf_types::k8s::api::core::v1::PodSpec;

    #[track_caller]
    fn check(role: Role, probe: &str, expected: &[&str]) {
        let field = match role {
            Role::Liveness => "livenessProbe",
            Role::Readiness => "readinessProbe",
            Role::Startup => "startupProbe",
        };
        let mut spec: PodSpec =
            serde_yaml::from_str(&format!("{{containers: [{{name: a, {field}: {probe}}}]}}")).unwrap();
        defaults::pod(&mut spec);
        let container = &spec.containers[0];
        let given = container
            .liveness_probe
            .as_ref()
            .or(container.readiness_probe.as_ref())
            .or(container.startup_probe.as_ref());
        let errors: Vec<String> =
            validate(given.unwrap(), role, &Path::new("p")).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    }

    #[test]
    fn a_probe_does_one_thing() {
        check(Role::Liveness, "{httpGet: {port: 80}}", &[]);
        check(Role::Liveness, "{}", &["p: Required value: must specify a handler type"]);
        check(
            Role::Liveness,
            "{httpGet: {port: 80}, exec: {command: [a]}}",
            &["p.httpGet: Forbidden: may not specify more than 1 handler type"],
        );
        check(Role::Liveness, "{exec: {}}", &["p.exec.command: Required value"]);
        check(
            Role::Liveness,
            "{httpGet: {port: 0, scheme: FTP}}",
            &[
                "p.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "p.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ],
        );
    }

    #[test]
    fn numbers_fit_the_role() {
        check(
            Role::Liveness,
            "{tcpSocket: {port: web}, successThreshold: 2}",
            &["p.successThreshold: Invalid value: 2: must be 1"],
        );
        check(Role::Readiness, "{tcpSocket: {port: web}, successThreshold: 2}", &[]);
        check(
            Role::Readiness,
            "{tcpSocket: {port: web}, terminationGracePeriodSeconds: 5}",
            &["p.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes"],
        );
        check(
            Role::Startup,
            "{tcpSocket: {port: web}, periodSeconds: -1}",
            &["p.periodSeconds: Invalid value: -1: must be greater than or equal to 0"],
        );
    }
}
