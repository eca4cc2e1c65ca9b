//! The example of an admission plugin, as its README walks through it, and what a restart makes of it.

use wharf_test_support::cluster::{guest, import};
use wharf_test_support::{Cluster, GuardedRegistry};

use crate::example;

const READY: &[&str] = &["wait", "--for=condition=Ready", "admissionplugin/owners", "--timeout=120s"];

#[tokio::test]
async fn the_example_does_what_its_readme_says() {
    let mut cluster = Cluster::with_images(&["admission-policy"]).await;
    let manifest = example("admission-policy/plugin.yaml");
    cluster.kubectl(&["apply", "-f", &manifest]).await.success();
    cluster.kubectl(READY).await.success();
    let shown = cluster.kubectl(&["get", "admissionplugins"]).await.success();
    assert!(shown.contains("Mutating,Validating") && shown.contains("True"), "{shown}");
    let explained = cluster.kubectl(&["explain", "admissionplugin.spec.failurePolicy"]).await.success();
    assert!(explained.contains("allowed values are Ignore or Fail"), "{explained}");

    cluster.kubectl(&["create", "namespace", "orchard"]).await.success();
    cluster.kubectl(&["label", "namespace", "orchard", "owners=required"]).await.success();
    let create = ["-n", "orchard", "create", "configmap", "a"];
    let refused = cluster.kubectl(&create).await.failure();
    assert!(refused.contains("admission plugin \"owners\" denied the request: whose is it?"), "{refused}");
    cluster.kubectl(&["label", "namespace", "orchard", "team=apples"]).await.success();
    cluster.kubectl(&create).await.success();
    let labels = ["-n", "orchard", "get", "configmap", "a", "-o", "jsonpath={.metadata.labels.team}"];
    assert_eq!(cluster.kubectl(&labels).await.success(), "apples");
    let label = |team: &'static str| ["-n", "orchard", "label", "configmap", "a", "--overwrite", team];
    let moved = cluster.kubectl(&label("team=pears")).await;
    assert!(moved.ok && moved.stderr.contains("this was apples's and is pears's now"), "{moved:?}");
    let refused = cluster.kubectl(&label("team=plums")).await.failure();
    assert!(refused.contains("\"plums\" is none of apples, pears"), "{refused}");
    // Nothing is asked of it elsewhere.
    cluster.kubectl(&["create", "configmap", "a"]).await.success();

    cluster.kill().await;
    cluster.restart().await.expect("it starts again");
    let refused = cluster.kubectl(&label("team=plums")).await.failure();
    assert!(refused.contains("\"plums\" is none of apples, pears"), "a restart forgets no plugin: {refused}");
    cluster.kubectl(&["delete", "-f", &manifest]).await.success();
    cluster.kubectl(&label("team=plums")).await.success();
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_and_locks_nobody_out() {
    let cluster = Cluster::server(&[]).await;
    let manifest = std::fs::read_to_string(example("admission-policy/plugin.yaml")).expect("the manifest");
    let manifest = manifest.replace("admission-policy:v1", "127.0.0.1:1/nobody/policy:v1");
    let manifest = manifest.replace("    matchLabels:\n      owners: required", "    matchLabels: {}");
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest).await.success();
    let wait = ["wait", "--for=condition=Ready=False", "admissionplugin/owners", "--timeout=120s"];
    cluster.kubectl(&wait).await.success();
    let refused = cluster.kubectl(&["create", "configmap", "a"]).await.failure();
    assert!(refused.contains("failed calling admission plugin \"owners\": "), "{refused}");
    assert!(refused.contains("127.0.0.1:1/nobody/policy:v1"), "{refused}");
    let ignore = "{\"spec\": {\"failurePolicy\": \"Ignore\"}}";
    cluster.kubectl(&["patch", "admissionplugin", "owners", "--type=merge", "-p", ignore]).await.success();
    cluster.kubectl(&["create", "configmap", "a"]).await.success();
}

#[tokio::test]
async fn a_plugin_is_pulled_with_the_secret_that_fits_its_registry() {
    let cluster = Cluster::with_images(&[]).await;
    // What is imported while the node runs goes into its registry.
    import(&cluster.data(), &guest("admission-policy"), "admission-policy:v1").await.expect("imported");
    // `user:word`
    let registry = GuardedRegistry::before(&cluster.registry, "Basic dXNlcjp3b3Jk").await.expect("a registry");
    let image = format!("{}/docker.io/library/admission-policy:v1", registry.address);
    let manifest = std::fs::read_to_string(example("admission-policy/plugin.yaml")).expect("the manifest");
    let manifest = manifest.replace("admission-policy:v1", &image);
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest).await.success();
    let unready = ["wait", "--for=condition=Ready=False", "admissionplugin/owners", "--timeout=120s"];
    cluster.kubectl(&unready).await.success();
    let told = cluster.kubectl(&["get", "admissionplugin", "owners", "-o", "jsonpath={.status}"]).await.success();
    assert!(told.contains("pull access denied"), "{told}");
    assert_eq!(registry.let_in(), 0);

    let server = format!("--docker-server={}", registry.address);
    for (name, server, password) in
        [("other", "--docker-server=example.com", "word"), ("wrong", &*server, "guess"), ("right", &*server, "word")]
    {
        let password = format!("--docker-password={password}");
        let secret = [
            "-n",
            "kube-system",
            "create",
            "secret",
            "docker-registry",
            name,
            server,
            "--docker-username=user",
            &password,
        ];
        cluster.kubectl(&secret).await.success();
    }
    let secrets = |names: &[&str]| {
        let named: Vec<String> = names.iter().map(|name| format!("{{namespace: kube-system, name: {name}}}")).collect();
        manifest.replace("  rules:", &format!("  imagePullSecrets: [{}]\n  rules:", named.join(", ")))
    };
    cluster.kubectl_with(&["apply", "-f", "-"], &secrets(&["missing", "other", "wrong", "right"])).await.success();
    cluster.kubectl(READY).await.success();
    assert!(registry.let_in() > 0, "it came from there");
    cluster.kubectl(&["create", "namespace", "orchard"]).await.success();
    cluster.kubectl(&["label", "namespace", "orchard", "owners=required"]).await.success();
    let refused = cluster.kubectl(&["-n", "orchard", "create", "configmap", "a"]).await.failure();
    assert!(refused.contains("whose is it?"), "{refused}");
}
