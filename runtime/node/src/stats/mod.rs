//! What the node and its pods use, as `/stats/summary` and `/metrics/resource` tell it.
//!
//! Read when somebody asks, and only then: there is no loop that takes samples. A rate needs two readings of a counter, so the last
//! one of each is kept; where it is too old or there is none, the asker waits for [`Meter::SHORTEST`] until there are two.
//! Source: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`, `pkg/kubelet/metrics/collectors/resource_metrics.go`.
//! Absent on purpose: network interfaces, volumes, accelerators.

mod machine;
mod meter;
mod resource;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_cri::{ContainerId, ContainerStats};

use crate::context::Context;
use crate::names;
use crate::pods::Pods;
use crate::worker::Snapshot;
pub use machine::Machine;
use meter::{Meter, Rate};

/// How much of a summary is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    All,
    /// `?only_cpu_and_memory=true`: nothing that reads the disk.
    CpuAndMemory,
}

/// Whose counter it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Node,
    Container(ContainerId),
}

pub struct Stats {
    ctx: Arc<Context>,
    pods: Pods,
    node: String,
    started: Timestamp,
    machine: Machine,
    data_dir: PathBuf,
    meters: Mutex<HashMap<Subject, Meter>>,
}

/// One reading of everything.
struct Readings {
    node: machine::Usage,
    node_rate: Option<Rate>,
    pods: Vec<PodReading>,
}

struct PodReading {
    snapshot: Arc<Snapshot>,
    containers: Vec<ContainerReading>,
}

struct ContainerReading {
    name: String,
    at: Timestamp,
    stats: ContainerStats,
    rate: Option<Rate>,
}

impl Stats {
    pub fn new(ctx: Arc<Context>, pods: Pods, node: String, machine: Machine) -> Self {
        let (started, data_dir) = (ctx.now(), ctx.data_dir.clone());
        Self { ctx, pods, node, started, machine, data_dir, meters: Mutex::default() }
    }

    /// `/stats/summary`
    pub async fn summary(&self, detail: Detail) -> Value {
        let mut readings = self.read(detail).await;
        if readings.lacks_rates() {
            tokio::time::sleep(Meter::SHORTEST).await;
            readings = self.read(detail).await;
        }
        let Readings { node, node_rate, pods } = &readings;
        let pods: Vec<Value> = pods.iter().map(|pod| self.pod(pod, detail)).collect();
        let mut told = json!({
            "nodeName": self.node,
            "startTime": self.started,
            "cpu": cpu(node.at, node.cpu_nanos, node_rate.as_ref().into_iter()),
            "memory": {
                "time": node.at, "availableBytes": node.memory_available_bytes, "usageBytes": node.memory_usage_bytes,
                "workingSetBytes": node.memory_working_set_bytes, "rssBytes": node.memory_rss_bytes,
            },
        });
        if detail == Detail::All
            && let Ok(disk) = nix::sys::statvfs::statvfs(&self.data_dir)
        {
            let (unit, total) = (disk.fragment_size(), disk.blocks());
            told["fs"] = json!({
                "time": node.at, "capacityBytes": total * unit, "availableBytes": disk.blocks_available() * unit,
                "usedBytes": (total - disk.blocks_free()) * unit, "inodes": disk.files(), "inodesFree": disk.files_free(),
                "inodesUsed": disk.files() - disk.files_free(),
            });
        }
        json!({ "node": told, "pods": pods })
    }

    /// `/metrics/resource`, which has counters alone.
    pub async fn resource_metrics(&self) -> String {
        resource::text(&self.read(Detail::CpuAndMemory).await)
    }

