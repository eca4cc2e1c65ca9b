//! What containers can do and what ends them.

use wharf_test_support::{Cluster, eventually, http};

use crate::example;

/// A pod of one container that is not restarted.
fn pod(name: &str, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{container}]}}}}"
    )
}

async fn run(cluster: &Cluster, name: &str, container: &str) {
    cluster.kubectl_with(&["apply", "-f", "-"], &pod(name, container)).await.success();
}

async fn field(cluster: &Cluster, pod: &str, path: &str) -> String {
    cluster.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]).await.success()
}

/// Waits until a field of a pod has a value.
async fn becomes(cluster: &Cluster, pod: &str, path: &str, value: &str) {
    eventually(&format!("{path} of {pod} becomes {value}"), || async {
        let now = field(cluster, pod, path).await;
        if now == value { Ok(()) } else { Err(now) }
    })
    .await;
}

const TERMINATED: &str = ".status.containerStatuses[0].state.terminated";
const WAITING: &str = ".status.containerStatuses[0].state.waiting";

#[tokio::test]
async fn two_containers_share_loopback_and_a_volume() {
    let cluster = Cluster::with_images(&["counter-store", "counter-web"]).await;
    cluster.kubectl(&["apply", "-f", &example("counter/pod.yaml")]).await.success();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/counter", "--timeout=60s"]).await.success();
    let ip = field(&cluster, "counter", ".status.podIP").await;
    let address = format!("{ip}:8080");
    let first = eventually("the counter counts", || async {
        match http::get(&address, "/").await {
            Ok((200, body)) => Ok(body),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let first: u64 = first.trim().parse().expect("a number");
    assert_eq!(http::get(&address, "/").await.expect("an answer").1.trim(), (first + 1).to_string());
    assert_eq!(http::get(&address, "/file").await.expect("an answer").1.trim(), (first + 1).to_string());
}

#[tokio::test]
async fn exit_codes_and_termination_messages_are_shown() {
    let cluster = Cluster::with_images(&["exit"]).await;
    run(&cluster, "bad", "{name: c, image: 'exit:v1', args: ['3', 'it went wrong']}").await;
    becomes(&cluster, "bad", ".status.phase", "Failed").await;
    // Components tell success from failure and nothing more: wasi:cli/exit carries no code.
    assert_eq!(field(&cluster, "bad", &format!("{TERMINATED}.exitCode")).await, "1");
    assert_eq!(field(&cluster, "bad", &format!("{TERMINATED}.reason")).await, "Error");
    assert_eq!(field(&cluster, "bad", &format!("{TERMINATED}.message")).await, "it went wrong");
    run(&cluster, "good", "{name: c, image: 'exit:v1'}").await;
    becomes(&cluster, "good", ".status.phase", "Succeeded").await;
    assert_eq!(field(&cluster, "good", &format!("{TERMINATED}.reason")).await, "Completed");
}

#[tokio::test]
async fn configuration_arrives_as_env_and_files_and_read_only_means_it() {
    let cluster = Cluster::with_images(&["show"]).await;
    cluster.kubectl(&["create", "configmap", "conf", "--from-literal=color=blue"]).await.success();
    cluster.kubectl(&["create", "secret", "generic", "pass", "--from-literal=word=sesame"]).await.success();
    let env = "env: [{name: COLOR, valueFrom: {configMapKeyRef: {name: conf, key: color}}}, {name: WORD, valueFrom: {secretKeyRef: {name: pass, key: word}}}, \
               {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: BOTH, value: '$(COLOR)-$(WORD)'}]";
    run(&cluster, "env", &format!("{{name: c, image: 'show:v1', args: [env], {env}}}")).await;
    becomes(&cluster, "env", ".status.phase", "Succeeded").await;
    let shown = cluster.kubectl(&["logs", "env"]).await.success();
    for line in ["COLOR=blue", "WORD=sesame", "NODE=node-1", "BOTH=blue-sesame", "KUBERNETES_SERVICE_PORT=443"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is missing in:\n{shown}");
    }

    let volumes = |name: &str, args: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{a: b}}}}, spec: {{restartPolicy: Never, \
             volumes: [{{name: conf, configMap: {{name: conf}}}}, {{name: meta, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}], \
             containers: [{{name: c, image: 'show:v1', args: {args}, \
             volumeMounts: [{{name: conf, mountPath: /etc/conf, readOnly: true}}, {{name: meta, mountPath: /etc/meta}}]}}]}}}}"
        )
    };
    cluster
        .kubectl_with(&["apply", "-f", "-"], &volumes("files", "[cat, /etc/conf/color, /etc/meta/labels]"))
        .await
        .success();
    becomes(&cluster, "files", ".status.phase", "Succeeded").await;
    assert_eq!(cluster.kubectl(&["logs", "files"]).await.success(), "bluea=\"b\"\n");
    cluster.kubectl_with(&["apply", "-f", "-"], &volumes("writer", "[write, /etc/conf/color, red]")).await.success();
    becomes(&cluster, "writer", ".status.phase", "Failed").await;
}

