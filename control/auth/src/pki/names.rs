//! Whom and what certificates are good for.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Who a client certificate speaks for: the common name is the user, the organisations are the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Identity {
    pub fn new(user: &str, groups: &[&str]) -> Self {
        Self { user: user.to_owned(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    /// `system:node:<name>` in `system:nodes`.
    pub fn node(name: &str) -> Self {
        Self::new(&format!("{}{name}", crate::NODE_USER_PREFIX), &[crate::NODES])
    }

    /// Whom the admin kubeconfig speaks for.
    pub fn admin() -> Self {
        Self::new("system:admin", &[crate::MASTERS])
    }
}

/// The names a server certificate is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

impl ServerNames {
    /// What clients of the API server call it: `localhost`, the `kubernetes` Service and the host's own name, and `extra`
    /// (addresses or names).
    pub fn api_server(service_ip: IpAddr, hostname: Option<&str>, extra: &[String]) -> Self {
        let mut names = Self::default();
        names.ips.extend([IpAddr::from([127, 0, 0, 1]), service_ip]);
        let service =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        names.dns.extend(["localhost"].into_iter().chain(service).map(str::to_owned));
        names.add(hostname.into_iter().chain(extra.iter().map(String::as_str)));
        names
    }

    /// What a node is called: its name and its addresses.
    pub fn of(names: &[String]) -> Self {
        let mut out = Self::default();
        out.add(names.iter().map(String::as_str));
        out
    }

    fn add<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            match name.parse() {
                Ok(ip) => drop(self.ips.insert(ip)),
                Err(_) => drop(self.dns.insert(name.to_owned())),
            }
        }
    }

    /// In the form of [`super::leaf::Facts::names`].
    pub(super) fn sorted(&self) -> Vec<String> {
        let mut all: Vec<String> = self.dns.iter().cloned().chain(self.ips.iter().map(IpAddr::to_string)).collect();
        all.sort_unstable();
        all
    }
}
