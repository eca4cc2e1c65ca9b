//! Who is let in and what they may do, as flags and files say.

use serde_json::json;
use wharf_test_support::{Cluster, cluster};

/// The code of a GET with this token, or with none.
async fn get(cluster: &Cluster, token: Option<&str>, path: &str) -> u16 {
    let mut config = kube::Config::new(cluster.url.parse().expect("a URL"));
    config.accept_invalid_certs = true;
    config.auth_info.token = token.map(|token| token.to_owned().into());
    let client = kube::Client::try_from(config).expect("a client");
    match client.request_text(http::Request::get(path).body(Vec::new()).expect("a request")).await {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{path}: {error:?}"),
    }
}

#[tokio::test]
async fn files_say_who_comes_in_and_who_may_do_what() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let version = "apiserver.config.k8s.io/v1";
    let tokens = file("tokens", "one,jane,1,\"system:masters\"\ntwo,bob,2\n".to_owned());
    let who = file(
        "authentication",
        json!({"apiVersion": version, "kind": "AuthenticationConfiguration",
            "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}})
        .to_string(),
    );
    let what = file(
        "authorization",
        json!({"apiVersion": version, "kind": "AuthorizationConfiguration", "authorizers": [
            {"type": "RBAC", "name": "rbac"}, {"type": "Node", "name": "node"}]})
        .to_string(),
    );
    let arguments = vec![
        format!("--token-auth-file={tokens}"),
        format!("--authentication-config={who}"),
        format!("--authorization-config={what}"),
    ];
    let cluster =
        Cluster::start(cluster::Options { arguments, ..cluster::Options::default() }).await.expect("it starts");
    for (token, path, code) in [
        (Some("one"), "/api/v1/secrets", 200),
        (Some("two"), "/api/v1/secrets", 403),
        (Some("two"), "/version", 200),
        (Some("other"), "/livez", 401),
        (None, "/livez", 200),
        (None, "/version", 401),
    ] {
        assert_eq!(get(&cluster, token, path).await, code, "{token:?} {path}");
    }
}
