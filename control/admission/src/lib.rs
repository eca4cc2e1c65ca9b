//! Admission: what may change or refuse a write between authorization and the store.
//!
//! Source of the shape: `k8s.io/apiserver/pkg/admission`. A [`Plugin`] is one file; the [`Chain`] lists them in upstream's order.
//! Invariants: every mutating plugin runs before any validating one; a plugin sees the object with its defaults;
//! plugins read the cluster and ask for rights through [`Reader`] only, which is as fresh as the last acknowledged write.

mod activation;
mod conditions;
pub mod config;
mod connect;
mod expression;
mod hooks;
mod matching;
mod memo;
pub mod plugins;
mod policy;
mod reinvocation;
mod subject;
pub mod wasm;
mod webhook;

/// Calls to webhooks, for who else has some to call.
pub mod outgoing {
    pub use crate::webhook::{CallError, Clients, FindService, ServiceTarget, Target};
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
pub use config::Configuration;
pub use connect::ConnectOptions;
pub use reinvocation::Reinvocation;
use serde_json::Value;
use wharf_auth::{Decision, User};
use wharf_registry::{Row, Subresource};
use wharf_types::{ApiError, BoxObject, Gvr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One write that asks to be admitted.
pub struct Attributes {
    pub operation: Operation,
    pub row: Arc<Row>,
    pub subresource: Option<Subresource>,
    /// None for cluster-scoped resources.
    pub namespace: Option<String>,
    /// Empty for a create with `generateName`, and for the whole of a collection.
    pub name: String,
    /// The new object: of the row's kind, or of the subresource's own (`Binding`, `Eviction`). None for a delete.
    pub object: Option<BoxObject>,
    /// What the write replaces or deletes.
    pub old: Option<BoxObject>,
    pub user: User,
    pub dry_run: bool,
    /// `CreateOptions` and the like, as webhooks are sent them. None where there are none.
    pub options: Option<Value>,
    pub reinvocation: Reinvocation,
    pub managed: Managed,
}

/// Managed fields, which travel beside the objects as JSON text. They are read only where somebody is shown a whole object.
#[derive(Clone, Debug, Default)]
pub struct Managed {
    /// Of the new object. Whoever changes the object as JSON may change them, too.
    pub new: Option<Bytes>,
    pub old: Option<Bytes>,
}

/// What plugins leave behind beside their verdict.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Sent as `Warning` headers.
    pub warnings: Vec<String>,
    pub audit_annotations: BTreeMap<String, String>,
}

impl Notes {
    fn absorb(&mut self, other: Self) {
        self.warnings.extend(other.warnings);
        self.audit_annotations.extend(other.audit_annotations);
    }
}

/// The cluster as the API server's cache has it, and who may do what there.
#[async_trait]
pub trait Reader: Send + Sync {
    fn get(&self, gvr: &Gvr, namespace: Option<&str>, name: &str) -> Option<BoxObject>;
    fn list(&self, gvr: &Gvr, namespace: Option<&str>) -> Vec<BoxObject>;
    /// One of the fields that the resource can be selected by, without reading the object; none where there is no object.
    fn field(&self, gvr: &Gvr, namespace: Option<&str>, name: &str, field: &str) -> Option<String>;
    /// Differs from what it was exactly if an object of the resource has changed: what was made of all of them holds until then.
    fn revision(&self, gvr: &Gvr) -> u64;
    /// The row of a kind, if it is served.
    fn row_of(&self, _api_version: &str, _kind: &str) -> Option<Arc<Row>> {
        None
    }
    /// Every row that shows the objects of a row in some version, that row among them.
    fn versions(&self, _row: &Row) -> Arc<[Arc<Row>]> {
        Arc::default()
    }
    /// Asks the server's own authorizer.
    async fn authorize(&self, user: &User, attributes: &wharf_auth::Attributes) -> Decision;

    /// Makes a namespace as the server itself; one that is there already will do.
    async fn create_namespace(&self, name: &str) -> Result<(), ApiError> {
        Err(ApiError::internal(format_args!("nothing here can make namespace {name:?}")))
    }

    /// A write that admission makes, to charge a quota: replaces an object's status if the object is still at the
    /// version that `object` carries, and is a conflict otherwise.
    async fn replace_status(&self, gvr: &Gvr, object: BoxObject) -> Result<(), ApiError> {
        Err(ApiError::internal(format_args!("nothing here can charge {} {:?}", gvr.group_resource(), object.name())))
    }
}

#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name, as `--enable-admission-plugins` takes it.
    fn name(&self) -> &'static str;

    fn handles(&self, operation: Operation) -> bool;

    /// Takes the plugin's part of the configuration, before anything is asked of it; most have none to take.
    fn configure(&mut self, _part: Option<&serde_yaml::Value>, _load: &config::Load<'_>) -> Result<(), String> {
        Ok(())
    }

    async fn admit(&self, _write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        Ok(())
    }

    async fn validate(&self, _write: &Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        Ok(())
    }
}

/// A choice of plugins that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("[{}] in enable-admission-plugins and disable-admission-plugins overlapped", .0.join(" "))]
    Both(Vec<String>),
    #[error("couldn't init admission plugin {plugin:?}: {why}")]
    Configure { plugin: &'static str, why: String },
}

/// Plugins in the order in which they run.
#[derive(Default)]
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
    host: Arc<wasm::Host>,
}

