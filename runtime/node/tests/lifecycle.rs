//! A pod's life on a node, from binding to deletion.

mod common;

use common::{Bench, condition, container, exits, images, no_entries, nothing_runs, stops};
use serde_json::json;
use std::time::Duration;
use wharf_cri::Runtime;
use wharf_cri::fake::{Fake, Stop};

#[tokio::test]
async fn a_pod_starts_and_says_so() {
    let bench = Bench::new(images()).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "reg/web:v1"}]}));
    let pod = bench.ready("web").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10.0.0."));
    assert_eq!(pod["status"]["podIPs"][0]["ip"], pod["status"]["podIP"]);
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    let status = container(&pod);
    assert!(status["containerID"].as_str().unwrap().starts_with("fake://"));
    assert!(status["imageID"].as_str().unwrap().contains("sha256:"));
    assert_eq!((&status["restartCount"], &status["started"]), (&json!(0), &json!(true)));
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, kind), "True", "{kind}");
    }
    assert_eq!(bench.event("web", "Pulling").await, "Pulling image \"reg/web:v1\"");
    assert!(bench.event("web", "Pulled").await.starts_with("Successfully pulled image \"reg/web:v1\" in "));
    assert_eq!(bench.event("web", "Created").await, "Container created");
    assert_eq!(bench.event("web", "Started").await, "Container started");
}

#[tokio::test]
async fn the_node_registers_and_renews_its_lease() {
    let bench = Bench::with(images(), |options| options.timings.lease_renewal = Duration::from_millis(20)).await;
    let ready = |node: Option<&serde_json::Value>| node.is_some_and(|node| condition(node, "Ready") == "True");
    let node = bench.api.wait("nodes", "", "n1", "Ready", ready).await.unwrap();
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.0+wharf");
    let lease = bench.api.wait("leases", "kube-node-lease", "n1", "there", |lease| lease.is_some()).await.unwrap();
    let renewed =
        |now: Option<&serde_json::Value>| now.is_some_and(|now| now["spec"]["renewTime"] != lease["spec"]["renewTime"]);
    bench.api.wait("leases", "kube-node-lease", "n1", "renewed", renewed).await;
}

#[tokio::test]
async fn a_crash_loop_backs_off() {
    let bench = Bench::new(images().image("crash", exits(3))).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "crash"}]}));
    let pod = bench
        .wait("web", "in back-off", |pod| container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let status = container(&pod);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("back-off ")
            && message.ends_with(&format!(" restarting failed container=c pod=web_d({uid})")),
        "{message}"
    );
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(
        bench.event("web", "BackOff").await,
        format!("Back-off restarting failed container c in pod web_d({uid})")
    );
    bench.wait("web", "restarted twice", |pod| container(pod)["restartCount"].as_u64() >= Some(2)).await;
    let kept = bench.runtime.containers().await.unwrap().len();
    assert!(kept <= 3, "old dead containers are removed, {kept} are left");
}

