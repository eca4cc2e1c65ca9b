//! exec, attach, port-forward and proxy, as kubectl uses them.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use wharf_test_support::{Cluster, DEADLINE, eventually, http};

use crate::example;

/// A pod that says `tick N` again and again.
async fn ticking() -> Cluster {
    let cluster = Cluster::with_images(&["show"]).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: show}, spec: {containers: [{name: c, image: 'show:v1', \
               args: [tick, '0.1'], env: [{name: COLOR, value: blue}]}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], pod).await.success();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/show", "--timeout=60s"]).await.success();
    cluster
}

#[tokio::test]
async fn kubectl_runs_commands_in_a_container() {
    let cluster = ticking().await;
    let said = cluster.kubectl(&["exec", "show", "--", "show", "args", "one", "two words"]).await.success();
    assert_eq!(said, "one|two words\n");
    let environment = cluster.kubectl(&["exec", "show", "-c", "c", "--", "show", "env"]).await.success();
    assert!(environment.lines().any(|line| line == "COLOR=blue"), "{environment}");
    let failed = cluster.kubectl(&["exec", "-i", "show", "--", "show", "nonsense"]).await.failure();
    assert!(failed.contains("do not know how to show") && failed.contains("exit code 1"), "{failed}");
    let missing = cluster.kubectl(&["exec", "show", "-c", "x", "--", "show", "env"]).await.failure();
    assert!(missing.contains("container x is not valid for pod show"), "{missing}");
    // The older protocol.
    let mut old = cluster.kubectl_command(&["exec", "show", "--", "show", "args", "over", "spdy"]);
    let old =
        old.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").stdin(Stdio::null()).output().await.expect("kubectl");
    assert_eq!(String::from_utf8_lossy(&old.stdout), "over|spdy\n", "{}", String::from_utf8_lossy(&old.stderr));
}

#[tokio::test]
async fn kubectl_attaches_to_what_runs() {
    let cluster = ticking().await;
    let mut command = cluster.kubectl_command(&["attach", "show"]);
    let mut attached = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(attached.stdout.take().expect("its output")).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time");
        assert!(line.expect("readable").is_some_and(|line| line.starts_with("tick ")));
    }
}

#[tokio::test]
async fn kubectl_forwards_ports_and_the_api_proxies_to_pods() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    cluster.kubectl(&["apply", "-f", &example("hello-http/app.yaml")]).await.success();
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).await.success();
    let pod = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]).await.success();
    let port = cluster
        .kubectl(&["get", "pods", "-o", "jsonpath={.items[0].spec.containers[0].ports[0].containerPort}"])
        .await
        .success();
    for websockets in ["true", "false"] {
        let mut command = cluster.kubectl_command(&["port-forward", &pod, &format!(":{port}")]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut forwarding = command.spawn().expect("kubectl starts");
        let mut lines = BufReader::new(forwarding.stdout.take().expect("its output")).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time");
        let line = line.expect("readable").expect("where it listens");
        let address = line.split_whitespace().nth(2).expect("Forwarding from ADDRESS -> PORT").to_owned();
        eventually("the forwarded port answers", || async {
            match http::get(&address, "/").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let proxied =
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/pods/{pod}:{port}/proxy/")]).await;
    assert!(!proxied.success().is_empty());
    let healthy = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/healthz"]).await;
    assert_eq!(healthy.success(), "ok");
}
