//! `serviceaccounts/token`: a token for an account, bound to an object if asked.
//!
//! Source: `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/apis/authentication/validation`.

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use wharf_admission::{Operation, Reader};
use wharf_auth::token::{Claims, Ref, Request};
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus};
use wharf_types::k8s::api::core::v1::{Pod, ServiceAccount};
use wharf_types::meta::Time;
use wharf_types::{ApiError, Gvk, Gvr};

use crate::body;
use crate::call::{Call, Cluster};
use crate::options::WriteOptions;
use crate::reply::Reply;
use crate::verbs::create;

/// Seconds: shortest, longest, and what is given when none is asked for.
const SHORTEST_S: i64 = 10 * 60;
const LONGEST_S: i64 = 1 << 32;
const DEFAULT_S: i64 = 60 * 60;

fn kind() -> Gvk {
    Gvk { group: "authentication.k8s.io".into(), version: "v1".into(), kind: "TokenRequest".into() }
}

pub async fn create(call: &mut Call, bytes: Bytes) -> Result<Reply, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let body::Decoded { object: mut asked, strict } = body::typed::<TokenRequest>(&bytes, &call.headers, &kind())?;
    call.warn(body::judge(strict, options.validation, &kind())?);
    create::settle_namespace(call.namespace.as_deref(), &mut asked.metadata)?;
    let account = call.existing().await?;
    let account = call.decode(&account)?;
    let account = account.downcast_ref::<ServiceAccount>().ok_or_else(|| ApiError::internal("no service account"))?;
    match asked.metadata.name.as_deref().unwrap_or_default() {
        "" => asked.metadata.name = Some(call.name.clone()),
        name if name == call.name => {}
        name => {
            let why = format!("name in URL does not match name in token request: {name:?}");
            return Err(ApiError::bad_request(why));
        }
    }
    let spec = asked.spec.get_or_insert_default();
    let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_S);
    validate(seconds)?;
    let mut write = call.attributes(Operation::Create, Some(Box::new(asked)), None, options.dry_run);
    call.admit(&mut write).await?;
    // Plugins see what was asked for, not whom the token is for if nobody said.
    let sent = write.object.as_mut().and_then(|object| object.downcast_mut::<TokenRequest>());
    if let Some(spec) = sent.and_then(|asked| asked.spec.as_mut())
        && spec.audiences.as_ref().is_none_or(Vec::is_empty)
    {
        spec.audiences = Some(vec![wharf_auth::token::ISSUER.to_owned()]);
    }
    call.validate(&write).await?;
    let asked = write.object.as_ref().and_then(|object| object.downcast_ref::<TokenRequest>());
    let mut asked = asked.cloned().ok_or_else(|| ApiError::internal("an admission plugin took the request away"))?;
    let issued = issue(call, account, &asked, seconds)?;
    asked.metadata.creation_timestamp = Some(Time(crate::verbs::write::whole_seconds(call.now)));
    asked.status = Some(issued);
    Ok(Reply::plain(StatusCode::CREATED, &asked))
}

fn validate(seconds: i64) -> Result<(), ApiError> {
    let why = match seconds {
        ..SHORTEST_S => "may not specify a duration less than 10 minutes",
        SHORTEST_S..=LONGEST_S => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let path = Path::new("spec").child("expirationSeconds");
    Err(ApiError::invalid(&kind(), "", &[Error::invalid(&path, seconds, why)]))
}

fn issue(
    call: &Call,
    account: &ServiceAccount,
    asked: &TokenRequest,
    seconds: i64,
) -> Result<TokenRequestStatus, ApiError> {
    let key = call.server.token_key.as_ref().ok_or_else(|| ApiError::internal("no key to sign tokens with"))?;
    let spec = asked.spec.clone().unwrap_or_default();
    let mut request = Request {
        namespace: call.namespace.clone().unwrap_or_default(),
        account: Ref { name: call.name.clone(), uid: account.metadata.uid.clone().unwrap_or_default() },
        audiences: spec.audiences.unwrap_or_default(),
        seconds,
        ..Request::default()
    };
    if let Some(bound) = &spec.bound_object_ref {
        bind(call, bound, &mut request)?;
    }
    let claims = Claims::new(request, uuid::Uuid::new_v4().to_string(), call.now);
    let token = key.sign(&claims).map_err(ApiError::internal)?;
    // What was asked for: that the token is good for longer is for who is late.
    let ends: Timestamp = call.now.checked_add(SignedDuration::from_secs(seconds)).map_err(ApiError::internal)?;
    Ok(TokenRequestStatus {
        token: Some(token),
        expiration_timestamp: Some(Time(crate::verbs::write::whole_seconds(ends))),
    })
}

/// Finds the object that the token is to die with.
fn bind(call: &Call, bound: &BoundObjectReference, request: &mut Request) -> Result<(), ApiError> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (name, kind) = (text(&bound.name), text(&bound.kind));
    let (resource, namespace) = match (text(&bound.api_version).as_str(), kind.as_str()) {
        ("v1", "Pod") => ("pods", call.namespace.as_deref()),
        ("v1", "Secret") => ("secrets", call.namespace.as_deref()),
        ("v1", "Node") => ("nodes", None),
        (version, kind) => {
            let account = &call.name;
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to object type {version}, Kind={kind}"
            )));
        }
    };
    let gvr = |resource: &'static str| Gvr { group: "".into(), version: "v1".into(), resource: resource.into() };
    let cluster = Cluster(&call.server);
    let found =
        cluster.get(&gvr(resource), namespace, &name).ok_or_else(|| ApiError::not_found(&gvr(resource), &name))?;
    let held = Ref { name: name.clone(), uid: text(&found.meta().uid) };
    if let Some(pod) = found.downcast_ref::<Pod>() {
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.service_account_name.as_deref() != Some(&call.name) {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.name
            )));
        }
        if let Some(node) = spec.node_name.filter(|node| !node.is_empty()) {
            let uid = cluster.get(&gvr("nodes"), None, &node).map(|node| text(&node.meta().uid)).unwrap_or_default();
            request.node = Some(Ref { name: node, uid });
        }
    }
    let uid = text(&bound.uid);
    if !uid.is_empty() && uid != held.uid {
        let of = Gvr { group: "".into(), version: "v1".into(), resource: kind.clone().into() };
        return Err(ApiError::conflict(
            &of,
            &name,
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    match resource {
        "pods" => request.pod = Some(held),
        "secrets" => request.secret = Some(held),
        _ => request.node = Some(held),
    }
    Ok(())
}