#[tokio::test]
async fn restart_policies_end_pods() {
    let bench = Bench::new(images().image("ok", exits(0)).image("bad", exits(1))).await;
    for (name, policy, image, phase) in
        [("a", "Never", "ok", "Succeeded"), ("b", "Never", "bad", "Failed"), ("c", "OnFailure", "ok", "Succeeded")]
    {
        bench.pod(name, json!({"restartPolicy": policy, "containers": [{"name": "c", "image": image}]}));
        let pod = bench.phase(name, phase).await;
        assert_eq!(container(&pod)["restartCount"], 0);
        assert_eq!(
            container(&pod)["state"]["terminated"]["reason"],
            if phase == "Failed" { "Error" } else { "Completed" }
        );
        assert_eq!(condition(&pod, "Ready"), "False");
    }
    bench.pod("d", json!({"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "bad"}]}));
    bench.wait("d", "restarted", |pod| container(pod)["restartCount"].as_u64() >= Some(1)).await;
    bench.delete("d").await;
    bench.gone("d").await;
    nothing_runs(&bench.runtime).await;
}

#[tokio::test]
async fn init_containers_run_one_after_the_other() {
    let bench = Bench::new(images().image("ok", exits(0))).await;
    let init = json!([{"name": "first", "image": "ok"}, {"name": "side", "image": "run", "restartPolicy": "Always"}, {"name": "second", "image": "ok"}]);
    bench.pod("web", json!({"initContainers": init, "containers": [{"name": "c", "image": "run"}]}));
    let pod = bench.ready("web").await;
    let inits = pod["status"]["initContainerStatuses"].as_array().unwrap();
    assert_eq!(inits[0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(inits[1]["started"], true);
    assert_eq!(inits[2]["state"]["terminated"]["exitCode"], 0);
    let mut started: Vec<_> = bench
        .runtime
        .containers()
        .await
        .unwrap()
        .into_iter()
        .map(|container| (container.created_at, container.name))
        .collect();
    started.sort();
    let order: Vec<&str> = started.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(order, ["first", "side", "second", "c"]);
}

#[tokio::test]
async fn a_failing_init_container_ends_or_repeats() {
    let bench = Bench::new(images().image("bad", exits(1))).await;
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i", "image": "bad"}], "containers": [{"name": "c", "image": "run"}]});
    bench.pod("never", spec("Never"));
    bench.phase("never", "Failed").await;
    bench.pod("always", spec("Always"));
    let pod = bench
        .wait("always", "restarted", |pod| {
            pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64() >= Some(1)
        })
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(condition(&pod, "Initialized"), "False");
}

#[tokio::test]
async fn deletion_is_graceful_and_leaves_nothing() {
    let slow = stops(Stop::Exits { after: Duration::from_millis(100), code: 0 });
    let bench = Bench::new(images().image("slow", slow)).await;
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    bench.pod(
        "web",
        json!({"volumes": volumes, "containers": [{"name": "c", "image": "slow", "volumeMounts": mounts}]}),
    );
    bench.ready("web").await;
    bench.delete("web").await;
    let last = bench.gone("web").await;
    assert_eq!(container(&last)["state"]["terminated"]["exitCode"], 0);
    assert_eq!(last["status"]["phase"], "Succeeded");
    assert_eq!(bench.event("web", "Killing").await, "Stopping container c");
    nothing_runs(&bench.runtime).await;
    no_entries(&bench.dir.path().join("pods")).await;
    no_entries(&bench.dir.path().join("logs")).await;
}

#[tokio::test]
async fn a_pod_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let bench = Bench::new(images().image("deaf", stops(Stop::Ignores))).await;
    bench.pod("web", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "deaf"}]}));
    bench.ready("web").await;
    bench.delete("web").await;
    let last = bench.gone("web").await;
    assert_eq!(container(&last)["state"]["terminated"]["exitCode"], 137);
}

#[tokio::test]
async fn a_pod_deleted_by_force_is_cleaned_up() {
    let bench = Bench::new(images()).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    bench.ready("web").await;
    bench.api.remove("pods", "d", "web");
    nothing_runs(&bench.runtime).await;
    // The name is free at once for another pod.
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    bench.ready("web").await;
}

