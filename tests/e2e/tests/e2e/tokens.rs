//! Identities inside the cluster: what a pod finds beside its program, tokens in secrets, and tokens to join with.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, UserInfo};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use wharf_test_support::{Cluster, eventually};

const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A client as client-go makes one inside a pod: the token, the authority, and the server by its Service's name.
pub async fn client(cluster: &Cluster, token: &str, ca_pem: &str) -> Client {
    let file = cluster.home().join("ca.crt");
    std::fs::write(&file, ca_pem).expect("the authority is written");
    let (url, file) = (&cluster.url, file.display());
    let config = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
         clusters: [{{name: c, cluster: {{server: '{url}', certificate-authority: '{file}', tls-server-name: kubernetes.default.svc}}}}], \
         users: [{{name: u, user: {{token: '{token}'}}}}]}}"
    );
    let config = Kubeconfig::from_yaml(&config).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a configuration")).expect("a client")
}

async fn who(client: &Client) -> Result<UserInfo, kube::Error> {
    let review = Api::<SelfSubjectReview>::all(client.clone());
    let answer = review.create(&Default::default(), &SelfSubjectReview::default()).await?;
    Ok(answer.status.and_then(|status| status.user_info).unwrap_or_default())
}

fn code<T>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("no answer: {error}"),
    }
}

/// A token that held is remembered for ten seconds, as upstream does.
async fn refused(why: &str, client: &Client) {
    eventually(why, || async {
        match code(who(client).await) {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

pub async fn ca(cluster: &Cluster) -> String {
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "default");
    let map = maps.get("kube-root-ca.crt").await.expect("the authority is published");
    map.data.and_then(|mut data| data.remove("ca.crt")).expect("an authority")
}

#[tokio::test]
async fn a_pod_finds_a_token_that_ends_with_it() {
    let cluster = Cluster::with_images(&["show"]).await;
    cluster.kubectl(&["create", "serviceaccount", "reader"]).await.success();
    cluster.kubectl(&["create", "role", "reader", "--verb=get", "--resource=configmaps"]).await.success();
    let bind = ["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader"];
    cluster.kubectl(&bind).await.success();
    let show = |name: &str, args: &str| format!("{{name: {name}, image: 'show:v1', args: [{args}]}}");
    let containers = [
        show("token", &format!("cat, {PLACE}/token")),
        show("ca", &format!("cat, {PLACE}/ca.crt")),
        show("namespace", &format!("cat, {PLACE}/namespace")),
        show("env", "env"),
        show("call", "get, 'kubernetes.default.svc:443'"),
    ];
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: inside}}, spec: {{serviceAccountName: reader, restartPolicy: Never, containers: [{}]}}}}",
        containers.join(", ")
    );
    cluster.kubectl_with(&["apply", "-f", "-"], &pod).await.success();
    let wait = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/inside", "--timeout=60s"];
    cluster.kubectl(&wait).await.success();
    let log = async |container: &str| cluster.kubectl(&["logs", "inside", "-c", container]).await.success();
    assert_eq!(log("ca").await, ca(&cluster).await);
    // A log ends its last line, the file does not.
    assert_eq!(log("namespace").await, "default\n");
    let env = log("env").await;
    assert!(env.contains("KUBERNETES_SERVICE_HOST=127.") && env.contains("KUBERNETES_SERVICE_PORT=443"), "{env}");
    let answer = log("call").await;
    assert!(answer.contains("Client sent an HTTP request to an HTTPS server."), "{answer}");

    let client = client(&cluster, log("token").await.trim_end(), &log("ca").await).await;
    let user = who(&client).await.expect("the token is known");
    assert_eq!(user.username.as_deref(), Some("system:serviceaccount:default:reader"));
    let extra = user.extra.unwrap_or_default();
    let told = |key: &str| extra.get(&format!("authentication.kubernetes.io/{key}")).map(|values| values.join(","));
    assert_eq!(told("pod-name").as_deref(), Some("inside"));
    assert_eq!(told("node-name").as_deref(), Some("node-1"));
    assert!(told("credential-id").is_some_and(|id| id.starts_with("JTI=")));
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "default");
    assert_eq!(code(maps.get("kube-root-ca.crt").await), 200);
    assert_eq!(code(Api::<Secret>::namespaced(client.clone(), "default").list(&Default::default()).await), 403);

    cluster.kubectl(&["delete", "pod", "inside", "--timeout=60s"]).await.success();
    refused("the token ends with its pod", &client).await;
}

