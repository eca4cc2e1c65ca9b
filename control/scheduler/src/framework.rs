//! The extension points of a cycle, and the list of plugins at each.
//!
//! Source: KEP-624 and `k8s.io/kube-scheduler/framework`. Pre-filter and pre-score have no point of their own: what they would
//! compute once for a pod is in [`PodInfo`]. Filters and scores are synchronous; what waits (permit, bind) runs outside the cycle.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cluster::NodeInfo;
use crate::pod::PodInfo;

/// Scores are between 0 and this.
pub const MAX_SCORE: i64 = 100;

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// As upstream words it: `Insufficient cpu`.
    pub reason: String,
    /// The plugin that says so.
    pub plugin: &'static str,
}

/// What happened in the cluster; wakes pods that a plugin has rejected.
#[derive(Clone)]
pub enum Change {
    NodeAdded(Arc<Node>),
    NodeUpdated {
        old: Arc<Node>,
        new: Arc<Node>,
    },
    /// A pod on a node has ended or gone.
    PodGone(Arc<Pod>),
}

/// Keeps a pod out of the queue until it changes.
pub trait PreEnqueue: Send + Sync {
    fn name(&self) -> &'static str;
    /// The reason to wait, if there is one.
    fn hold(&self, pod: &PodInfo) -> Option<String>;
}

pub trait Filter: Send + Sync {
    fn name(&self) -> &'static str;
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection>;
    /// Could this change make a pod fit that this plugin has rejected? (upstream's queueing hint)
    fn hint(&self, pod: &PodInfo, change: &Change) -> bool;
}

pub trait Score: Send + Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64;
    /// Brings the scores of all nodes between 0 and [`MAX_SCORE`]; needed where `score` counts things.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Holds something for a pod between the cycle's decision and the bind.
pub trait Reserve: Send + Sync {
    fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), Rejection>;
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

#[async_trait]
pub trait Permit: Send + Sync {
    /// May take its time; an error sends the pod back.
    async fn permit(&self, pod: &PodInfo, node: &str) -> Result<(), Rejection>;
}

#[async_trait]
pub trait PreBind: Send + Sync {
    async fn pre_bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError>;
}

#[async_trait]
pub trait Bind: Send + Sync {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError>;
}

pub trait PostBind: Send + Sync {
    fn post_bind(&self, pod: &PodInfo, node: &str);
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} of pod {pod}")]
pub struct BindError {
    pub operation: &'static str,
    pub pod: String,
    /// True where the pod is gone or bound already, so that another try has no sense.
    pub settled: bool,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// One scheduler's plugins (upstream's profile). [`crate::plugins::default`] is the default scheduler's.
pub struct Framework {
    pub pre_enqueue: Vec<Box<dyn PreEnqueue>>,
    pub filters: Vec<Box<dyn Filter>>,
    pub scores: Vec<Box<dyn Score>>,
    pub reserves: Vec<Box<dyn Reserve>>,
    pub permits: Vec<Box<dyn Permit>>,
    pub pre_binds: Vec<Box<dyn PreBind>>,
    pub bind: Box<dyn Bind>,
    pub post_binds: Vec<Box<dyn PostBind>>,
}

impl Framework {
    pub fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        self.filters.iter().try_for_each(|plugin| plugin.filter(pod, node))
    }

    pub fn hold(&self, pod: &PodInfo) -> Option<String> {
        self.pre_enqueue.iter().find_map(|plugin| plugin.hold(pod))
    }

    /// Reserves with all plugins or none.
    pub fn reserve(&self, pod: &PodInfo, node: &str) -> Result<(), Rejection> {
        for (done, plugin) in self.reserves.iter().enumerate() {
            if let Err(rejection) = plugin.reserve(pod, node) {
                self.reserves[..done].iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
                return Err(rejection);
            }
        }
        Ok(())
    }

    pub fn unreserve(&self, pod: &PodInfo, node: &str) {
        self.reserves.iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
    }

    /// Everything after the decision: permit, pre-bind, bind, post-bind.
    pub async fn carry_out(&self, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        for plugin in &self.permits {
            plugin.permit(pod, node).await.map_err(|rejection| BindError {
                operation: "permit",
                pod: pod.key.to_string(),
                settled: false,
                source: rejection.reason.into(),
            })?;
        }
        for plugin in &self.pre_binds {
            plugin.pre_bind(pod, node).await?;
        }
        self.bind.bind(pod, node).await?;
        self.post_binds.iter().for_each(|plugin| plugin.post_bind(pod, node));
        Ok(())
    }

    /// Could `change` help a pod that these plugins rejected?
    pub fn helps(&self, pod: &PodInfo, rejected_by: &[&'static str], change: &Change) -> bool {
        let concerned = self.filters.iter().filter(|plugin| rejected_by.contains(&plugin.name()));
        rejected_by.is_empty() || concerned.into_iter().any(|plugin| plugin.hint(pod, change))
    }
}
