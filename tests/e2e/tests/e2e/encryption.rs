//! Encryption at rest: nothing readable on disk, and keys that rotate while the process is killed.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::stream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use wharf_test_support::{Cluster, cluster, eventually};

const SECRETS: usize = 200;
const MARKER: &str = "hunter2-is-no-password";
const ONE: &str = "aesgcm: { keys: [{ name: one, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY= }] }";
const TWO: &str = "aescbc: { keys: [{ name: two, secret: ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA= }] }";

const THREE: &str = "secretbox: { keys: [{ name: three, secret: YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY= }] }";

fn configure(file: &Path, providers: &[&str]) {
    let providers: String = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
    std::fs::write(file, format!("{head}resources:\n- resources: [secrets]\n  providers:\n{providers}"))
        .expect("a configuration");
}

fn api(cluster: &Cluster) -> Api<Secret> {
    Api::default_namespaced(cluster.client.clone())
}

fn secret(number: usize) -> Secret {
    let value = ByteString(format!("{MARKER}-{number}").into_bytes());
    let mut secret = Secret { data: Some([("password".to_owned(), value)].into()), ..Secret::default() };
    secret.metadata.name = Some(format!("s{number}"));
    secret
}

/// Every secret is there and holds what was written.
async fn all_can_be_read(cluster: &Cluster) {
    let secrets = api(cluster).list(&ListParams::default()).await.expect("listed").items;
    assert_eq!(secrets.len(), SECRETS);
    for held in secrets {
        let number: usize = held.name_any()[1..].parse().expect("a number");
        assert_eq!(held.data, secret(number).data, "{}", held.name_any());
    }
}

/// Writes each secret as it is, which seals it with the first key.
async fn rewrite(secrets: Api<Secret>) -> kube::Result<()> {
    for number in 0..SECRETS {
        let held = secrets.get(&format!("s{number}")).await?;
        secrets.replace(&held.name_any(), &PostParams::default(), &held).await?;
    }
    Ok(())
}

/// How many values on disk are sealed with a key, at least: the store keeps some of its history.
fn on_disk(store: &Path, text: &str) -> usize {
    let bytes = std::fs::read(store).expect("the store's file");
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

#[tokio::test]
async fn keys_rotate_although_the_process_is_killed_in_the_middle() {
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("encryption.yaml");
    configure(&file, &[ONE]);
    let arguments = vec![format!("--encryption-provider-config={}", file.display())];
    let options = cluster::Options { arguments, ..cluster::Options::default() };
    let mut cluster = Cluster::start(options).await.expect("it starts");
    let secrets = api(&cluster);
    let create = async |number| secrets.create(&PostParams::default(), &secret(number)).await.expect("created");
    stream::iter(0..SECRETS).map(create).buffer_unordered(16).collect::<Vec<_>>().await;
    let store = cluster.data().join("store.redb");
    // Values are base64 in JSON.
    let readable = &base64(MARKER.as_bytes())[..20];
    assert_eq!(on_disk(&store, readable), 0, "a secret can be read from the disk");
    assert!(on_disk(&store, "k8s:enc:aesgcm:v1:one:") >= SECRETS);

    configure(&file, &[TWO, ONE]);
    cluster.kill().await;
    cluster.restart().await.expect("it starts with a second key");
    all_can_be_read(&cluster).await;
    let rewriting = tokio::spawn(rewrite(api(&cluster)));
    eventually("some secrets are sealed with the second key", || async {
        match on_disk(&store, "k8s:enc:aescbc:v1:two:") {
            count if count > 5 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    cluster.kill().await;
    let _ = rewriting.await.expect("the writer ends");
    cluster.restart().await.expect("it starts again");
    all_can_be_read(&cluster).await;

    rewrite(api(&cluster)).await.expect("all are written again");
    configure(&file, &[TWO]);
    cluster.kill().await;
    cluster.restart().await.expect("it starts without the first key");
    all_can_be_read(&cluster).await;

    configure(&file, &[THREE, TWO]);
    cluster.kill().await;
    cluster.restart().await.expect("it starts with a third key");
    rewrite(api(&cluster)).await.expect("all are written again");
    configure(&file, &[THREE]);
    cluster.kill().await;
    cluster.restart().await.expect("it starts without the second key");
    all_can_be_read(&cluster).await;
    assert!(on_disk(&store, "k8s:enc:secretbox:v1:three:") >= SECRETS);
    assert_eq!(on_disk(&store, readable), 0, "a secret can be read from the disk");
}

fn base64(bytes: &[u8]) -> String {
    serde_json::to_value(ByteString(bytes.to_vec())).expect("JSON").as_str().unwrap_or_default().to_owned()
}
