//! The node's certificates: asked of the cluster, kept on disk, and exchanged before they end.
//!
//! Source of the behaviour: `k8s.io/client-go/util/certificate` and `pkg/kubelet/certificate`. A node that has only the right to
//! ask begins with [`first`]; a [`Manager`] for each certificate goes on from there. Invariants: a key never leaves this machine;
//! a pair is whole on disk before anything shows it, whatever is killed when; time and luck come in as arguments.
//! Absent on purpose: TLS (whoever shows a pair is told of each new one), and approving (the cluster's business).

mod bootstrap;
mod manager;
mod request;
mod store;

use std::net::IpAddr;

pub use bootstrap::first;
pub use manager::{Manager, Means};
pub use store::Store;

/// A certificate, with those between it and the authority, and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// What a certificate is good for.
#[derive(Debug, PartialEq, Eq)]
pub struct Purpose {
    /// How its files begin.
    pub prefix: &'static str,
    pub signer: &'static str,
    /// Keys here are elliptic: they cannot encipher, and do not ask to.
    pub usages: [&'static str; 2],
}

/// To speak to the API server.
pub const CLIENT: Purpose = Purpose {
    prefix: "kubelet-client",
    signer: "kubernetes.io/kube-apiserver-client-kubelet",
    usages: ["digital signature", "client auth"],
};
/// To be spoken to by the API server.
pub const SERVING: Purpose = Purpose {
    prefix: "kubelet-server",
    signer: "kubernetes.io/kubelet-serving",
    usages: ["digital signature", "server auth"],
};

/// Whom a certificate is to name: the node, and what it is called by those who connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pub node: String,
    pub dns_names: Vec<String>,
    pub ip_addresses: Vec<IpAddr>,
}

impl Template {
    /// Of the certificate with which the node speaks.
    pub fn client(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// Of the certificate with which it is spoken to.
    pub fn serving(node: &str, addresses: &[IpAddr]) -> Self {
        Self { node: node.to_owned(), dns_names: vec![node.to_owned()], ip_addresses: addresses.to_vec() }
    }

    fn common_name(&self) -> String {
        format!("system:node:{}", self.node)
    }
}

const GROUP: &str = "system:nodes";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("make a key and a certificate signing request")]
    Make(#[from] rcgen::Error),
    #[error("{operation} a certificate signing request")]
    Api {
        operation: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("watch certificate signing request {0}")]
    Watch(String, #[source] Box<kube::runtime::watcher::Error>),
    #[error("certificate signing request {name} {why}")]
    Refused { name: String, why: String },
    #[error("certificate signing request {0} has not been signed in time")]
    TooLate(String),
    #[error("what was signed is no certificate of this key")]
    NotOurs,
}

impl Error {
    /// True where asking again as one is would bring the same answer.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Refused { .. } => true,
            Error::Api { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if matches!(status.code, 401 | 403))
            }
            _ => false,
        }
    }
}