#[tokio::test]
async fn a_pod_over_its_deadline_fails() {
    let bench = Bench::new(images()).await;
    bench.pod("web", json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c", "image": "run"}]}));
    bench.ready("web").await;
    let pod = bench.phase("web", "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    nothing_runs(&bench.runtime).await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused() {
    let bench = Bench::new(images()).await;
    let resources = json!({"requests": {"cpu": "5"}});
    bench.pod("big", json!({"containers": [{"name": "c", "image": "run", "resources": resources}]}));
    let pod = bench.phase("big", "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    assert!(bench.event("big", "OutOfcpu").await.contains("requested: 5000, used: 0, capacity: 4000"));
    bench.delete("big").await;
    bench.gone("big").await;
}

#[tokio::test]
async fn after_a_restart_pods_run_again_and_finished_ones_do_not() {
    let mut bench = Bench::new(images().image("ok", exits(0))).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    bench.pod("once", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "run"}]}));
    bench.pod("done", json!({"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "ok"}]}));
    bench.ready("web").await;
    bench.ready("once").await;
    bench.phase("done", "Succeeded").await;
    bench.stop().await;
    // What ran in the old process is gone with it.
    bench.runtime = Fake::new(images().image("ok", exits(0)));
    bench.start(|_| {}).await;
    let web = bench
        .wait("web", "restarted", |pod| container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True")
        .await;
    let last = &container(&web)["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
    let once = bench.phase("once", "Failed").await;
    assert_eq!(container(&once)["state"]["terminated"]["reason"], "ContainerStatusUnknown");
    let done = bench.phase("done", "Succeeded").await;
    assert_eq!(container(&done)["restartCount"], 0);
    let names: Vec<String> =
        bench.runtime.sandboxes().await.unwrap().into_iter().map(|sandbox| sandbox.config.name).collect();
    assert_eq!(names, ["web"]);
}

#[tokio::test]
async fn a_runtime_that_lives_on_keeps_its_containers() {
    let mut bench = Bench::new(images()).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    bench.pod("gone", json!({"containers": [{"name": "c", "image": "run"}]}));
    let before = bench.ready("web").await;
    bench.ready("gone").await;
    bench.stop().await;
    bench.api.remove("pods", "d", "gone");
    bench.start(|_| {}).await;
    common::until("the orphan's end", async || (bench.runtime.sandboxes().await.unwrap().len() == 1).then_some(()))
        .await;
    let after = bench.ready("web").await;
    assert_eq!(container(&after)["containerID"], container(&before)["containerID"]);
    assert_eq!(container(&after)["imageID"], container(&before)["imageID"]);
    assert_eq!(container(&after)["restartCount"], 0);
}

#[tokio::test]
async fn a_container_that_ends_is_restarted() {
    let bench = Bench::new(images()).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "run"}]}));
    bench.ready("web").await;
    let id = bench.runtime.containers().await.unwrap()[0].id.clone();
    bench.runtime.exit(&id, 137, "OOMKilled");
    let pod = bench
        .wait("web", "restarted", |pod| container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True")
        .await;
    assert_eq!(container(&pod)["lastState"]["terminated"]["reason"], "OOMKilled");
}

#[tokio::test]
async fn a_changed_image_restarts_its_container() {
    let bench = Bench::new(images()).await;
    bench.pod("web", json!({"containers": [{"name": "c", "image": "app:v1"}]}));
    bench.ready("web").await;
    bench.api.change("pods", "d", "web", |pod| pod["spec"]["containers"][0]["image"] = json!("app:v2"));
    let restarted = |pod: &serde_json::Value| container(pod)["restartCount"] == 1 && condition(pod, "Ready") == "True";
    let pod = bench.wait("web", "restarted", restarted).await;
    assert_eq!(container(&pod)["image"], "app:v2");
    assert_eq!(bench.event("web", "Killing").await, "Container c definition changed, will be restarted");
}

#[tokio::test]
async fn many_pods_come_up() {
    const PODS: usize = 200;
    let bench = Bench::with(images(), |options| options.max_pods = 1000).await;
    for index in 0..PODS {
        bench.pod(
            &format!("p{index}"),
            json!({"containers": [{"name": "c", "image": "run", "imagePullPolicy": "IfNotPresent"}]}),
        );
    }
    for index in 0..PODS {
        bench.ready(&format!("p{index}")).await;
    }
    for index in 0..PODS {
        bench.delete(&format!("p{index}")).await;
    }
    for index in 0..PODS {
        bench.gone(&format!("p{index}")).await;
    }
    nothing_runs(&bench.runtime).await;
}
