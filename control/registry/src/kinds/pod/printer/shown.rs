//! What of a pod its row shows, read from the stored text without a copy.

use serde::Deserialize;

use crate::text::Text;

#[derive(Deserialize)]
pub struct Pod<'a> {
    #[serde(borrow)]
    pub metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    pub spec: Option<Spec<'a>>,
    #[serde(borrow)]
    pub status: Option<Status<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub creation_timestamp: Text<'a>,
    #[serde(borrow)]
    pub deletion_timestamp: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec<'a> {
    #[serde(borrow)]
    pub node_name: Text<'a>,
    #[serde(borrow)]
    pub init_containers: Option<Vec<Container<'a>>>,
    pub containers: Option<Vec<Ignored>>,
    #[serde(borrow)]
    pub readiness_gates: Option<Vec<Gate<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub restart_policy: Text<'a>,
}

/// One of which only the number counts.
pub type Ignored = serde::de::IgnoredAny;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gate<'a> {
    #[serde(borrow)]
    pub condition_type: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status<'a> {
    #[serde(borrow)]
    pub phase: Text<'a>,
    #[serde(borrow)]
    pub reason: Text<'a>,
    #[serde(borrow, rename = "podIPs")]
    pub pod_ips: Option<Vec<Address<'a>>>,
    #[serde(borrow)]
    pub nominated_node_name: Text<'a>,
    #[serde(borrow)]
    pub conditions: Option<Vec<Condition<'a>>>,
    #[serde(borrow)]
    pub init_container_statuses: Option<Vec<ContainerStatus<'a>>>,
    #[serde(borrow)]
    pub container_statuses: Option<Vec<ContainerStatus<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Address<'a> {
    #[serde(borrow)]
    pub ip: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Condition<'a> {
    #[serde(borrow)]
    pub r#type: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    pub ready: Option<bool>,
    pub started: Option<bool>,
    pub restart_count: Option<i64>,
    #[serde(borrow)]
    pub state: Option<State<'a>>,
    #[serde(borrow)]
    pub last_state: Option<State<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct State<'a> {
    #[serde(borrow)]
    pub waiting: Option<Waiting<'a>>,
    pub running: Option<Ignored>,
    #[serde(borrow)]
    pub terminated: Option<Terminated<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Waiting<'a> {
    #[serde(borrow)]
    pub reason: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated<'a> {
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    #[serde(borrow)]
    pub reason: Text<'a>,
    #[serde(borrow)]
    pub finished_at: Text<'a>,
}

impl Container<'_> {
    pub fn is_sidecar(&self) -> bool {
        &*self.restart_policy == "Always"
    }
}

impl ContainerStatus<'_> {
    pub fn ended(&self) -> Option<&Terminated<'_>> {
        self.state.as_ref()?.terminated.as_ref()
    }

    /// Why it waits, if it says.
    pub fn waits(&self) -> Option<&str> {
        let reason: &str = &self.state.as_ref()?.waiting.as_ref()?.reason;
        Some(reason).filter(|reason| !reason.is_empty())
    }

    pub fn is_ready(&self) -> bool {
        self.ready == Some(true)
    }
}

impl Status<'_> {
    pub fn has_true(&self, kind: &str) -> bool {
        let mut conditions = self.conditions.iter().flatten();
        conditions.any(|condition| &*condition.r#type == kind && &*condition.status == "True")
    }

    pub fn has_reason(&self, kind: &str, reason: &str) -> bool {
        let mut conditions = self.conditions.iter().flatten();
        conditions.any(|condition| &*condition.r#type == kind && &*condition.reason == reason)
    }
}
