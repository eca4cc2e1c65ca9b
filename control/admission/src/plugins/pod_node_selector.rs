//! Adds to each pod the node selector that its namespace's annotation names, or else the cluster's. Off by default.
//!
//! Source: `plugin/pkg/admission/podnodeselector`. The configuration is one map, from `clusterDefaultNodeSelector` to the default
//! and from namespaces to the only labels that their pods may select by.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_yaml::Value;
use wharf_types::k8s::api::core::v1::{Namespace, Pod};
use wharf_types::{AnyObject, ApiError, Gvr};

use crate::config::Load;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const NAMESPACES: Gvr = super::core_v1("namespaces");
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULT: &str = "clusterDefaultNodeSelector";
const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";
const NOT_LISTED: &str = "pod node label selector labels conflict with its namespace whitelist";

type Labels = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
pub struct PodNodeSelector {
    /// Each as `a=b,c=d`.
    #[serde(rename = "podNodeSelectorPluginConfig", default)]
    selectors: BTreeMap<String, String>,
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn configure(&mut self, part: Option<&Value>, _: &Load<'_>) -> Result<(), String> {
        if let Some(part) = part {
            *self = serde_yaml::from_value(part.clone()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        let wanted = self.wanted(&*namespace(write, cluster)?)?;
        if conflicts(write, &wanted) {
            return Err(write.forbidden(CONFLICT));
        }
        if let Some(spec) = write.new_as_mut::<Pod>().and_then(|pod| pod.spec.as_mut()).filter(|_| !wanted.is_empty()) {
            spec.node_selector.get_or_insert_default().extend(wanted);
        }
        self.check_listed(write)
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") {
            return Ok(());
        }
        if conflicts(write, &self.wanted(&*namespace(write, cluster)?)?) {
            return Err(write.forbidden(CONFLICT));
        }
        self.check_listed(write)
    }
}

impl PodNodeSelector {
    /// What the namespace's annotation asks for, or the cluster's default where it has none.
    fn wanted(&self, namespace: &dyn AnyObject) -> Result<Labels, ApiError> {
        let annotated = namespace.meta().annotations.as_ref().and_then(|all| all.get(ANNOTATION));
        let text = annotated.or_else(|| self.selectors.get(DEFAULT));
        parse(text.map_or("", String::as_str))
    }

    fn check_listed(&self, write: &Attributes) -> Result<(), ApiError> {
        let list = write.namespace.as_ref().and_then(|namespace| self.selectors.get(namespace));
        let listed = parse(list.map_or("", String::as_str))?;
        let is_listed = |(key, value): (&String, &String)| listed.get(key) == Some(value);
        let all = selected(write).is_none_or(|held| held.iter().all(is_listed));
        if listed.is_empty() || all { Ok(()) } else { Err(write.forbidden(NOT_LISTED)) }
    }
}

fn selected(write: &Attributes) -> Option<&Labels> {
    write.new_as::<Pod>()?.spec.as_ref()?.node_selector.as_ref()
}

fn conflicts(write: &Attributes, wanted: &Labels) -> bool {
    let other = |held: &Labels| wanted.iter().any(|(key, value)| held.get(key).is_some_and(|held| held != value));
    selected(write).is_some_and(other)
}

fn namespace(write: &Attributes, cluster: &dyn Reader) -> Result<Box<dyn AnyObject>, ApiError> {
    let name = write.namespace.as_deref().unwrap_or_default();
    let found = cluster.get(&NAMESPACES, None, name).filter(|object| object.downcast_ref::<Namespace>().is_some());
    found.ok_or_else(|| ApiError::not_found(&NAMESPACES, name))
}

/// `a=b, c=d`
fn parse(text: &str) -> Result<Labels, ApiError> {
    let mut selector = Labels::new();
    for term in text.split(',').map(str::trim).filter(|term| !term.is_empty()) {
        let Some((key, value)) = term.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(ApiError::internal(format_args!("invalid selector: [{term}]")));
        };
        selector.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn pods_stay_where_their_namespace_wants_them() {
        let annotated: Namespace =
            json(json!({"metadata": {"name": "default", "annotations": {ANNOTATION: "env=prod, disk=ssd"}}}));
        let cluster = Cluster::default().with("namespaces", annotated);
        let check = async |held: Value, expected: Result<Value, &str>| {
            let pod: Pod = json(
                json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"containers": [], "nodeSelector": held}}),
            );
            let mut write = write(Operation::Create, "pods", pod);
            let verdict = run(&PodNodeSelector::default(), &mut write, &cluster).await;
            let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
            let got = verdict.map(|()| json!(spec.node_selector)).map_err(|error| error.message);
            assert_eq!(got, expected.map_err(|why| format!("pods \"web\" is forbidden: {why}")));
        };
        check(json!({"zone": "a"}), Ok(json!({"env": "prod", "disk": "ssd", "zone": "a"}))).await;
        check(json!({"env": "test"}), Err("pod node label selector conflicts with its namespace node label selector"))
            .await;
    }
    #[tokio::test]
    async fn the_cluster_has_a_default_and_namespaces_have_lists() {
        let part = "podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: env=dev, listed: 'env=dev,disk=ssd'}";
        let mut plugin = PodNodeSelector::default();
        plugin.configure(serde_yaml::from_str(part).ok().as_ref(), &|_| Ok(String::new())).expect("a configuration");
        let namespace = |name: &str| -> Namespace { json(json!({"metadata": {"name": name}})) };
        let cluster = Cluster::default().with("namespaces", namespace("listed")).with("namespaces", namespace("free"));
        let check = async |namespace: &str, held: Value, expected: Result<Value, &str>| {
            let pod: Pod = json(
                json!({"metadata": {"name": "web", "namespace": namespace}, "spec": {"containers": [], "nodeSelector": held}}),
            );
            let mut write = write(Operation::Create, "pods", pod);
            let verdict = run(&plugin, &mut write, &cluster).await;
            let got = verdict.map(|()| json!(selected(&write))).map_err(|error| error.message);
            assert_eq!(got, expected.map_err(|why| format!("pods \"web\" is forbidden: {why}")));
        };
        check("free", json!({"zone": "a"}), Ok(json!({"env": "dev", "zone": "a"}))).await;
        check("listed", json!({"disk": "ssd"}), Ok(json!({"env": "dev", "disk": "ssd"}))).await;
        check("listed", json!({"zone": "a"}), Err(NOT_LISTED)).await;
        check("listed", json!({"disk": "hdd"}), Err(NOT_LISTED)).await;
    }
}
