//! Who this server is to webhooks: the users of a kubeconfig, named after those whom they are shown to.
//!
//! Source: `k8s.io/apiserver/pkg/util/webhook/authentication.go`. Absent on purpose: impersonation and `exec`, and reading a
//! `tokenFile` or certificate again when it changes.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use serde_yaml::Value;
use wharf_types::field::{Error, Path};

use crate::config::{self, Load};

const VERSIONS: [&str; 1] = ["apiserver.config.k8s.io/v1"];
const KIND: &str = "WebhookAdmissionConfiguration";
const OLD_VERSIONS: [&str; 1] = ["apiserver.config.k8s.io/v1alpha1"];
const OLD_KIND: &str = "WebhookAdmission";

/// A webhook plugin's part of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(rename = "kubeConfigFile", default)]
    file: String,
}

/// The credentials that a webhook plugin's part of the configuration names.
pub fn credentials(part: Option<&Value>, load: &Load<'_>) -> Result<Credentials, String> {
    let Some(part) = part else { return Ok(Credentials::default()) };
    let is_old = part.get("kind").and_then(Value::as_str) == Some(OLD_KIND);
    let (versions, kind) = if is_old { (OLD_VERSIONS, OLD_KIND) } else { (VERSIONS, KIND) };
    let Configuration { file } = config::read(part, &versions, kind)?;
    if file.is_empty() {
        return Ok(Credentials::default());
    }
    if !file.starts_with('/') {
        let path = Path::new("kubeConfigFile");
        return Err(Error::invalid(&path, file, "must be an absolute file path").to_string());
    }
    Credentials::read(&load(&file)?, load)
}

/// What is shown to one webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Credential {
    token: Option<String>,
    basic: Option<(String, String)>,
    /// Certificates and their key, as PEM.
    certificate: Option<(Vec<u8>, Vec<u8>)>,
}

/// Credentials by the names of those to whom they are shown: `*.example.com`, `hook.ns.svc:8443`, `*`.
#[derive(Debug, Default)]
pub struct Credentials {
    users: BTreeMap<String, Credential>,
    current: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named<Context>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "user")]
    of: T,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
}

impl Credentials {
    /// Reads a kubeconfig.
    pub fn read(yaml: &str, load: &Load<'_>) -> Result<Self, String> {
        let config: Kubeconfig = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        let current = config.contexts.into_iter().find(|context| context.name == config.current_context);
        let users = config.users.into_iter().map(|user| Ok((user.name, Credential::read(user.of, load)?)));
        Ok(Self { users: users.collect::<Result<_, String>>()?, current: current.map(|context| context.of.user) })
    }

    /// What is shown to whoever is called by this name.
    pub fn of(&self, host: &str, port: u16) -> Option<&Credential> {
        if self.users.is_empty() {
            return None;
        }
        let with_port = format!("{host}:{port}");
        self.named(&with_port)
            .or_else(|| self.named(host).filter(|_| port == 443))
            .or_else(|| self.users.get("*"))
            .or_else(|| self.users.get(self.current.as_ref()?))
    }

    /// By the whole name, or by that of a domain above it.
    fn named(&self, target: &str) -> Option<&Credential> {
        let above = target.match_indices('.').map(|(at, _)| format!("*{}", &target[at..]));
        self.users.get(target).or_else(|| above.into_iter().find_map(|name| self.users.get(&name)))
    }
}

impl Credential {
    fn read(user: User, load: &Load<'_>) -> Result<Self, String> {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let token = match (given(user.token), given(user.token_file)) {
            (None, Some(path)) => Some(load(&path)?.trim().to_owned()),
            (token, _) => token,
        };
        let pem = |data: String, path: String| -> Result<Option<Vec<u8>>, String> {
            match (given(data), given(path)) {
                (Some(data), _) => STANDARD.decode(data).map(Some).map_err(|error| error.to_string()),
                (None, Some(path)) => load(&path).map(|text| Some(text.into_bytes())),
                (None, None) => Ok(None),
            }
        };
        let certificate = pem(user.client_certificate_data, user.client_certificate)?;
        let key = pem(user.client_key_data, user.client_key)?;
        let basic = given(user.username).map(|name| (name, user.password));
        Ok(Self { token, basic, certificate: certificate.zip(key) })
    }

    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Certificates and their key, as PEM.
    pub fn certificate(&self) -> Option<(&[u8], &[u8])> {
        self.certificate.as_ref().map(|(certificates, key)| (&**certificates, &**key))
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> Result<Option<HeaderValue>, String> {
        let text = match (&self.token, &self.basic) {
            (Some(token), _) => format!("Bearer {token}"),
            (None, Some((name, password))) => format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))),
            (None, None) => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "
kind: Config
users:
- {name: hook.ns.svc, user: {token: exact}}
- {name: '*.example.com', user: {username: joe, password: secret}}
- {name: 'web.example.com:8443', user: {tokenFile: /token}}
- {name: fallback, user: {token: current}}
contexts: [{name: c, context: {user: fallback}}]
current-context: c
";

    #[test]
    fn a_webhook_is_shown_what_is_named_after_it() {
        let load = |path: &str| Ok(format!("from {path}\n"));
        let credentials = Credentials::read(CONFIG, &load).expect("a kubeconfig");
        let check = |host: &str, port: u16, expected: &str| {
            let shown = credentials.of(host, port).and_then(|it| it.header().expect("a header"));
            assert_eq!(shown.as_ref().map_or("", |it| it.to_str().expect("text")), expected, "{host}:{port}");
        };
        check("hook.ns.svc", 443, "Bearer exact");
        check("hook.ns.svc", 8443, "Bearer current");
        check("a.example.com", 443, "Basic am9lOnNlY3JldA==");
        check("a.b.example.com", 443, "Basic am9lOnNlY3JldA==");
        check("web.example.com", 8443, "Bearer from /token");
        check("elsewhere", 443, "Bearer current");
        assert!(Credentials::default().of("a", 443).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let missing = |path: &str| Err(format!("open {path}: no such file or directory"));
        let error = Credentials::read(CONFIG, &missing).expect_err("a missing file");
        assert_eq!(error, "open /token: no such file or directory");
        let part = |file: &str| {
            let text = format!("{{apiVersion: {}, kind: {KIND}, kubeConfigFile: {file}}}", VERSIONS[0]);
            serde_yaml::from_str::<Value>(&text).expect("YAML")
        };
        let error = |file: &str| credentials(Some(&part(file)), &missing).map(drop).unwrap_err();
        assert_eq!(error("/config"), "open /config: no such file or directory");
        assert_eq!(error("config"), "kubeConfigFile: Invalid value: \"config\": must be an absolute file path");
    }
}
