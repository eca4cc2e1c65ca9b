//! Gives each pod a service account and the means to prove it, and refuses pods whose account is not there.
//!
//! Source: `plugin/pkg/admission/serviceaccount`. Invariants: a pod is changed when it is created and never after; mirror pods
//! are not changed at all, and may refer to neither accounts nor secrets.

mod mount;
mod references;

use std::time::Duration;

use async_trait::async_trait;
use wharf_machinery::pod_secrets;
use wharf_registry::Subresource;
use wharf_types::k8s::api::core::v1::{Pod, ServiceAccount};
use wharf_types::{ApiError, Gvr};

use super::{MIRROR_ANNOTATION, core_v1};
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const DEFAULT: &str = "default";
/// The `default` account of a new namespace is made by a controller: a pod that comes at once is given this long (upstream:
/// ten attempts, up to 200 ms apart).
const DEFAULT_ATTEMPTS: u32 = 10;
const DEFAULT_PAUSE: Duration = Duration::from_millis(100);
const SERVICE_ACCOUNTS: Gvr = core_v1("serviceaccounts");
/// Letters and digits of a generated name (`k8s.io/apimachinery/pkg/util/rand`), and how many there are in one.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

pub struct ServiceAccountPlugin {
    random: fn() -> [u8; 16],
}

impl Default for ServiceAccountPlugin {
    fn default() -> Self {
        Self { random: || uuid::Uuid::new_v4().into_bytes() }
    }
}

impl ServiceAccountPlugin {
    fn suffix(&self) -> String {
        let bytes = (self.random)();
        bytes[..SUFFIX_LENGTH].iter().map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()] as char).collect()
    }
}

#[async_trait]
impl Plugin for ServiceAccountPlugin {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("", "pods") || write.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = write.new_as_mut::<Pod>() else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let named = spec.service_account_name.take().filter(|name| !name.is_empty());
        let name = named.unwrap_or_else(|| DEFAULT.to_owned());
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name.clone());
        let account = find(write, cluster, &name).await?;
        if let Some(pod) = write.new_as_mut::<Pod>() {
            self.equip(pod, account);
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let creates = write.operation == Operation::Create && write.is("", "pods");
        let debugs = write.operation == Operation::Update
            && write.about("", "pods")
            && write.subresource == Some(Subresource::EphemeralContainers);
        let Some(pod) = write.new_as::<Pod>().filter(|_| creates || debugs) else { return Ok(()) };
        if creates && is_mirror(pod) {
            return check_mirror(pod).map_err(|why| write.forbidden(why));
        }
        let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or_default();
        if name.is_empty() {
            let namespace = write.namespace.as_deref().unwrap_or_default();
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(write.forbidden(format_args!("no service account specified for pod {namespace}/{pod}")));
        }
        // Another plugin may have exchanged it.
        let account = find(write, cluster, name).await?;
        if debugs {
            // Upstream's error has no reason of its own here.
            return references::check_ephemeral(&account, pod).map_err(|why| ApiError::new(500, "", why));
        }
        references::check(&account, pod).map_err(|why| write.forbidden(why))
    }
}

impl ServiceAccountPlugin {
    /// Gives a pod what it has from its account: credentials, and secrets to pull images with.
    fn equip(&self, pod: &mut Pod, account: ServiceAccount) {
        let mounts = mount::wanted(&account, pod);
        let Some(spec) = pod.spec.as_mut() else { return };
        if mounts {
            mount::mount(spec, || self.suffix());
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account.image_pull_secrets.filter(|secrets| !secrets.is_empty());
        }
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR_ANNOTATION))
}