    async fn read(&self, detail: Detail) -> Readings {
        let snapshots = self.pods.snapshots();
        let mut pods = Vec::with_capacity(snapshots.len());
        let mut met = Vec::new();
        for snapshot in snapshots {
            let mut containers = Vec::new();
            let running = snapshot.containers.iter().filter_map(|(name, runs)| {
                let run = runs.latest.as_ref().filter(|run| run.running)?;
                Some((name, run.id.as_ref()?))
            });
            for (name, id) in running {
                let stats = match detail {
                    Detail::All => self.ctx.runtime.stats(id).await,
                    Detail::CpuAndMemory => self.ctx.runtime.cpu_and_memory(id).await,
                };
                // One that has ended meanwhile uses nothing.
                let Ok(stats) = stats else { continue };
                let at = self.ctx.now();
                let subject = Subject::Container(id.clone());
                let rate = self.meters.lock().entry(subject.clone()).or_default().read(at, stats.cpu_usage_core_nanos);
                met.push(subject);
                containers.push(ContainerReading { name: name.clone(), at, stats, rate });
            }
            pods.push(PodReading { snapshot, containers });
        }
        let node = self.machine.usage(self.ctx.now());
        let node_rate = {
            let mut meters = self.meters.lock();
            met.push(Subject::Node);
            let met: std::collections::HashSet<Subject> = met.into_iter().collect();
            meters.retain(|subject, _| met.contains(subject));
            meters.entry(Subject::Node).or_default().read(node.at, node.cpu_nanos)
        };
        Readings { node, node_rate, pods }
    }

    fn pod(&self, reading: &PodReading, detail: Detail) -> Value {
        let pod = &reading.snapshot.pod;
        let status = pod.status.as_ref();
        let now = self.ctx.now();
        let at = reading.containers.iter().map(|container| container.at).max().unwrap_or(now);
        let sum = |of: fn(&ContainerStats) -> u64| reading.containers.iter().map(|it| of(&it.stats)).sum::<u64>();
        let containers: Vec<Value> = reading
            .containers
            .iter()
            .map(|ContainerReading { name, at, stats, rate }| {
                let started = status
                    .and_then(|status| status.container_statuses.as_ref()?.iter().find(|status| status.name == *name))
                    .and_then(|status| status.state.as_ref()?.running.as_ref()?.started_at.clone());
                let mut told = json!({
                    "name": name,
                    "startTime": started,
                    "cpu": cpu(*at, stats.cpu_usage_core_nanos, rate.iter()),
                    "memory": memory(*at, stats.memory_working_set_bytes, stats.memory_rss_bytes),
                });
                if detail == Detail::All {
                    told["rootfs"] = json!({ "time": at, "usedBytes": stats.rootfs_used_bytes });
                }
                told
            })
            .collect();
        json!({
            "podRef": { "name": names::name(pod), "namespace": names::namespace(pod), "uid": names::uid(pod) },
            "startTime": status.and_then(|status| status.start_time.clone()),
            "containers": containers,
            "cpu": cpu(at, sum(|it| it.cpu_usage_core_nanos), reading.containers.iter().filter_map(|it| it.rate.as_ref())),
            "memory": memory(at, sum(|it| it.memory_working_set_bytes), sum(|it| it.memory_rss_bytes)),
        })
    }
}

impl Readings {
    fn lacks_rates(&self) -> bool {
        let containers = || self.pods.iter().flat_map(|pod| &pod.containers);
        self.node_rate.is_none() || containers().any(|container| container.rate.is_none())
    }
}

/// `window` is ours: over how long the rate was measured, as Go writes a duration.
fn cpu<'a>(at: Timestamp, total: u64, rates: impl Iterator<Item = &'a Rate>) -> Value {
    let mut told = json!({ "time": at, "usageCoreNanoSeconds": total });
    let (rate, window) = rates.fold((None, 0.0_f64), |(sum, longest), rate| {
        (Some(sum.unwrap_or(0) + rate.nano_cores), longest.max(rate.window.as_secs_f64()))
    });
    if let Some(rate) = rate {
        told["usageNanoCores"] = rate.into();
        told["window"] = format!("{window:.3}s").into();
    }
    told
}

fn memory(at: Timestamp, working_set: u64, rss: u64) -> Value {
    json!({ "time": at, "usageBytes": working_set, "workingSetBytes": working_set, "rssBytes": rss })
}
