//! Tokens in secrets against the real API server: those of service accounts, and those to join with.

mod support;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use support::{Cluster, create, wait_for};
use wharf_client::ObjectKey;
use wharf_controllers::TokenSigner;
use wharf_types::k8s::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};

fn signer() -> TokenSigner {
    TokenSigner::new(|account, secret| {
        let text = |name: &Option<String>| name.clone().unwrap_or_default();
        Ok(format!("{}/{}", text(&account.metadata.name), text(&secret.metadata.name)))
    })
}

async fn cluster() -> Cluster {
    Cluster::with(|told| (told.token_signer, told.bootstrap_tokens) = (Some(signer()), true)).await
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
}

fn token(name: &str, account: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
        "type": "kubernetes.io/service-account-token",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_for_a_token_is_filled_and_goes_with_its_account() {
    let cluster = cluster().await;
    let (accounts, secrets) = (cluster.api::<ServiceAccount>(), cluster.api::<Secret>());
    let account =
        create(&accounts, json!({"metadata": {"name": "bot"}, "secrets": [{"name": "one"}, {"name": "own"}]})).await;
    for name in ["one", "two"] {
        create(&secrets, token(name, "bot")).await;
        let filled = cluster.wait_one::<Secret>(name, "a token", |secret| !text(secret, "token").is_empty()).await;
        assert_eq!(text(&filled, "token"), format!("bot/{name}"));
        assert_eq!((text(&filled, "namespace"), text(&filled, "ca.crt")), ("default".to_owned(), "PEM".to_owned()));
        let uid = filled.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/service-account.uid"));
        assert_eq!(uid, account.metadata.uid.as_ref());
    }
    let spoiled = json!({"data": {"ca.crt": null, "token": "eA=="}});
    secrets.patch("two", &PatchParams::default(), &Patch::Merge(spoiled)).await.expect("patched");
    // A token that is there stays.
    cluster
        .wait_one::<Secret>("two", "the authority again, beside the other token", |secret| {
            text(secret, "ca.crt") == "PEM" && text(secret, "token") == "x"
        })
        .await;

    secrets.delete("one", &DeleteParams::default()).await.expect("deleted");
    cluster
        .wait_one::<ServiceAccount>("bot", "the secret out of its list", |account| {
            account.secrets.iter().flatten().all(|secret| secret.name.as_deref() == Some("own"))
        })
        .await;
    accounts.delete("bot", &DeleteParams::default()).await.expect("deleted");
    cluster.wait::<Secret>("the secret gone with its account", |all| all.is_empty()).await;
    create(&secrets, token("late", "nobody")).await;
    cluster.wait::<Secret>("a secret for nobody gone", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_was_issued_anew_comes_to_every_namespace_and_token() {
    let (authority, published) = tokio::sync::watch::channel("OLD".to_owned());
    let cluster = Cluster::with(|told| (told.token_signer, told.ca_pem) = (Some(signer()), Some(published))).await;
    create(&cluster.api::<ServiceAccount>(), json!({"metadata": {"name": "bot"}})).await;
    create(&cluster.api::<Secret>(), token("one", "bot")).await;
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    create(&namespaces, json!({"metadata": {"name": "team"}})).await;
    for pem in ["OLD", "NEW"] {
        authority.send_replace(pem.to_owned());
        for namespace in ["default", "team"] {
            let key = ObjectKey::new(namespace, "kube-root-ca.crt");
            wait_for(cluster.informers.of::<ConfigMap>(), "the authority", move |all| {
                (all.get(&key)?.data.as_ref()?.get("ca.crt")? == pem).then_some(())
            })
            .await;
        }
        cluster.wait_one::<Secret>("one", "the authority", move |secret| text(secret, "ca.crt") == pem).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_info_is_signed_by_the_tokens_there_are() {
    let cluster = cluster().await;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "kube-public");
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), "kube-system");
    create(&maps, json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "x"}})).await;
    let bootstrap = |id: &str, expires: &str| {
        json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "stringData": {
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": expires,
        }})
    };
    let signatures = |expected: &'static [&'static str]| {
        let key = ObjectKey::new("kube-public", "cluster-info");
        wait_for(cluster.informers.of::<ConfigMap>(), "signatures", move |all| {
            let data = all.get(&key)?.data.clone()?;
            let ids: Vec<&str> = data.keys().filter_map(|key| key.strip_prefix("jws-kubeconfig-")).collect();
            (ids == expected).then_some(())
        })
    };
    create(&secrets, bootstrap("aaaaaa", "")).await;
    create(&secrets, bootstrap("bbbbbb", "2999-01-01T00:00:00Z")).await;
    signatures(&["aaaaaa", "bbbbbb"]).await;
    secrets.delete("bootstrap-token-aaaaaa", &DeleteParams::default()).await.expect("deleted");
    signatures(&["bbbbbb"]).await;
    let over = json!({"stringData": {"expiration": "2001-01-01T00:00:00Z"}});
    secrets.patch("bootstrap-token-bbbbbb", &PatchParams::default(), &Patch::Merge(over)).await.expect("patched");
    signatures(&[]).await;
    let key = ObjectKey::new("kube-system", "bootstrap-token-bbbbbb");
    wait_for(cluster.informers.of::<Secret>(), "the expired token gone", move |all| {
        all.get(&key).is_none().then_some(())
    })
    .await;
}
