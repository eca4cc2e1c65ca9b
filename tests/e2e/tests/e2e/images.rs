//! Images pushed to the embedded registry, and pulled from it.

use std::collections::BTreeMap;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use wharf_test_support::{Cluster, eventually};

/// Pushes a guest in the CNCF Wasm layout, as `wkg oci push` does, and returns the manifest's digest.
async fn push(cluster: &Cluster, guest: &str, repository: &str) -> String {
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let reference: Reference = format!("{}/{repository}", cluster.registry).parse().expect("a reference");
    let module = std::fs::read(wharf_test_support::cluster::guest(guest)).expect("the guest is built");
    let layer = ImageLayer::new(module, "application/wasm".to_owned(), None::<BTreeMap<String, String>>);
    let config = serde_json::json!({ "architecture": "wasm", "os": "wasip2", "layerDigests": [layer.sha256_digest()] });
    let config = Config::new(config.to_string().into_bytes(), "application/vnd.wasm.config.v0+json".to_owned(), None);
    let auth = RegistryAuth::Anonymous;
    client.push(&reference, &[layer], config, &auth, None).await.expect("pushed");
    client.fetch_manifest_digest(&reference, &auth).await.expect("the manifest is there")
}

async fn run(cluster: &Cluster, name: &str, image: &str) {
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: '{image}', args: ['0', hi], imagePullPolicy: Always}}]}}}}"
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod).await.success();
}

#[tokio::test]
async fn a_pod_runs_what_was_pushed_by_tag_and_by_digest() {
    let cluster = Cluster::with_images(&[]).await;
    let digest = push(&cluster, "exit", "team/exit:v7").await;
    let by_digest = format!("{}/team/exit@{digest}", cluster.registry);
    for (name, image) in [("tag", format!("{}/team/exit:v7", cluster.registry)), ("digest", by_digest)] {
        run(&cluster, name, &image).await;
        eventually("the pod ends", || async {
            let status = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.status}"]).await.success();
            if status.contains("Succeeded") { Ok(()) } else { Err(status) }
        })
        .await;
        assert_eq!(cluster.kubectl(&["logs", name]).await.success(), "hi\n");
        let id = cluster
            .kubectl(&["get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].imageID}"])
            .await
            .success();
        assert!(id.contains("sha256:"), "{id}");
    }
}

#[tokio::test]
async fn pulling_never_what_is_not_there_is_an_error() {
    let cluster = Cluster::with_images(&[]).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: never}, spec: {containers: [{name: c, image: 'nowhere:v1', imagePullPolicy: Never}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], pod).await.success();
    eventually("the policy is named", || async {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = cluster.kubectl(&["get", "pod", "never", "-o", path]).await.success();
        if reason == "ErrImageNeverPull" { Ok(()) } else { Err(reason) }
    })
    .await;
}
