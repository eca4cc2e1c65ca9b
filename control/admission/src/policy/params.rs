//! The objects that a binding parameterizes its policy with.
//!
//! Source: `CollectParams` in `policy/generic/policy_dispatcher.go`.

use serde_json::Value;
use wharf_machinery::selector::LabelSelector;
use wharf_types::BoxObject;
use wharf_types::k8s::api::admissionregistration::v1::ParamRef;

use crate::Reader;

/// One evaluation for each; a policy without parameters is evaluated once, with none.
pub type Params = Vec<Option<Value>>;

/// `namespace` is the request's.
pub fn collect(
    kind: Option<&(String, String)>,
    reference: Option<&ParamRef>,
    namespace: Option<&str>,
    cluster: &dyn Reader,
) -> Result<Params, String> {
    let (Some((api_version, kind)), Some(reference)) = (kind, reference) else { return Ok(vec![None]) };
    let row = cluster
        .row_of(api_version, kind)
        .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"))?;
    let asked = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let namespace = match (row.namespaced(), asked) {
        (false, Some(_)) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (false, None) => None,
        (true, asked) => Some(
            asked
                .or(namespace)
                .ok_or("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")?,
        ),
    };
    let found: Vec<BoxObject> = match (reference.name.as_deref().unwrap_or_default(), &reference.selector) {
        ("", Some(selector)) => {
            let (selector, none) = (LabelSelector::from_meta(selector), Default::default());
            let mut objects = cluster.list(&row.gvr, namespace);
            objects.retain(|object| selector.matches(object.meta().labels.as_ref().unwrap_or(&none)));
            objects
        }
        ("", None) => return Err("one of name or selector must be provided".to_owned()),
        (name, _) => cluster.get(&row.gvr, namespace, name).into_iter().collect(),
    };
    if found.is_empty() && reference.parameter_not_found_action.as_deref() == Some("Deny") {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.iter().map(|object| serde_json::from_slice(&object.to_vec()).ok()).collect())
}
