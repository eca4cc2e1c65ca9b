//! Names of API groups, kinds and resources.

use std::borrow::Cow;
use std::fmt;

/// An API group and version, e.g. `apps/v1`; the core group's name is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
}

impl GroupVersion {
    pub const fn new(group: &'static str, version: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), version: Cow::Borrowed(version) }
    }

    /// Parses an `apiVersion` value. A value without a slash names a version of the core group.
    pub fn parse(api_version: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: Cow::Owned(group.to_owned()), version: Cow::Owned(version.to_owned()) }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

/// A kind in a group and version, e.g. `apps/v1 Deployment`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
}

impl Gvk {
    pub fn of<K: crate::k8s::Resource>() -> Self {
        Self { group: K::GROUP.into(), version: K::VERSION.into(), kind: K::KIND.into() }
    }

    pub fn group_version(&self) -> GroupVersion {
        GroupVersion { group: self.group.clone(), version: self.version.clone() }
    }

    /// `Deployment.apps`, or `Pod` in the core group: how upstream names a kind in error messages.
    pub fn group_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }
}

/// A resource in a group and version, e.g. `apps/v1 deployments`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub resource: Cow<'static, str>,
}

impl Gvr {
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion { group: self.group.clone(), version: self.version.clone() }
    }

    /// `deployments.apps`, or `pods` in the core group: how upstream names a resource in error messages.
    pub fn group_resource(&self) -> String {
        qualified(&self.resource, &self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}
