//! `/metrics/resource`: counters in Prometheus' text, each with the time of its reading.

use std::fmt::Write;

use jiff::Timestamp;

use super::{ContainerReading, PodReading, Readings};
use crate::names;

/// Name, kind and what it is for, in upstream's order.
const FAMILIES: [(&str, &str, &str); 8] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds"),
    ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds"),
    ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes"),
    ("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise"),
];

pub(super) fn text(readings: &Readings) -> String {
    let mut out = String::new();
    for (name, kind, help) in FAMILIES {
        let _ = write!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n");
        for (labels, value, at) in samples(name, readings) {
            let at = at.map(|at| format!(" {}", at.as_millisecond())).unwrap_or_default();
            let _ = writeln!(out, "{name}{labels} {value}{at}");
        }
    }
    out
}

/// Labels, value and time.
type Sample = (String, String, Option<Timestamp>);

fn samples(family: &str, readings: &Readings) -> Vec<Sample> {
    let node = &readings.node;
    let containers = |value: &dyn Fn(&PodReading, &ContainerReading) -> Option<String>| -> Vec<Sample> {
        let all = readings.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
        let told = all.filter_map(|(pod, container)| {
            let (of, name) = (labels(pod), &container.name);
            Some((format!("{{container=\"{name}\",{of}}}"), value(pod, container)?, Some(container.at)))
        });
        told.collect()
    };
    let pods = |value: &dyn Fn(&ContainerReading) -> u64, shown: &dyn Fn(u64) -> String| -> Vec<Sample> {
        let told = readings.pods.iter().filter_map(|pod| {
            let at = pod.containers.iter().map(|container| container.at).max()?;
            let sum = pod.containers.iter().map(value).sum();
            Some((format!("{{{}}}", labels(pod)), shown(sum), Some(at)))
        });
        told.collect()
    };
    match family {
        "container_cpu_usage_seconds_total" => containers(&|_, it| Some(seconds(it.stats.cpu_usage_core_nanos))),
        "container_memory_working_set_bytes" => {
            containers(&|_, it| Some(it.stats.memory_working_set_bytes.to_string()))
        }
        "container_start_time_seconds" => containers(&|pod, it| {
            let status = pod.snapshot.pod.status.as_ref()?.container_statuses.as_ref()?;
            let running = status.iter().find(|status| status.name == it.name)?.state.as_ref()?.running.as_ref()?;
            Some(running.started_at.as_ref()?.0.as_second().to_string())
        }),
        "node_cpu_usage_seconds_total" => vec![(String::new(), seconds(node.cpu_nanos), Some(node.at))],
        "node_memory_working_set_bytes" => {
            vec![(String::new(), node.memory_working_set_bytes.to_string(), Some(node.at))]
        }
        "pod_cpu_usage_seconds_total" => pods(&|it| it.stats.cpu_usage_core_nanos, &seconds),
        "pod_memory_working_set_bytes" => pods(&|it| it.stats.memory_working_set_bytes, &|sum| sum.to_string()),
        _ => vec![(String::new(), "0".to_owned(), None)],
    }
}

fn labels(pod: &PodReading) -> String {
    let pod = &pod.snapshot.pod;
    format!("namespace=\"{}\",pod=\"{}\"", names::namespace(pod), names::name(pod))
}

fn seconds(nanos: u64) -> String {
    (nanos as f64 / 1e9).to_string()
}