fn check_mirror(pod: &Pod) -> Result<(), &'static str> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts");
    }
    if !pod_secrets::names(pod).is_empty() {
        return Err("a mirror pod may not reference secrets");
    }
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    if projected.flat_map(|source| source.sources.iter().flatten()).any(|source| source.service_account_token.is_some())
    {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

async fn find(write: &Attributes, cluster: &dyn Reader, name: &str) -> Result<ServiceAccount, ApiError> {
    let namespace = write.namespace.as_deref().unwrap_or_default();
    let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_PAUSE).await;
        }
        let found = cluster.get(&SERVICE_ACCOUNTS, Some(namespace), name);
        if let Some(account) = found.as_ref().and_then(|object| object.downcast_ref::<ServiceAccount>()) {
            return Ok(account.clone());
        }
    }
    let missing = format!("serviceaccount {name:?} not found");
    Err(write.forbidden(format_args!("error looking up service account {namespace}/{name}: {missing}")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::{Value, json};

    fn cluster() -> Cluster {
        let account = |name: &str, more: Value| -> ServiceAccount {
            let mut account = json!({"metadata": {"name": name, "namespace": "default"}});
            account.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
            json(account)
        };
        let strict = json!({
            "metadata": {"name": "strict", "namespace": "default", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
            "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "registry"}],
        });
        Cluster::default()
            .with("serviceaccounts", account("default", json!({})))
            .with("serviceaccounts", account("builder", json!({"imagePullSecrets": [{"name": "registry"}]})))
            .with("serviceaccounts", account("mount", json!({"automountServiceAccountToken": true})))
            .with("serviceaccounts", account("nomount", json!({"automountServiceAccountToken": false})))
            .with("serviceaccounts", json::<ServiceAccount>(strict))
    }

    fn plugin() -> ServiceAccountPlugin {
        ServiceAccountPlugin { random: || [0; 16] }
    }

    /// `expected` is the account and the pull secrets of the pod, or the refusal.
    async fn check(metadata: Value, spec: Value, expected: Result<(&str, usize), &str>) {
        let mut write = write(Operation::Create, "pods", json::<Pod>(json!({"metadata": metadata, "spec": spec})));
        let verdict = run(&plugin(), &mut write, &cluster()).await;
        let spec = write.new_as::<Pod>().and_then(|pod| pod.spec.clone()).expect("spec");
        assert_eq!(spec.service_account, spec.service_account_name);
        let secrets = spec.image_pull_secrets.unwrap_or_default().len();
        let got = verdict.map(|()| (spec.service_account_name.unwrap_or_default(), secrets));
        let expected = expected.map(|(name, secrets)| (name.to_owned(), secrets)).map_err(str::to_owned);
        assert_eq!(got.map_err(|error| error.message), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn every_pod_has_an_account_that_is_there() {
        let web = || json!({"name": "web", "namespace": "default"});
        check(web(), json!({"containers": []}), Ok(("default", 0))).await;
        check(web(), json!({"containers": [], "serviceAccountName": "builder"}), Ok(("builder", 1))).await;
        let own = json!({"containers": [], "serviceAccountName": "builder", "imagePullSecrets": [{"name": "a"}, {"name": "b"}]});
        check(web(), own, Ok(("builder", 2))).await;
        let missing = r#"pods "web" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found"#;
        check(web(), json!({"containers": [], "serviceAccountName": "ghost"}), Err(missing)).await;
        let young = r#"pods "web-" is forbidden: error looking up service account new/default: serviceaccount "default" not found"#;
        check(json!({"generateName": "web-", "namespace": "new"}), json!({"containers": []}), Err(young)).await;
    }

    #[tokio::test]
    async fn mirror_pods_have_none() {
        let mirror = json!({"name": "web", "namespace": "default", "annotations": {MIRROR_ANNOTATION: "x"}});
        check(mirror.clone(), json!({"containers": []}), Ok(("", 0))).await;
        let refused = r#"pods "web" is forbidden: a mirror pod may not reference service accounts"#;
        let spec = json!({"containers": [], "serviceAccountName": "default", "serviceAccount": "default"});
        check(mirror.clone(), spec, Err(refused)).await;
        let secret = json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        let refused = r#"pods "web" is forbidden: a mirror pod may not reference secrets"#;
        check(mirror.clone(), secret, Err(refused)).await;
        let token = json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        let refused = r#"pods "web" is forbidden: a mirror pod may not use ServiceAccountToken volume projections"#;
        check(mirror, token, Err(refused)).await;
    }

    /// The pod as it comes out of the plugin.
    async fn admitted(spec: Value) -> Pod {
        let pod = json::<Pod>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}));
        let mut write = write(Operation::Create, "pods", pod);
        run(&plugin(), &mut write, &cluster()).await.expect("the pod is admitted");
        write.new_as::<Pod>().cloned().expect("a pod")
    }

    fn mounts(container: &wharf_types::k8s::api::core::v1::Container) -> String {
        let all = container.volume_mounts.iter().flatten();
        all.map(|mount| format!("{}@{}", mount.name, mount.mount_path)).collect::<Vec<_>>().join(" ")
    }

    const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

    #[tokio::test]
    async fn every_container_gets_the_credentials_of_its_account() {
        let spec = json!({
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": PLACE}]}],
            "volumes": [{"name": "own", "emptyDir": {}}],
        });
        let spec = admitted(spec).await.spec.expect("a spec");
        let init = spec.init_containers.expect("init containers");
        assert_eq!(mounts(&init[0]), format!("kube-api-access-bbbbb@{PLACE}"));
        assert_eq!(mounts(&spec.containers[0]), format!("kube-api-access-bbbbb@{PLACE}"));
        assert_eq!(mounts(&spec.containers[1]), format!("own@{PLACE}"));
        let volumes = spec.volumes.expect("volumes");
        let expected = json!({"name": "kube-api-access-bbbbb", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        assert_eq!(serde_json::to_value(&volumes[1]).expect("JSON"), expected);
    }

    #[tokio::test]
    async fn a_volume_of_that_name_is_used_and_one_that_nobody_needs_is_not_added() {
        let held =
            json!({"containers": [{"name": "a"}], "volumes": [{"name": "kube-api-access-mine", "emptyDir": {}}]});
        let spec = admitted(held).await.spec.expect("a spec");
        assert_eq!(mounts(&spec.containers[0]), format!("kube-api-access-mine@{PLACE}"));
        assert_eq!(spec.volumes.map(|volumes| volumes.len()), Some(1));
        let own = json!({"containers": [{"name": "a", "volumeMounts": [{"name": "own", "mountPath": PLACE}]}], "volumes": [{"name": "own", "emptyDir": {}}]});
        assert_eq!(admitted(own).await.spec.and_then(|spec| spec.volumes).map(|volumes| volumes.len()), Some(1));
    }

    #[tokio::test]
    async fn the_pod_decides_on_credentials_and_then_its_account() {
        for (account, pod, expected) in [
            ("default", json!(null), true),
            ("mount", json!(null), true),
            ("nomount", json!(null), false),
            ("default", json!(true), true),
            ("mount", json!(true), true),
            ("nomount", json!(true), true),
            ("default", json!(false), false),
            ("mount", json!(false), false),
            ("nomount", json!(false), false),
        ] {
            let spec = json!({"containers": [{"name": "a"}], "serviceAccountName": account, "automountServiceAccountToken": pod});
            let got = admitted(spec).await.spec.and_then(|spec| spec.volumes).is_some();
            assert_eq!(got, expected, "{account} {pod}");
        }
    }

    #[tokio::test]
    async fn an_account_may_hold_its_pods_to_its_own_secrets() {
        let named = |spec: Value| {
            let mut all = json!({"serviceAccountName": "strict", "containers": []});
            all.as_object_mut().expect("an object").extend(spec.as_object().cloned().expect("an object"));
            all
        };
        let web = || json!({"name": "web", "namespace": "default"});
        let volume = |name: &str| named(json!({"volumes": [{"name": "v", "secret": {"secretName": name}}]}));
        check(web(), volume("mine"), Ok(("strict", 1))).await;
        let refused = |what: &str| {
            format!(
                "pods \"web\" is forbidden: {what} is not allowed because service account strict does not reference that secret"
            )
        };
        check(web(), volume("other"), Err(&refused("volume with secret.secretName=\"other\""))).await;
        let env = json!([{"name": "K", "valueFrom": {"secretKeyRef": {"name": "other", "key": "k"}}}]);
        let init = named(json!({"initContainers": [{"name": "i", "env": env}]}));
        check(web(), init, Err(&refused("init container i with envVar K referencing secret.secretName=\"other\"")))
            .await;
        let from = named(json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "other"}}]}]}));
        check(web(), from, Err(&refused("container c with envFrom referencing secret.secretName=\"other\""))).await;
        let pull = named(json!({"imagePullSecrets": [{"name": "registry"}, {"name": "other"}]}));
        let why = "pods \"web\" is forbidden: imagePullSecrets[1].name=\"other\" is not allowed because service account strict does not reference that imagePullSecret";
        check(web(), pull, Err(why)).await;
    }

    #[tokio::test]
    async fn ephemeral_containers_are_held_to_the_same_secrets() {
        let check = async |secret: &str, expected: Result<(), &str>| {
            let pod = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"serviceAccountName": "strict", "containers": [],
                "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": secret}}]}]}});
            let mut write =
                write(Operation::Update, "pods", json::<Pod>(pod)).through(Subresource::EphemeralContainers);
            let got = run(&plugin(), &mut write, &cluster()).await.map_err(|error| error.message);
            assert_eq!(got, expected.map_err(str::to_owned));
            assert!(write.new_as::<Pod>().and_then(|pod| pod.spec.as_ref()?.volumes.as_ref()).is_none());
        };
        check("mine", Ok(())).await;
        let why = "ephemeral container e with envFrom referencing secret.secretName=\"other\" is not allowed because service account strict does not reference that secret";
        check("other", Err(why)).await;
    }
}