impl Chain {
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins, host: Arc::default() }
    }

    /// The plugins that are on by default.
    pub fn built_in() -> Self {
        Self::default_with(Arc::default())
    }

    /// The same, where this host runs the plugins that are components.
    pub fn default_with(host: Arc<wasm::Host>) -> Self {
        let all = plugins::ordered(&host).into_iter();
        let on = all.filter(|plugin| !plugins::OFF_BY_DEFAULT.contains(&plugin.name()));
        Self { plugins: on.collect(), host }
    }

    /// The plugins that are on by default, with some more and without others. Names that are in both lists, or that no
    /// plugin has, are an error. `host` runs the plugins that are components.
    pub fn select(enable: &[String], disable: &[String], host: Arc<wasm::Host>) -> Result<Self, SelectError> {
        let all = plugins::ordered(&host);
        for (flag, names) in [("enable-admission-plugins", enable), ("disable-admission-plugins", disable)] {
            if let Some(name) = names.iter().find(|name| !all.iter().any(|plugin| plugin.name() == *name)) {
                return Err(SelectError::Unknown { flag, name: name.clone() });
            }
        }
        let both: BTreeSet<&String> = enable.iter().filter(|name| disable.contains(name)).collect();
        if !both.is_empty() {
            return Err(SelectError::Both(both.into_iter().cloned().collect()));
        }
        let has = |names: &[String], plugin: &dyn Plugin| names.iter().any(|name| name == plugin.name());
        let is_on = |plugin: &dyn Plugin| {
            let by_default = !plugins::OFF_BY_DEFAULT.contains(&plugin.name());
            (by_default || has(enable, plugin)) && !has(disable, plugin)
        };
        Ok(Self { plugins: all.into_iter().filter(|plugin| is_on(&**plugin)).collect(), host })
    }

    /// What runs the plugins that are components.
    pub fn host(&self) -> &Arc<wasm::Host> {
        &self.host
    }

    /// Gives each plugin its part of the configuration; `load` reads the files that a part names.
    pub fn configured(mut self, parts: &Configuration, load: &config::Load<'_>) -> Result<Self, SelectError> {
        for plugin in &mut self.plugins {
            let name = plugin.name();
            let taken = plugin.configure(parts.of(name), load);
            taken.map_err(|why| SelectError::Configure { plugin: name, why })?;
        }
        Ok(self)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.plugins.iter().map(|plugin| plugin.name())
    }

    pub fn handles(&self, operation: Operation) -> bool {
        self.plugins.iter().any(|plugin| plugin.handles(operation))
    }

    /// Runs the mutating side of each plugin, and all of them once more where a webhook or policy has changed something.
    pub async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        self.round(write, cluster, notes).await?;
        if write.reinvocation.wanted {
            write.reinvocation.again = true;
            self.round(write, cluster, notes).await?;
        }
        Ok(())
    }

    async fn round(&self, write: &mut Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        let operation = write.operation;
        for plugin in self.plugins.iter().filter(|plugin| plugin.handles(operation)) {
            plugin.admit(write, cluster, notes).await?;
        }
        Ok(())
    }

    /// Runs the validating side of each plugin.
    pub async fn validate(&self, write: &Attributes, cluster: &dyn Reader, notes: &mut Notes) -> Result<(), ApiError> {
        for plugin in self.plugins.iter().filter(|plugin| plugin.handles(write.operation)) {
            plugin.validate(write, cluster, notes).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::k8s::api::core::v1::ConfigMap;

    use super::*;
    use crate::plugins::testing::{Cluster, write};

    /// Lets in whoever may `bless` config maps.
    struct Blessed;

    #[async_trait]
    impl Plugin for Blessed {
        fn name(&self) -> &'static str {
            "Blessed"
        }

        fn handles(&self, operation: Operation) -> bool {
            operation == Operation::Create
        }

        async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
            let asked = wharf_auth::Attributes {
                verb: "bless".into(),
                resource_request: true,
                resource: write.row.gvr.resource.clone().into_owned(),
                name: write.name.clone(),
                ..Default::default()
            };
            match cluster.authorize(&write.user, &asked).await {
                Decision::Allow(_) => Ok(()),
                Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => {
                    Err(ApiError::forbidden(&write.row.gvr, "", why))
                }
            }
        }
    }

    #[tokio::test]
    async fn a_plugin_may_ask_what_the_writer_may_do() {
        let chain = Chain::new(vec![Box::new(Blessed)]);
        let create = write(Operation::Create, "configmaps", ConfigMap::default());
        for (cluster, allowed) in
            [(Cluster::default(), false), (Cluster::default().allowing("jane bless /configmaps "), true)]
        {
            let verdict = chain.validate(&create, &cluster, &mut Notes::default()).await;
            assert_eq!(verdict.is_ok(), allowed);
        }
    }

    fn check(enable: &[&str], disable: &[&str], expected: Result<(bool, bool), &str>) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let chain = Chain::select(&owned(enable), &owned(disable), Arc::default()).map_err(|error| error.to_string());
        let has = |chain: &Chain, name: &str| chain.names().any(|held| held == name);
        let got = chain.map(|chain| (has(&chain, "PodSecurity"), has(&chain, "AlwaysPullImages")));
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn plugins_are_chosen_by_name() {
        check(&[], &[], Ok((true, false)));
        check(&["AlwaysPullImages"], &["PodSecurity"], Ok((false, true)));
        check(&["Odd"], &[], Err("enable-admission-plugins plugin \"Odd\" is unknown"));
        check(&[], &["Odd"], Err("disable-admission-plugins plugin \"Odd\" is unknown"));
        let both =
            "[AlwaysPullImages PodSecurity] in enable-admission-plugins and disable-admission-plugins overlapped";
        let names = ["PodSecurity", "AlwaysPullImages"];
        check(&names, &names, Err(both));
    }
}
