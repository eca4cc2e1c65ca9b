//! What admission leaves to controllers, against the real API server: quotas that follow what is there, claims in use, types in
//! the expressions of policies.

mod support;

use std::sync::Arc;

use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cluster, create, template, wait_for};
use wharf_client::ObjectKey;
use wharf_types::k8s::api::admissionregistration::v1::{TypeChecking, ValidatingAdmissionPolicy};
use wharf_types::k8s::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota};

async fn wait_used(cluster: &Cluster, what: &'static str, expected: Value) {
    let used = move |quota: &ResourceQuota| {
        let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
        serde_json::to_value(used).expect("json") == expected
    };
    cluster.wait_one::<ResourceQuota>("q", what, used).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_follow_what_is_there() {
    let cluster = Cluster::without_node().await;
    let (pods, maps) = (cluster.api::<Pod>(), cluster.api::<ConfigMap>());
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "250m"}});
    create(&pods, pod).await;
    create(&maps, json!({"metadata": {"name": "m"}})).await;
    let hard = json!({"pods": "3", "requests.cpu": "1", "count/configmaps": "9", "services": "1"});
    create(&cluster.api::<ResourceQuota>(), json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let full = json!({"pods": "1", "requests.cpu": "250m", "count/configmaps": "2", "services": "0"});
    wait_used(&cluster, "what was there first", full).await;
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    maps.delete("m", &DeleteParams::default()).await.expect("deleted");
    let less = json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "1", "services": "0"});
    wait_used(&cluster, "what is left", less).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_outlives_the_pod_that_uses_it() {
    let cluster = Cluster::without_node().await;
    let (pods, claims) = (cluster.api::<Pod>(), cluster.api::<PersistentVolumeClaim>());
    let size = json!({"requests": {"storage": "1Gi"}});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": size});
    create(&claims, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    let held = |claim: &PersistentVolumeClaim| claim.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    cluster.wait_one::<PersistentVolumeClaim>("c", "a finalizer", held).await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("web");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    create(&pods, pod).await;
    claims.delete("c", &DeleteParams::default()).await.expect("marked");
    let going = |claim: &PersistentVolumeClaim| claim.metadata.deletion_timestamp.is_some();
    cluster.wait_one::<PersistentVolumeClaim>("c", "the mark", going).await;
    assert!(claims.get_opt("c").await.expect("an answer").is_some());
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    cluster.wait::<PersistentVolumeClaim>("the claim gone", |claims| claims.is_empty()).await;
}

fn checked(policy: &ValidatingAdmissionPolicy) -> Option<&TypeChecking> {
    let status = policy.status.as_ref()?;
    status.type_checking.as_ref().filter(|_| status.observed_generation == policy.metadata.generation)
}

async fn look(cluster: &Cluster, name: &str) -> Arc<ValidatingAdmissionPolicy> {
    let (policies, key) = (cluster.informers.of::<ValidatingAdmissionPolicy>(), ObjectKey::cluster(name));
    wait_for(policies, "a look at the types", move |held| held.get(&key).filter(|policy| checked(policy).is_some()))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policys_status_tells_of_types_that_do_not_fit() {
    let cluster = Cluster::without_node().await;
    let api: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let rule = |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources});
    let policy = |name: &str, validations: Value| {
        json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": {"resourceRules": [rule(&["apps"], &["deployments"]), rule(&["apps"], &["nothing"])]},
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": validations,
        }})
    };
    let right = json!([{"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == params.data['b']"}]);
    create(&api, policy("right", right)).await;
    let found = look(&cluster, "right").await;
    let warnings = checked(&found).and_then(|it| it.expression_warnings.clone()).unwrap_or_default();
    assert!(warnings.is_empty(), "{warnings:?}");
    let wrong = json!([{
        "expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
    }]);
    create(&api, policy("wrong", wrong)).await;
    let found = look(&cluster, "wrong").await;
    let warnings = checked(&found).and_then(|it| it.expression_warnings.clone()).unwrap_or_default();
    let shown: Vec<(&str, &str)> = warnings
        .iter()
        .map(|warning| (warning.field_ref.as_str(), warning.warning.lines().next().unwrap_or("")))
        .collect();
    let kind = "apps/v1, Kind=Deployment: ERROR: <input>:1";
    assert_eq!(
        shown,
        [
            (
                "spec.validations[0].expression",
                &*format!("{kind}:22: found no matching overload for '_>_' applied to '(int, string)'")
            ),
            (
                "spec.validations[0].messageExpression",
                &*format!("{kind}:28: found no matching overload for '_+_' applied to '(string, int)'")
            ),
        ]
    );
}
