//! Tells in the status of ValidatingAdmissionPolicies what is wrong with the types in their expressions.
//!
//! Source: `k8s.io/kubernetes/pkg/controller/validatingadmissionpolicystatus`. A policy is looked at once for each generation, so a
//! kind that is defined later changes nothing until the policy does. The kinds that a policy is about come from discovery, their
//! types from the server's OpenAPI. What is found alters nothing but the status. MutatingAdmissionPolicies have none.

mod check;

use async_trait::async_trait;
use http::Request;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use wharf_client::{Action, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::cel::{Type, type_of_kind};
use wharf_types::k8s::api::admissionregistration::v1::{
    ParamKind, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus,
};
use wharf_types::{GroupVersion, Gvk, Gvr};

use crate::call::{self, During as _};

/// Who owns the status.
const MANAGER: &str = "validatingadmissionpolicy-status";

pub struct PolicyStatus {
    client: Client,
    policies: Lister<ValidatingAdmissionPolicy>,
}

impl PolicyStatus {
    pub fn new(informers: &Informers) -> Self {
        Self { client: informers.client().clone(), policies: informers.of() }
    }
}

#[async_trait]
impl Reconcile for PolicyStatus {
    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.policies)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(policy) = self.policies.get(key).filter(|policy| is_new(policy)) else { return Ok(Action::done()) };
        let types = Types { client: &self.client };
        let kinds = types.of_policy(&policy).await.during("find the kinds of policy", key)?;
        let params = match policy.spec.as_ref().and_then(|spec| spec.param_kind.as_ref()) {
            Some(kind) => types.of_params(kind).await.during("find the parameters' kind of policy", key)?,
            None => None,
        };
        let warnings = check::check(&policy, &kinds, params.as_ref());
        let status = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name},
            "status": {
                "observedGeneration": policy.metadata.generation,
                "typeChecking": {"expressionWarnings": warnings},
            },
        });
        let params = PatchParams::apply(MANAGER).force();
        match Api::<ValidatingAdmissionPolicy>::all(self.client.clone())
            .patch_status(&key.name, &params, &Patch::Apply(&status))
            .await
        {
            Err(error) if call::is_not_found(&error) => {}
            result => drop(result.during("tell what was found in policy", key)?),
        }
        Ok(Action::done())
    }
}

fn is_new(policy: &ValidatingAdmissionPolicy) -> bool {
    let seen = policy
        .status
        .as_ref()
        .and_then(|ValidatingAdmissionPolicyStatus { observed_generation, .. }| *observed_generation);
    policy.metadata.generation.unwrap_or_default() > seen.unwrap_or_default()
}

/// What the server says of kinds.
struct Types<'c> {
    client: &'c Client,
}

impl Types<'_> {
    /// The kinds that the policy is about and their types; those that the server does not have are left out.
    async fn of_policy(&self, policy: &ValidatingAdmissionPolicy) -> Result<Vec<(Gvk, Type)>, kube::Error> {
        let mut kinds: Vec<Gvk> = Vec::new();
        for gvr in check::resources(policy) {
            let Some(kind) = self.kind_of(&gvr).await? else { continue };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
            if kinds.len() == check::TYPES_MAX {
                break;
            }
        }
        kinds.sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
        let mut found = Vec::new();
        // Kinds of one version stand side by side: their document is read once.
        let mut held: Option<(GroupVersion, Option<Value>)> = None;
        for kind in kinds {
            let version = kind.group_version();
            if held.as_ref().is_none_or(|(of, _)| *of != version) {
                held = Some((version.clone(), self.document(&version).await?));
            }
            let document = held.as_ref().and_then(|(_, document)| document.as_ref());
            let ty = document.and_then(|document| type_of_kind(document, &kind.group, &kind.version, &kind.kind));
            found.extend(ty.map(|ty| (kind, ty)));
        }
        Ok(found)
    }

    async fn of_params(&self, kind: &ParamKind) -> Result<Option<Type>, kube::Error> {
        let version = GroupVersion::parse(kind.api_version.as_deref().unwrap_or_default());
        let document = self.document(&version).await?;
        let name = kind.kind.as_deref().unwrap_or_default();
        Ok(document.and_then(|document| type_of_kind(&document, &version.group, &version.version, name)))
    }

    async fn kind_of(&self, gvr: &Gvr) -> Result<Option<Gvk>, kube::Error> {
        let version = gvr.group_version().to_string();
        let listed = match gvr.group.as_ref() {
            "" => self.client.list_core_api_resources(&version).await,
            _ => self.client.list_api_group_resources(&version).await,
        };
        let listed = match listed {
            Err(error) if call::is_not_found(&error) => return Ok(None),
            listed => listed?,
        };
        let found = listed.resources.into_iter().find(|resource| resource.name == gvr.resource);
        Ok(found.map(|resource| Gvk {
            group: gvr.group.clone(),
            version: gvr.version.clone(),
            kind: resource.kind.into(),
        }))
    }

    /// The server's OpenAPI of a version; none where it does not serve it.
    async fn document(&self, version: &GroupVersion) -> Result<Option<Value>, kube::Error> {
        let root = if version.group.is_empty() { "api" } else { "apis" };
        let request = Request::get(format!("/openapi/v3/{root}/{version}")).body(Vec::new());
        let request = request.map_err(kube::core::request::Error::BuildRequest).map_err(kube::Error::BuildRequest)?;
        match self.client.request(request).await {
            Err(error) if call::is_not_found(&error) => Ok(None),
            document => document.map(Some),
        }
    }
}