#[tokio::test]
async fn a_token_in_a_secret_lasts_as_long_as_the_secret_and_its_account() {
    let cluster = Cluster::server(&[]).await;
    cluster.kubectl(&["create", "serviceaccount", "robot"]).await.success();
    let secret = "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, \
                   metadata: {name: robot, annotations: {kubernetes.io/service-account.name: robot}}}";
    cluster.kubectl_with(&["apply", "-f", "-"], secret).await.success();
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), "default");
    let data = eventually("the secret is filled", || async {
        let held = secrets.get("robot").await.expect("the secret").data.unwrap_or_default();
        if held.contains_key("token") { Ok(held) } else { Err(held) }
    })
    .await;
    let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("text");
    assert_eq!(text("namespace"), "default");
    assert_eq!(text("ca.crt"), ca(&cluster).await);
    let client = client(&cluster, &text("token"), &text("ca.crt")).await;
    let user = who(&client).await.expect("the token is known");
    assert_eq!(user.username.as_deref(), Some("system:serviceaccount:default:robot"));
    eventually("its use is written down", || async {
        let labels = secrets.get("robot").await.expect("the secret").metadata.labels.unwrap_or_default();
        if labels.contains_key("kubernetes.io/legacy-token-last-used") { Ok(()) } else { Err(labels) }
    })
    .await;
    cluster
        .kubectl(&["label", "secret", "robot", "kubernetes.io/legacy-token-invalid-since=2030-01-01"])
        .await
        .success();
    refused("it is marked as invalid", &client).await;
    cluster.kubectl(&["label", "secret", "robot", "kubernetes.io/legacy-token-invalid-since-"]).await.success();
    assert_eq!(code(who(&client).await), 200);
    cluster.kubectl(&["delete", "serviceaccount", "robot"]).await.success();
    refused("its account is gone", &client).await;
    cluster.kubectl(&["wait", "--for=delete", "secret/robot", "--timeout=60s"]).await.success();
    let tracking = ["-n", "kube-system", "get", "configmap", "kube-apiserver-legacy-service-account-token-tracking"];
    cluster.kubectl(&tracking).await.success();
}

#[tokio::test]
async fn a_bootstrap_token_lets_somebody_ask_for_a_certificate() {
    let cluster = Cluster::server(&["--enable-bootstrap-token-auth"]).await;
    let secret = |id: &str, expires: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, type: bootstrap.kubernetes.io/token, metadata: {{name: bootstrap-token-{id}, namespace: kube-system}}, \
             stringData: {{token-id: {id}, token-secret: '0123456789abcdef', expiration: '{expires}', usage-bootstrap-signing: 'true', \
             usage-bootstrap-authentication: 'true', auth-extra-groups: 'system:bootstrappers:kubeadm:default-node-token'}}}}"
        )
    };
    cluster.kubectl_with(&["apply", "-f", "-"], &secret("abcdef", "2999-01-01T00:00:00Z")).await.success();
    cluster.kubectl_with(&["apply", "-f", "-"], &secret("fedcba", "2001-01-01T00:00:00Z")).await.success();
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "kube-public");
    let info = eventually("cluster-info is signed", || async {
        let data = maps.get("cluster-info").await.expect("cluster-info").data.unwrap_or_default();
        if data.contains_key("jws-kubeconfig-abcdef") { Ok(data) } else { Err(data) }
    })
    .await;
    assert!(info["kubeconfig"].contains(&cluster.url) && !info.contains_key("jws-kubeconfig-fedcba"), "{info:?}");
    let gone = ["-n", "kube-system", "wait", "--for=delete", "secret/bootstrap-token-fedcba", "--timeout=60s"];
    cluster.kubectl(&gone).await.success();

    let mut config = kube::Config::new(cluster.url.parse().expect("a URL"));
    config.accept_invalid_certs = true;
    let stranger = Api::<ConfigMap>::namespaced(Client::try_from(config).expect("a client"), "kube-public");
    assert_eq!(code(stranger.get("cluster-info").await), 200, "anybody may read where the cluster is");
    assert_eq!(code(stranger.list(&Default::default()).await), 403);

    let joining = client(&cluster, "abcdef.0123456789abcdef", &ca(&cluster).await).await;
    let user = who(&joining).await.expect("the token is known");
    assert_eq!(user.username.as_deref(), Some("system:bootstrap:abcdef"));
    assert!(user.groups.unwrap_or_default().contains(&"system:bootstrappers".to_owned()));
    let requests: Api<k8s_openapi::api::certificates::v1::CertificateSigningRequest> = Api::all(joining.clone());
    assert_eq!(code(requests.list(&Default::default()).await), 200);
    assert_eq!(code(Api::<Secret>::namespaced(joining.clone(), "kube-system").list(&Default::default()).await), 403);
    cluster.kubectl(&["-n", "kube-system", "delete", "secret", "bootstrap-token-abcdef"]).await.success();
    refused("the bootstrap token is gone", &joining).await;
}