#[tokio::test]
async fn a_guest_that_allocates_without_end_is_oom_killed() {
    let cluster = Cluster::with_images(&["hoard"]).await;
    run(&cluster, "hoard", "{name: c, image: 'hoard:v1', resources: {limits: {memory: 16Mi}}}").await;
    becomes(&cluster, "hoard", &format!("{TERMINATED}.reason"), "OOMKilled").await;
    assert_eq!(field(&cluster, "hoard", &format!("{TERMINATED}.exitCode")).await, "137");
}

#[tokio::test]
async fn a_guest_that_loops_for_ever_can_be_deleted_and_disturbs_nobody() {
    let cluster = Cluster::with_images(&["spin", "exit"]).await;
    run(&cluster, "spin", "{name: c, image: 'spin:v1'}").await;
    becomes(&cluster, "spin", ".status.phase", "Running").await;
    run(&cluster, "other", "{name: c, image: 'exit:v1'}").await;
    becomes(&cluster, "other", ".status.phase", "Succeeded").await;
    cluster.kubectl(&["delete", "pod", "spin", "--grace-period=1", "--timeout=60s"]).await.success();
}

#[tokio::test]
async fn a_failing_container_is_restarted_with_back_off_and_its_last_log_kept() {
    let cluster = Cluster::with_images(&["exit"]).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: loop}, spec: {containers: [{name: c, image: 'exit:v1', args: ['1', 'once more']}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], pod).await.success();
    becomes(&cluster, "loop", &format!("{WAITING}.reason"), "CrashLoopBackOff").await;
    assert_eq!(cluster.kubectl(&["logs", "loop", "--previous"]).await.success(), "once more\n");
    let shown = cluster.kubectl(&["get", "pod", "loop", "--no-headers"]).await.success();
    assert!(shown.contains("CrashLoopBackOff") || shown.contains("Error"), "{shown}");
}

#[tokio::test]
async fn an_image_that_cannot_run_says_why() {
    let cluster = Cluster::with_images(&["stranger"]).await;
    run(&cluster, "stranger", "{name: c, image: 'stranger:v1'}").await;
    becomes(&cluster, "stranger", &format!("{WAITING}.reason"), "CreateContainerError").await;
    let message = field(&cluster, "stranger", &format!("{WAITING}.message")).await;
    assert!(message.contains("nobody:home/door"), "{message}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let container = |name: &str| format!("{{name: {name}, image: 'hello-http:v1', ports: [{{containerPort: 8080}}]}}");
    run(&cluster, "twins", &format!("{}, {}", container("one"), container("two"))).await;
    eventually("one of the two fails on the port", || async {
        let states = field(&cluster, "twins", ".status.containerStatuses[*]").await;
        if states.contains("8080") && states.to_lowercase().contains("in use") { Ok(()) } else { Err(states) }
    })
    .await;
}

#[tokio::test]
async fn logs_can_be_followed_tailed_and_cut() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let cluster = Cluster::with_images(&["show"]).await;
    run(&cluster, "tick", "{name: c, image: 'show:v1', args: [tick, '0.05']}").await;
    becomes(&cluster, "tick", ".status.phase", "Running").await;
    let mut follow = cluster.kubectl_command(&["logs", "-f", "tick"]);
    let mut child = follow.stdout(std::process::Stdio::piped()).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("kubectl prints")).lines();
    for number in 0..20 {
        let line = lines.next_line().await.expect("kubectl's output can be read").expect("the log goes on");
        assert_eq!(line, format!("tick {number}"));
    }
    let cut = cluster.kubectl(&["logs", "tick", "--limit-bytes=6"]).await.success();
    assert_eq!(cut, "tick 0");
    run(&cluster, "done", "{name: c, image: 'show:v1', args: [env]}").await;
    becomes(&cluster, "done", ".status.phase", "Succeeded").await;
    let all = cluster.kubectl(&["logs", "done"]).await.success();
    let tail = cluster.kubectl(&["logs", "done", "--tail=2"]).await.success();
    assert!(all.lines().count() > 2 && tail.lines().count() == 2 && all.ends_with(&tail), "{all}\n{tail}");
    let stamped = cluster.kubectl(&["logs", "done", "--timestamps", "--tail=1"]).await.success();
    assert!(stamped.split_once('T').is_some_and(|(date, _)| date.len() == 10), "{stamped}");
    let recent = cluster.kubectl(&["logs", "tick", "--since=1h", "--tail=1"]).await.success();
    assert!(recent.starts_with("tick "), "{recent}");
}

#[tokio::test]
async fn init_containers_run_first_and_in_order() {
    let cluster = Cluster::with_images(&["show"]).await;
    let mount = "volumeMounts: [{name: data, mountPath: /data}]";
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: steps}}, spec: {{restartPolicy: Never, volumes: [{{name: data, emptyDir: {{}}}}], \
         initContainers: [{{name: one, image: 'show:v1', args: [write, /data/one, first], {mount}}}, {{name: two, image: 'show:v1', args: [cat, /data/one], {mount}}}], \
         containers: [{{name: c, image: 'show:v1', args: [cat, /data/one], {mount}}}]}}}}"
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod).await.success();
    becomes(&cluster, "steps", ".status.phase", "Succeeded").await;
    for container in ["two", "c"] {
        assert_eq!(cluster.kubectl(&["logs", "steps", "-c", container]).await.success(), "first\n", "{container}");
    }
}
