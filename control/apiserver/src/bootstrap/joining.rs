//! What lets somebody with a bootstrap token join: where the cluster is, for all to read, and the right to ask for certificates.
//!
//! Source: what `kubeadm init` makes (`phases/bootstraptoken/{clusterinfo,node}`), under its names. Written where bootstrap
//! tokens are enabled; a controller signs `cluster-info`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::Api;
use tokio::sync::watch;
use wharf_auth::{ANONYMOUS, NODES};
use wharf_types::meta::ObjectMeta;

use super::{Error, client, settle};
use crate::server::ApiServer;

const PUBLIC: &str = "kube-public";
const CLUSTER_INFO: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const READERS: &str = "kubeadm:bootstrap-signer-clusterinfo";
const RBAC: &str = "rbac.authorization.k8s.io";
/// How long a write that failed waits.
const RETRY: Duration = Duration::from_secs(5);
/// Tokens that nodes join with name this group.
const NODE_TOKENS: &str = "system:bootstrappers:kubeadm:default-node-token";
/// Name, role, group.
const BINDINGS: &[(&str, &str, &str)] = &[
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", NODE_TOKENS),
    (
        "kubeadm:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        NODE_TOKENS,
    ),
    (
        "kubeadm:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        NODES,
    ),
];

/// Makes what is missing. `url` is how the server is reached, by a certificate of the authority `ca_pem`.
pub async fn ensure(server: &Arc<ApiServer>, ca_pem: &str, url: &str) -> Result<(), Error> {
    let client = client(server);
    let same = |held: &ConfigMap, wanted: &ConfigMap| {
        let content = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(KUBECONFIG)).cloned();
        content(held) == content(wanted)
    };
    settle(&Api::namespaced(client.clone(), PUBLIC), cluster_info(ca_pem, url), same).await?;
    // Rights are their owner's to change.
    settle(&Api::namespaced(client.clone(), PUBLIC), readers(), |_, _| true).await?;
    let everyone = subject("User", ANONYMOUS);
    let binding =
        RoleBinding { metadata: named(READERS), role_ref: role("Role", READERS), subjects: Some(vec![everyone]) };
    settle(&Api::namespaced(client.clone(), PUBLIC), binding, |_, _| true).await?;
    for (name, of, group) in BINDINGS {
        let binding = ClusterRoleBinding {
            metadata: named(name),
            role_ref: role("ClusterRole", of),
            subjects: Some(vec![subject("Group", group)]),
        };
        settle(&Api::all(client.clone()), binding, |_, _| true).await?;
    }
    Ok(())
}

/// Tells again whom to trust, whenever that changes.
pub async fn keep(server: Arc<ApiServer>, mut authority: watch::Receiver<String>, url: String) {
    while authority.changed().await.is_ok() {
        let ca_pem = authority.borrow_and_update().clone();
        while let Err(error) = ensure(&server, &ca_pem, &url).await {
            tracing::warn!(error = &error as &dyn std::error::Error, retry_in = ?RETRY, "tell joining nodes whom to trust");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn cluster_info(ca_pem: &str, url: &str) -> ConfigMap {
    let authority = STANDARD.encode(ca_pem);
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: {url}\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    );
    ConfigMap {
        metadata: named(CLUSTER_INFO),
        data: Some(BTreeMap::from([(KUBECONFIG.to_owned(), kubeconfig)])),
        ..ConfigMap::default()
    }
}

fn readers() -> Role {
    let rule = PolicyRule {
        verbs: vec!["get".to_owned()],
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["configmaps".to_owned()]),
        resource_names: Some(vec![CLUSTER_INFO.to_owned()]),
        ..PolicyRule::default()
    };
    Role { metadata: named(READERS), rules: Some(vec![rule]) }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn role(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(RBAC.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn subject(kind: &str, name: &str) -> Subject {
    Subject { api_group: Some(RBAC.to_owned()), kind: kind.to_owned(), name: name.to_owned(), namespace: None }
}
