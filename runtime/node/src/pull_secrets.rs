//! Credentials from `imagePullSecrets`.
//!
//! Source: `k8s.io/kubernetes/pkg/credentialprovider`. Credentials are tried from the most specific match to the least.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use wharf_cri::RegistryAuth;

const DEFAULT_REGISTRY: &str = "index.docker.io";

/// All credentials of the secrets that fit the image, best first.
pub fn matching<'a>(secrets: impl IntoIterator<Item = &'a Secret>, image: &str) -> Vec<RegistryAuth> {
    let image = normalize_image(image);
    let mut found: Vec<(usize, RegistryAuth)> = secrets
        .into_iter()
        .flat_map(entries)
        .filter(|(server, _)| matches(server, &image))
        .map(|(server, auth)| (server.len(), auth))
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// Server → credentials of one secret; what cannot be read is left out.
fn entries(secret: &Secret) -> Vec<(String, RegistryAuth)> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let parsed: Option<Value> = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => {
            let config = data(".dockerconfigjson").and_then(|data| serde_json::from_slice::<Value>(&data.0).ok());
            config.and_then(|config| config.get("auths").cloned())
        }
        Some("kubernetes.io/dockercfg") => data(".dockercfg").and_then(|data| serde_json::from_slice(&data.0).ok()),
        _ => None,
    };
    let servers = parsed.as_ref().and_then(Value::as_object);
    servers.into_iter().flatten().filter_map(|(server, entry)| Some((normalize_server(server), auth(entry)?))).collect()
}

fn auth(entry: &Value) -> Option<RegistryAuth> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if let Some((user, pass)) = STANDARD
        .decode(text("auth"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .as_deref()
        .and_then(|both| both.split_once(':'))
    {
        (username, password) = (user.to_owned(), pass.trim_end_matches('\0').to_owned());
    }
    let identity_token = text("identitytoken");
    let empty = username.is_empty() && password.is_empty() && identity_token.is_empty();
    (!empty).then_some(RegistryAuth { username, password, identity_token })
}

/// Without scheme, API version suffix and trailing slash.
fn normalize_server(server: &str) -> String {
    let server = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let server = server.trim_end_matches('/');
    let server = server.strip_suffix("/v1").or_else(|| server.strip_suffix("/v2")).unwrap_or(server);
    if server == "docker.io" { DEFAULT_REGISTRY.to_owned() } else { server.to_owned() }
}

/// With its registry in front, without tag and digest.
fn normalize_image(image: &str) -> String {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let image = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    };
    let first = image.split('/').next().unwrap_or_default();
    let has_registry = image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    match image.strip_prefix("docker.io/") {
        Some(rest) => format!("{DEFAULT_REGISTRY}/{rest}"),
        None if has_registry => image.to_owned(),
        None => format!("{DEFAULT_REGISTRY}/{image}"),
    }
}

/// Same number of dot-separated parts, `*` within a part; a path must be a prefix.
fn matches(server: &str, image: &str) -> bool {
    let (server_host, server_path) = server.split_once('/').unwrap_or((server, ""));
    let (image_host, image_path) = image.split_once('/').unwrap_or((image, ""));
    let split = |host: &str| -> (Vec<String>, Option<String>) {
        let (name, port) = host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port.to_owned())));
        (name.split('.').map(str::to_owned).collect(), port)
    };
    let ((server_parts, server_port), (image_parts, image_port)) = (split(server_host), split(image_host));
    server_port == image_port
        && server_parts.len() == image_parts.len()
        && server_parts.iter().zip(&image_parts).all(|(pattern, part)| glob(pattern, part))
        && image_path.starts_with(server_path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => {
            let Some(rest) = text.strip_prefix(head) else { return false };
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(tail, &rest[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(auths: Value) -> Secret {
        let config = STANDARD.encode(json!({"auths": auths}).to_string());
        serde_json::from_value(json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": config}}))
            .unwrap()
    }

    fn check(server: &str, image: &str, fits: bool) {
        let secret = secret(json!({server: {"username": "u", "password": "p"}}));
        assert_eq!(matching([&secret], image).len(), usize::from(fits), "{server} {image}");
    }

    #[test]
    fn servers_match_by_host_port_and_path() {
        check("https://index.docker.io/v1/", "nginx", true);
        check("docker.io", "library/nginx:1", true);
        check("ghcr.io", "ghcr.io/me/app@sha256:00", true);
        check("ghcr.io", "quay.io/me/app", false);
        check("ghcr.io/me", "ghcr.io/me/app", true);
        check("ghcr.io/you", "ghcr.io/me/app", false);
        check("*.example.com", "reg.example.com/app", true);
        check("*.example.com", "example.com/app", false);
        check("localhost:5000", "localhost:5000/app:v1", true);
        check("localhost", "localhost:5000/app", false);
    }

    #[test]
    fn auth_fields_are_decoded_and_the_best_match_comes_first() {
        let auth = STANDARD.encode("me:se:cret");
        let secret = secret(json!({"ghcr.io": {"username": "a", "password": "b"}, "ghcr.io/me": {"auth": auth}}));
        let found = matching([&secret], "ghcr.io/me/app");
        assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("me", "se:cret"));
        assert_eq!(found.len(), 2);
    }
}
