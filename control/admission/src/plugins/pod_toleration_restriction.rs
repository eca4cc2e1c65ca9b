//! Adds the tolerations that a pod's namespace gives by default, and holds its pods to those that it allows. Off by default.
//!
//! Source: `plugin/pkg/admission/podtolerationrestriction`. The configuration has both lists for namespaces that say nothing;
//! absent is a check of what it lists.

use async_trait::async_trait;
use serde::Deserialize;
use serde_yaml::Value;
use wharf_machinery::pod_resources::is_best_effort;
use wharf_types::k8s::api::core::v1::{Pod, Toleration};
use wharf_types::{ApiError, Gvr};

use crate::config::{self, Load};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const VERSIONS: [&str; 1] = ["podtolerationrestriction.admission.k8s.io/v1alpha1"];
const NAMESPACES: Gvr = super::core_v1("namespaces");
const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodTolerationRestriction {
    /// What pods are given in namespaces that name nothing.
    default: Vec<Toleration>,
    /// What pods may have in namespaces that name nothing; all where it is empty.
    #[serde(rename = "whitelist")]
    allowed: Vec<Toleration>,
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn configure(&mut self, part: Option<&Value>, _: &Load<'_>) -> Result<(), String> {
        if let Some(part) = part {
            *self = config::read(part, &VERSIONS, "Configuration")?;
        }
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let given = match write.operation {
            Operation::Create => annotated(write, cluster, DEFAULTS)?.unwrap_or_else(|| self.default.clone()),
            _ => Vec::new(),
        };
        let Some(pod) = write.new_as_mut::<Pod>() else { return Ok(()) };
        let lasting = !is_best_effort(pod);
        let Some(spec) = &mut pod.spec else { return Ok(()) };
        let mut more = given;
        more.extend(lasting.then(|| Toleration {
            key: Some(MEMORY_PRESSURE.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        }));
        for toleration in more {
            let held = spec.tolerations.get_or_insert_default();
            if !held.iter().any(|held| covers(held, &toleration)) {
                held.push(toleration);
            }
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(pod) = write.new_as::<Pod>().filter(|_| write.is("", "pods")) else { return Ok(()) };
        let held = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        if held.is_empty() {
            return Ok(());
        }
        let (allowed, scope) = match annotated(write, cluster, ALLOWED)? {
            Some(allowed) => (allowed, "namespace"),
            None => (self.allowed.clone(), "cluster"),
        };
        if allowed.is_empty() {
            return Ok(());
        }
        // What this plugin itself gives needs no leave.
        let own = |toleration: &Toleration| {
            toleration.key.as_deref() == Some(MEMORY_PRESSURE) && toleration.operator.as_deref() == Some("Exists")
        };
        match held.iter().all(|it| own(it) || allowed.iter().any(|allowed| covers(allowed, it))) {
            true => Ok(()),
            false => Err(write.forbidden(format_args!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
            ))),
        }
    }
}

/// True where whatever `narrow` tolerates `wide` tolerates too. Source: `pkg/util/tolerations` (`isSuperset`).
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    fn text(field: &Option<String>) -> &str {
        field.as_deref().unwrap_or_default()
    }
    if wide == narrow {
        return true;
    }
    let any_key = text(&wide.key).is_empty() && text(&wide.operator) == "Exists";
    let same = |a: &Option<String>, b: &Option<String>| text(a).is_empty() || text(a) == text(b);
    if !any_key && text(&wide.key) != text(&narrow.key) || !same(&wide.effect, &narrow.effect) {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && wide.toleration_seconds.is_some_and(|wide| narrow.toleration_seconds.is_none_or(|narrow| wide < narrow))
    {
        return false;
    }
    match text(&wide.operator) {
        "Exists" => true,
        _ => !any_key && text(&narrow.operator) != "Exists" && text(&wide.value) == text(&narrow.value),
    }
}

/// The tolerations in an annotation of the namespace.
fn annotated(write: &Attributes, cluster: &dyn Reader, key: &str) -> Result<Option<Vec<Toleration>>, ApiError> {
    let name = write.namespace.as_deref().unwrap_or_default();
    let Some(namespace) = cluster.get(&NAMESPACES, None, name) else {
        return Err(ApiError::not_found(&NAMESPACES, name));
    };
    let text = namespace.meta().annotations.as_ref().and_then(|all| all.get(key)).filter(|text| !text.is_empty());
    text.map(|text| serde_json::from_str(text).map_err(ApiError::internal)).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};
    use wharf_types::k8s::api::core::v1::Namespace;

    /// How many tolerations a pod ends up with, or whose list is against it.
    async fn check(
        plugin: &PodTolerationRestriction,
        annotations: Value,
        tolerations: Value,
        expected: Result<usize, &str>,
    ) {
        let namespace: Namespace = json(json!({"metadata": {"name": "default", "annotations": annotations}}));
        let cluster = Cluster::default().with("namespaces", namespace);
        let pod: Pod = json(
            json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [], "tolerations": tolerations}}),
        );
        let mut write = write(Operation::Create, "pods", pod);
        let verdict = run(plugin, &mut write, &cluster).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        let count = spec.tolerations.unwrap_or_default().len();
        let expected = expected.map_err(|scope| {
            format!("pods \"web\" is forbidden: pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist")
        });
        assert_eq!(verdict.map(|()| count).map_err(|error| error.message), expected);
    }

    fn annotations() -> Value {
        json!({
            DEFAULTS: r#"[{"key": "team", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]"#,
            ALLOWED: r#"[{"key": "team", "operator": "Exists"}]"#,
        })
    }

    #[tokio::test]
    async fn pods_tolerate_what_their_namespace_gives_and_allows() {
        let plugin = PodTolerationRestriction::default();
        check(&plugin, annotations(), json!([]), Ok(1)).await;
        check(&plugin, annotations(), json!([{"key": "team", "operator": "Exists"}]), Ok(1)).await;
        check(&plugin, annotations(), json!([{"key": "gpu", "operator": "Exists"}]), Err("namespace")).await;
        check(&plugin, json!({}), json!([{"key": "gpu", "operator": "Exists"}]), Ok(1)).await;
    }

    #[tokio::test]
    async fn the_cluster_speaks_for_namespaces_that_say_nothing() {
        let text = "{apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration,
            default: [{key: zone, operator: Exists}], whitelist: [{key: zone, operator: Exists}, {key: a, operator: Exists}]}";
        let mut plugin = PodTolerationRestriction::default();
        plugin.configure(serde_yaml::from_str(text).ok().as_ref(), &|_| Ok(String::new())).expect("a configuration");
        check(&plugin, json!({}), json!([{"key": "a", "operator": "Exists"}]), Ok(2)).await;
        check(&plugin, json!({}), json!([{"key": "gpu", "operator": "Exists"}]), Err("cluster")).await;
        check(&plugin, annotations(), json!([{"key": "a", "operator": "Exists"}]), Err("namespace")).await;
        check(&plugin, json!({ALLOWED: "[]"}), json!([{"key": "gpu", "operator": "Exists"}]), Ok(2)).await;
    }
}
