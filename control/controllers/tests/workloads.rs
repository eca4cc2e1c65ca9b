//! ReplicaSets, Deployments, Jobs, EndpointSlices and disruption budgets against the real API server.

mod support;

use std::collections::BTreeSet;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cluster, create, end, template};
use wharf_types::k8s::api::apps::v1::{Deployment, ReplicaSet};
use wharf_types::k8s::api::batch::v1::Job;
use wharf_types::k8s::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use wharf_types::k8s::api::discovery::v1::EndpointSlice;
use wharf_types::k8s::api::policy::v1::PodDisruptionBudget;

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, image),
        },
    })
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let counts = [status.replicas, status.updated_replicas, status.available_replicas];
    status.observed_generation == deployment.metadata.generation
        && counts.iter().all(|count| count.unwrap_or(0) == replicas)
}

fn reason(deployment: &Deployment, kind: &str) -> String {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|condition| condition.type_ == kind);
    found.and_then(|condition| condition.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_heals_and_rolls_back() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<Deployment>();
    create(&api, deployment("web", 3, "v1")).await;
    let done = cluster.wait_one::<Deployment>("web", "three available", |web| is_rolled_out(web, 3)).await;
    assert_eq!(reason(&done, "Available"), "MinimumReplicasAvailable");

    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    api.patch("web", &PatchParams::default(), &scale).await.expect("scaled");
    cluster.wait_one::<Deployment>("web", "five available", |web| is_rolled_out(web, 5)).await;

    let victim = cluster.wait::<Pod>("five pods", |pods| pods.len() == 5).await.remove(0);
    let name = victim.metadata.name.clone().unwrap_or_default();
    cluster.api::<Pod>().delete(&name, &DeleteParams::default()).await.expect("deleted");
    let uid = victim.metadata.uid.clone();
    cluster
        .wait::<Pod>("the pod replaced", move |pods| pods.len() == 5 && pods.iter().all(|pod| pod.metadata.uid != uid))
        .await;

    for (image, revision) in [("v2", "2"), ("v1", "3")] {
        let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        api.patch("web", &PatchParams::default(), &Patch::Strategic(change)).await.expect("changed");
        cluster
            .wait_one::<Deployment>("web", "rolled out", move |web| {
                let annotations = web.metadata.annotations.clone().unwrap_or_default();
                annotations.get("deployment.kubernetes.io/revision").map(String::as_str) == Some(revision)
                    && is_rolled_out(web, 5)
                    && reason(web, "Progressing") == "NewReplicaSetAvailable"
            })
            .await;
        let image = Some(image.to_owned());
        cluster
            .wait::<Pod>("only pods of the image", move |pods| {
                let images = pods.iter().flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers));
                pods.len() == 5 && images.into_iter().all(|container| container.image == image)
            })
            .await;
    }
    let sets = cluster.wait::<ReplicaSet>("two sets", |sets| sets.len() == 2).await;
    assert_eq!(sets.len(), 2, "the rollback reused the first set");

    api.delete("web", &DeleteParams::background()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", |pods| pods.is_empty()).await;
    cluster.wait::<ReplicaSet>("no sets", |sets| sets.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_does_not_become_ready_keeps_its_old_pods() {
    let cluster = Cluster::start().await;
    let api = cluster.api::<Deployment>();
    create(&api, deployment("web", 4, "v1")).await;
    cluster.wait_one::<Deployment>("web", "four available", |web| is_rolled_out(web, 4)).await;
    let stuck = json!({
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"nodeSelector": {"no": "where"}, "schedulerName": "none"}}},
    });
    let pause = Patch::Merge(json!({"spec": {"paused": true}}));
    api.patch("web", &PatchParams::default(), &pause).await.expect("paused");
    let changed = api.patch("web", &PatchParams::default(), &Patch::Strategic(stuck)).await.expect("changed");
    let generation = changed.metadata.generation;
    let paused = cluster
        .wait_one::<Deployment>("web", "paused", move |web| {
            let observed = web.status.as_ref().and_then(|status| status.observed_generation);
            observed == generation && reason(web, "Progressing") == "DeploymentPaused"
        })
        .await;
    assert_eq!(paused.status.as_ref().and_then(|status| status.available_replicas), Some(4));
    assert_eq!(paused.status.as_ref().and_then(|status| status.updated_replicas), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_creates_many_pods_and_no_more() {
    let cluster = Cluster::start().await;
    let set = json!({
        "metadata": {"name": "many"},
        "spec": {"replicas": 600, "selector": {"matchLabels": {"app": "many"}}, "template": template("many", "v1")},
    });
    create(&cluster.api::<ReplicaSet>(), set).await;
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas) == Some(600);
    cluster.wait_one::<ReplicaSet>("many", "600 ready", ready).await;
    assert_eq!(cluster.wait::<Pod>("pods", |_| true).await.len(), 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_adopts_orphans_and_releases_pods_whose_labels_change() {
    let cluster = Cluster::start().await;
    let pods = cluster.api::<Pod>();
    let mut orphan = template("web", "v1");
    orphan["metadata"]["name"] = json!("orphan");
    create(&pods, orphan).await;
    let set = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1")},
    });
    create(&cluster.api::<ReplicaSet>(), set).await;
    let owned = |pod: &Pod| pod.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    cluster.wait_one::<Pod>("orphan", "adopted", owned).await;
    cluster.wait::<Pod>("two pods", |pods| pods.len() == 2).await;

    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    pods.patch("orphan", &PatchParams::default(), &relabel).await.expect("relabelled");
    cluster.wait_one::<Pod>("orphan", "released", move |pod| !owned(pod)).await;
    cluster.wait::<Pod>("a replacement", |pods| pods.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_each_pod_once_and_completes() {
    let mut cluster = Cluster::start().await;
    let mut pods = template("sum", "v1");
    pods["spec"]["restartPolicy"] = json!("Never");
    let job = json!({
        "metadata": {"name": "sum"},
        "spec": {"completions": 4, "parallelism": 2, "completionMode": "Indexed", "template": pods},
    });
    create(&cluster.api::<Job>(), job).await;
    let mut ended = BTreeSet::new();
    for round in 0..4 {
        if round == 2 {
            cluster.restart_controllers().await;
        }
        let seen = ended.clone();
        let running = cluster
            .wait::<Pod>("a pod that runs", move |pods| {
                pods.iter().any(|pod| runs(pod) && !seen.contains(&pod.metadata.uid))
            })
            .await;
        let pod = running.into_iter().find(|pod| runs(pod) && !ended.contains(&pod.metadata.uid)).expect("one runs");
        end(&cluster.client, &pod, "Succeeded").await;
        ended.insert(pod.metadata.uid.clone());
    }
    let complete = |job: &Job| {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Complete" && condition.status == "True")
    };
    let job = cluster.wait_one::<Job>("sum", "complete", complete).await;
    let status = job.status.clone().unwrap_or_default();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(4), None, None), "{status:?}");
    assert_eq!(status.completed_indexes.as_deref(), Some("0-3"));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let kept =
        cluster.wait::<Pod>("released pods", |pods| pods.iter().all(|pod| pod.metadata.finalizers.is_none())).await;
    assert_eq!(kept.len(), 4);

    cluster.api::<Job>().delete("sum", &DeleteParams::background()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", |pods| pods.is_empty()).await;
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_says_so_and_stops() {
    let cluster = Cluster::start().await;
    let mut pods = template("bad", "v1");
    pods["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"metadata": {"name": "bad"}, "spec": {"backoffLimit": 0, "template": pods}});
    create(&cluster.api::<Job>(), job).await;
    let running = cluster.wait::<Pod>("a pod that runs", |pods| pods.iter().any(|pod| runs(pod))).await;
    end(&cluster.client, &running[0], "Failed").await;
    let failed = |job: &Job| {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Failed")
    };
    let job = cluster.wait_one::<Job>("bad", "failed", failed).await;
    let status = job.status.clone().unwrap_or_default();
    assert_eq!((status.succeeded, status.failed), (None, Some(1)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_the_pods_of_a_service() {
    let cluster = Cluster::start().await;
    create(&cluster.api::<Deployment>(), deployment("web", 3, "v1")).await;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": "http"}]},
    });
    create(&cluster.api::<Service>(), service).await;
    let ready = |slices: &[std::sync::Arc<EndpointSlice>]| {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true))
            .count()
    };
    let slices = cluster.wait::<EndpointSlice>("three endpoints", move |slices| ready(slices) == 3).await;
    assert_eq!(slices.len(), 1);
    let port = slices[0].ports.iter().flatten().next().and_then(|port| port.port);
    assert_eq!(port, Some(8080));
    let scale = Patch::Merge(json!({"spec": {"replicas": 1}}));
    cluster.api::<Deployment>().patch("web", &PatchParams::default(), &scale).await.expect("scaled");
    cluster.wait::<EndpointSlice>("one endpoint", move |slices| ready(slices) == 1).await;
    cluster.api::<Service>().delete("web", &DeleteParams::background()).await.expect("deleted");
    cluster.wait::<EndpointSlice>("no slices", |slices| slices.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_keep_to_a_budget_that_follows_the_pods() {
    let cluster = Cluster::start().await;
    create(&cluster.api::<Deployment>(), deployment("web", 3, "v1")).await;
    let budget = json!({
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": "34%", "selector": {"matchLabels": {"app": "web"}}},
    });
    create(&cluster.api::<PodDisruptionBudget>(), budget).await;
    let counts = |healthy: i32, allowed: i32| {
        move |budget: &PodDisruptionBudget| {
            let status = budget.status.clone().unwrap_or_default();
            status.expected_pods == Some(3)
                && status.desired_healthy == Some(1)
                && status.current_healthy == Some(healthy)
                && status.disruptions_allowed == Some(allowed)
                && status.disrupted_pods.is_none()
        }
    };
    cluster.wait_one::<PodDisruptionBudget>("web", "two may go", counts(3, 2)).await;
    let victim = cluster.wait::<Pod>("three pods", |pods| pods.len() == 3).await.remove(0);
    let name = victim.metadata.name.clone().unwrap_or_default();
    cluster.api::<Pod>().evict(&name, &kube::api::EvictParams::default()).await.expect("evicted");
    let uid = victim.metadata.uid.clone();
    cluster
        .wait::<Pod>("the pod replaced", move |pods| pods.len() == 3 && pods.iter().all(|pod| pod.metadata.uid != uid))
        .await;
    cluster.wait_one::<PodDisruptionBudget>("web", "two may go again", counts(3, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_controller_writes_as_itself_and_nothing_that_upstreams_may_not() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    create::<Service>(&cluster.api(), service).await;
    let budget =
        json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    create::<PodDisruptionBudget>(&cluster.api(), budget).await;
    create(&cluster.api::<Deployment>(), deployment("web", 2, "v1")).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    create::<PersistentVolumeClaim>(&cluster.api(), claim).await;
    cluster.wait_one::<Deployment>("web", "two available", |web| is_rolled_out(web, 2)).await;
    cluster
        .wait::<PersistentVolumeClaim>("a protected claim", |claims| {
            claims.iter().any(|claim| claim.metadata.finalizers.is_some())
        })
        .await;
    cluster
        .wait::<EndpointSlice>("a slice with both", |slices| {
            slices.iter().any(|slice| slice.endpoints.iter().flatten().count() == 2)
        })
        .await;
    cluster.api::<Deployment>().delete("web", &DeleteParams::default()).await.expect("deleted");
    cluster.wait::<Pod>("no pods", <[_]>::is_empty).await;

    let written: BTreeSet<String> = cluster
        .written()
        .into_iter()
        .map(|(user, verb, resource)| {
            format!("{} {verb} {resource}", user.trim_start_matches("system:serviceaccount:kube-system:"))
        })
        .collect();
    for expected in [
        "deployment-controller create replicasets",
        "deployment-controller update deployments/status",
        "replicaset-controller create pods",
        "replicaset-controller update replicasets/status",
        "endpointslice-controller create endpointslices",
        "disruption-controller update poddisruptionbudgets/status",
        "pvc-protection-controller update persistentvolumeclaims",
        "service-account-controller create serviceaccounts",
        "root-ca-cert-publisher create configmaps",
        "generic-garbage-collector delete replicasets",
    ] {
        assert!(written.contains(expected), "{expected:?} is not in {written:#?}");
    }
    // Who watches for all of them writes nothing but events.
    let manager: Vec<&String> = written.iter().filter(|line| line.starts_with("system:kube-")).collect();
    assert!(manager.iter().all(|line| line.ends_with(" events")), "{manager:?}");
}

#[test]
fn no_identity_is_bound_to_more_than_upstreams_roles() {
    let policy = wharf_auth::rbac::bootstrap::policy();
    let roles = policy.cluster_roles.iter().filter_map(|role| role.metadata.name.as_deref());
    let own: Vec<&str> = roles.filter(|name| name.starts_with("wharf:") && *name != "wharf:metrics").collect();
    assert_eq!(own, Vec::<&str>::new(), "no identity has a role of ours but the one that reads metrics of nodes");
    let mut bound: Vec<String> = Vec::new();
    for binding in &policy.cluster_role_bindings {
        for subject in binding.subjects.iter().flatten() {
            let name = match &subject.namespace {
                Some(namespace) => format!("{namespace}:{}", subject.name),
                None => subject.name.clone(),
            };
            bound.push(format!("{name} {}", binding.role_ref.name));
        }
    }
    let of = |name: &str| -> Vec<&str> {
        bound.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
    };
    assert_eq!(of("system:kube-controller-manager"), ["system:kube-controller-manager"]);
    assert_eq!(of("system:kube-scheduler"), ["system:kube-scheduler", "system:volume-scheduler"]);
    assert_eq!(of("system:kube-proxy"), ["system:node-proxier"]);
    // A node that joins from another machine routes services by its own identity.
    assert_eq!(of("system:nodes"), ["system:node-proxier"]);
    for account in bound.iter().filter_map(|line| line.strip_prefix("kube-system:")) {
        let (account, role) = account.split_once(' ').expect("an account and its role");
        assert!(role == format!("system:controller:{account}") || role == "system:kube-dns", "{account} {role}");
    }
}
