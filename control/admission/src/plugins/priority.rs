//! Computes a pod's priority from the name of its class, and lets there be one default class only.
//!
//! Source: `plugin/pkg/admission/priority`. Where the cluster has no PriorityClass that says `globalDefault`, the default is 0.

use std::sync::Arc;

use async_trait::async_trait;
use wharf_types::k8s::api::core::v1::Pod;
use wharf_types::k8s::api::scheduling::v1::PriorityClass;
use wharf_types::{ApiError, Gvr};

use crate::memo::Memo;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const DEFAULT_PRIORITY: i32 = 0;
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";
const PRIORITY_CLASSES: Gvr = Gvr {
    group: std::borrow::Cow::Borrowed("scheduling.k8s.io"),
    version: std::borrow::Cow::Borrowed("v1"),
    resource: std::borrow::Cow::Borrowed("priorityclasses"),
};

/// Remembers the default class until a PriorityClass changes: every pod that names none asks for it.
#[derive(Default)]
pub struct Priority {
    default: Memo<u64, Class>,
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        match write.operation {
            Operation::Create => self.on_create(write, cluster),
            _ => {
                keep(write);
                Ok(())
            }
        }
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("scheduling.k8s.io", "priorityclasses") {
            return Ok(());
        }
        let asks = write.new_as::<PriorityClass>().is_some_and(|class| class.global_default == Some(true));
        let Some(held) = asks.then(|| default_class(cluster)).flatten().and_then(|class| class.metadata.name) else {
            return Ok(());
        };
        // The default class may be written again; another one takes no place that is taken.
        if write.operation == Operation::Update && held == write.name {
            return Ok(());
        }
        let why = format!("PriorityClass {held} is already marked as default. Only one default can exist");
        Err(write.forbidden(why))
    }
}

/// What a class stands for.
#[derive(Clone)]
struct Class {
    name: Option<String>,
    value: i32,
    preemption: String,
}

impl Priority {
    fn on_create(&self, write: &mut Attributes, cluster: &dyn Reader) -> Result<(), ApiError> {
        let Some(spec) = write.new_as::<Pod>().and_then(|pod| pod.spec.as_ref()) else { return Ok(()) };
        let class = match spec.priority_class_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => named(name, cluster)
                .ok_or_else(|| write.forbidden(format_args!("no PriorityClass with name {name} was found")))?,
            None => self.default_class(cluster),
        };
        if let Some(given) = spec.priority.filter(|given| *given != class.value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.value
            );
            return Err(write.forbidden(why));
        }
        if let Some(given) = spec.preemption_policy.as_deref().filter(|given| *given != class.preemption) {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.preemption
            );
            return Err(write.forbidden(why));
        }
        if let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) {
            spec.priority = Some(class.value);
            spec.preemption_policy = Some(class.preemption);
            spec.priority_class_name = class.name;
        }
        Ok(())
    }

    fn default_class(&self, cluster: &dyn Reader) -> Class {
        let none = || Class { name: None, value: DEFAULT_PRIORITY, preemption: DEFAULT_PREEMPTION.to_owned() };
        let read = || Arc::new(default_class(cluster).as_ref().map_or_else(none, class));
        Class::clone(&self.default.at(cluster.revision(&PRIORITY_CLASSES), read))
    }
}

/// An update that leaves the computed fields out means to keep them.
fn keep(write: &mut Attributes) {
    let Some(old) = write.old_as::<Pod>().and_then(|pod| pod.spec.as_ref()) else { return };
    let (priority, preemption) = (old.priority, old.preemption_policy.clone());
    if let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) {
        spec.priority = spec.priority.or(priority);
        spec.preemption_policy = spec.preemption_policy.take().or(preemption);
    }
}

fn named(name: &str, cluster: &dyn Reader) -> Option<Class> {
    cluster.get(&PRIORITY_CLASSES, None, name)?.downcast_ref().map(class)
}

