//! Kubeconfigs: where the API server is, whom to trust, and who one is, in one file.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::pki::{self, Error, Identity, Leaf, Pki};

/// The name that the cluster and the context carry.
pub const CLUSTER: &str = "wharf";

/// A kubeconfig with one cluster, one user and one context; certificates are embedded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    current_context: String,
    clusters: Vec<Named<ClusterEntry>>,
    contexts: Vec<Named<ContextEntry>>,
    users: Vec<Named<UserEntry>>,
}

/// An entry under its own name; kubeconfig puts each under a key that tells what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    entry: T,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterEntry {
    cluster: Cluster,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ContextEntry {
    context: Context,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct UserEntry {
    user: UserData,
}

/// Certificate and key, as they are or by the file that holds them, or a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserData {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Kubeconfig {
    /// `server` is a URL such as `https://127.0.0.1:6443`.
    pub fn new(server: &str, ca_pem: &str, user: &str, leaf: &Leaf) -> Self {
        let data = UserData {
            client_certificate_data: Some(STANDARD.encode(&leaf.certificate_pem)),
            client_key_data: Some(STANDARD.encode(&leaf.key_pem)),
            ..UserData::default()
        };
        Self::of(server, ca_pem, user, data)
    }

    /// One that names the file where certificate and key are, which may change.
    pub fn by_file(server: &str, ca_pem: &str, user: &str, pair: &Path) -> Self {
        let pair = Some(pair.display().to_string());
        let data = UserData { client_certificate: pair.clone(), client_key: pair, ..UserData::default() };
        Self::of(server, ca_pem, user, data)
    }

    /// One with a bearer token, a bootstrap token for one.
    pub fn by_token(server: &str, ca_pem: &str, user: &str, token: &str) -> Self {
        Self::of(server, ca_pem, user, UserData { token: Some(token.to_owned()), ..UserData::default() })
    }

    fn of(server: &str, ca_pem: &str, user: &str, data: UserData) -> Self {
        let context = if user == Identity::admin().user { CLUSTER.to_owned() } else { format!("{user}@{CLUSTER}") };
        let cluster = Cluster { server: server.to_owned(), certificate_authority_data: STANDARD.encode(ca_pem) };
        Self {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            current_context: context.clone(),
            clusters: vec![Named { name: CLUSTER.to_owned(), entry: ClusterEntry { cluster } }],
            contexts: vec![Named {
                name: context,
                entry: ContextEntry { context: Context { cluster: CLUSTER.to_owned(), user: user.to_owned() } },
            }],
            users: vec![Named { name: user.to_owned(), entry: UserEntry { user: data } }],
        }
    }

    /// A kubeconfig with a new client certificate for `identity`.
    pub fn issue(pki: &Pki, server: &str, identity: &Identity, now: Timestamp) -> Result<Self, Error> {
        Ok(Self::new(server, &pki.ca_pem(), &identity.user, &pki.client(identity, now)?))
    }

    /// Writes the admin's kubeconfig to `path` unless the one that is there still serves: same server, same authority, same user,
    /// and a certificate with time left.
    pub fn ensure_admin(path: &Path, pki: &Pki, server: &str, now: Timestamp) -> Result<Self, Error> {
        let stored = std::fs::read_to_string(path).ok().and_then(|text| Self::parse(&text).ok());
        if let Some(stored) = stored.filter(|stored| stored.serves(pki, server, now)) {
            return Ok(stored);
        }
        let fresh = Self::issue(pki, server, &Identity::admin(), now)?;
        fresh.write(path)?;
        Ok(fresh)
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_yaml::from_str(text).map_err(Error::Kubeconfig)
    }

    pub fn to_yaml(&self) -> Result<String, Error> {
        serde_yaml::to_string(self).map_err(Error::Kubeconfig)
    }

    /// Writes the file in one step, for its owner's eyes only.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = self.to_yaml()?;
        pki::write_private(path, text.as_bytes()).map_err(|source| Error::Io {
            operation: "write",
            path: path.to_owned(),
            source,
        })
    }

    fn serves(&self, pki: &Pki, server: &str, now: Timestamp) -> bool {
        let [cluster] = self.clusters.as_slice() else { return false };
        let cluster = &cluster.entry.cluster;
        let (Some(ca), Some(leaf)) = (text(&cluster.certificate_authority_data), self.leaf()) else { return false };
        cluster.server == server && ca == pki.ca_pem() && pki.speaks_for(&leaf, &Identity::admin(), now)
    }

    /// The certificate that is embedded, with its key.
    pub fn leaf(&self) -> Option<Leaf> {
        let [user] = self.users.as_slice() else { return None };
        let data = &user.entry.user;
        let (certificate, key) = (data.client_certificate_data.as_ref()?, data.client_key_data.as_ref()?);
        Some(Leaf { certificate_pem: text(certificate)?, key_pem: text(key)? })
    }
}

fn text(base64: &str) -> Option<String> {
    STANDARD.decode(base64).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_kubeconfig_is_kept_until_it_no_longer_serves() {
        let root = tempfile::tempdir().expect("temporary directory");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("timestamp");
        let pki = Pki::open(&root.path().join("pki"), now).expect("open");
        let path = root.path().join("kubeconfig");
        let first = Kubeconfig::ensure_admin(&path, &pki, "https://127.0.0.1:6443", now).expect("first");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(Kubeconfig::parse(&text).expect("parse"), first);
        assert!(text.contains("current-context: wharf") && text.contains("client-certificate-data: "), "{text}");

        let again = Kubeconfig::ensure_admin(&path, &pki, "https://127.0.0.1:6443", now).expect("again");
        assert_eq!(again, first, "nothing has changed");
        let moved = Kubeconfig::ensure_admin(&path, &pki, "https://127.0.0.1:7443", now).expect("moved");
        assert_ne!(moved, first, "the server has moved");
        let later = now + pki::LEAF_LIFETIME - pki::RENEW_BEFORE;
        let renewed = Kubeconfig::ensure_admin(&path, &pki, "https://127.0.0.1:7443", later).expect("renewed");
        assert_ne!(renewed, moved, "the certificate nears its end");
        std::fs::write(&path, "not: [a kubeconfig").expect("spoil");
        Kubeconfig::ensure_admin(&path, &pki, "https://127.0.0.1:7443", later).expect("a spoilt file is written anew");
    }
}