/// Of several default classes the lowest counts, as upstream.
fn default_class(cluster: &dyn Reader) -> Option<PriorityClass> {
    let classes = cluster.list(&PRIORITY_CLASSES, None);
    let defaults = classes.iter().filter_map(|object| object.downcast_ref::<PriorityClass>());
    let defaults = defaults.filter(|class| class.global_default == Some(true));
    defaults.min_by_key(|class| class.value.unwrap_or_default()).cloned()
}

fn class(object: &PriorityClass) -> Class {
    let preemption = object.preemption_policy.clone().unwrap_or_else(|| DEFAULT_PREEMPTION.to_owned());
    Class { name: object.metadata.name.clone(), value: object.value.unwrap_or_default(), preemption }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut all = json!({"containers": []});
        all.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        json(json!({"metadata": {"name": "web"}, "spec": all}))
    }

    fn class(name: &str, value: i32, more: Value) -> PriorityClass {
        let mut class = json!({"metadata": {"name": name}, "value": value});
        class.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        json(class)
    }

    fn cluster() -> Cluster {
        Cluster::default()
            .with("priorityclasses", class("system-node-critical", 2_000_001_000, json!({})))
            .with("priorityclasses", class("calm", 10, json!({"preemptionPolicy": "Never"})))
    }

    async fn check(write: Attributes, expected: Result<(i32, &str), &str>) {
        check_in(&cluster(), write, expected).await;
    }

    async fn check_in(cluster: &Cluster, mut write: Attributes, expected: Result<(i32, &str), &str>) {
        let verdict = run(&Priority::default(), &mut write, cluster).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let got = verdict.map(|()| (spec.priority.unwrap_or(-1), spec.preemption_policy.unwrap_or_default()));
        assert_eq!(
            got.map_err(|error| error.message),
            expected.map(|(value, policy)| (value, policy.to_owned())).map_err(str::to_owned)
        );
    }

    #[tokio::test]
    async fn the_class_decides_the_priority() {
        let create = |spec| write(Operation::Create, "pods", pod(spec));
        check(create(json!({})), Ok((0, "PreemptLowerPriority"))).await;
        check(
            create(json!({"priorityClassName": "system-node-critical"})),
            Ok((2_000_001_000, "PreemptLowerPriority")),
        )
        .await;
        let unknown = r#"pods "web" is forbidden: no PriorityClass with name fast was found"#;
        check(create(json!({"priorityClassName": "fast"})), Err(unknown)).await;
        let given = r#"pods "web" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"#;
        check(create(json!({"priority": 7})), Err(given)).await;
        check(create(json!({"priority": 0})), Ok((0, "PreemptLowerPriority"))).await;
        check(create(json!({"priorityClassName": "calm"})), Ok((10, "Never"))).await;
        let given = r#"pods "web" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name"#;
        check(create(json!({"preemptionPolicy": "Never"})), Err(given)).await;
    }

    #[tokio::test]
    async fn a_cluster_may_have_one_default_class() {
        let default = || json!({"globalDefault": true});
        let cluster = cluster().with("priorityclasses", class("usual", 7, default()));
        check_in(&cluster, write(Operation::Create, "pods", pod(json!({}))), Ok((7, "PreemptLowerPriority"))).await;
        let refused = "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is already marked as default. Only one default can exist";
        for (operation, name, expected) in [
            (Operation::Create, "other", Err(refused)),
            (Operation::Update, "other", Err(refused)),
            (Operation::Update, "usual", Ok(())),
        ] {
            let mut asked = write(operation, "priorityclasses", class(name, 7, default()));
            let verdict = run(&Priority::default(), &mut asked, &cluster).await.map_err(|error| error.message);
            assert_eq!(verdict, expected.map_err(str::to_owned), "{name}");
        }
    }

    #[tokio::test]
    async fn an_update_keeps_what_was_computed() {
        let old = pod(json!({"priority": 5, "preemptionPolicy": "Never"}));
        check(write(Operation::Update, "pods", pod(json!({}))).replacing(old), Ok((5, "Never"))).await;
    }
}
