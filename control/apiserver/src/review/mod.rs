//! Reviews: questions that are asked by creating them. Nothing is stored; the answer is the object with its status.
//!
//! A row without storage is one of these. Source: `pkg/registry/{authentication,authorization}`. Invariants: a self-review speaks
//! of the caller as impersonated; an answer goes out in the encoding that the client asks for. Webhooks may see and change a
//! question, as they may any object that is created; policies have no say.

mod access;
mod rules;
mod token;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use wharf_admission::{Attributes, Notes, Operation};
use wharf_auth::User;
use wharf_registry::Row;
use wharf_types::field::{self, Path};
use wharf_types::k8s::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, UserInfo};
use wharf_types::k8s::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use wharf_types::meta::{ObjectMeta, Time};
use wharf_types::{AnyObject, ApiError, BoxObject, order};

use crate::audit::Annotations;
use crate::body;
use crate::call::Cluster;
use crate::options::{self, WriteOptions};
use crate::query::Query;
use crate::reply::{self, Body};
use crate::request::Resource;
use crate::route::Route;
use crate::server::ApiServer;
use crate::verbs::create;

/// The groups in which everything is a question.
const GROUPS: &[&str] = &["authentication.k8s.io", "authorization.k8s.io"];

/// True where a question is asked.
pub fn serves(resource: &Resource) -> bool {
    GROUPS.contains(&resource.group.as_str())
}

/// One question.
struct Asked<'a> {
    server: &'a ApiServer,
    user: &'a User,
    row: &'a Row,
    now: Timestamp,
}

/// Answers a create. The request is authorized, and the route leads to a row without storage.
pub async fn answer(
    server: &Arc<ApiServer>,
    parts: &Parts,
    query: &Query,
    route: &Route,
    user: &User,
    bytes: &Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(query, "CreateOptions")?;
    let row = &*route.row;
    let body::Decoded { object: (mut object, _), strict } = body::object(bytes, &parts.headers, row)?;
    let warnings = body::judge(strict, options.validation, &row.gvk)?;
    create::settle_namespace(route.namespace.as_deref(), object.meta_mut())?;
    let write = Attributes {
        operation: Operation::Create,
        row: route.row.clone(),
        subresource: None,
        namespace: route.namespace.clone(),
        name: String::new(),
        object: Some(object),
        old: None,
        user: user.clone(),
        dry_run: options.dry_run,
        options: options::admitted(query, Operation::Create),
        reinvocation: Default::default(),
        managed: Default::default(),
    };
    let mut notes = Notes { warnings, ..Notes::default() };
    let mut object = admit(server, write, &mut notes).await?;
    let asked = Asked { server, user, row, now: (server.clock)() };
    asked.answer(&mut *object).await?;
    let answer: Value = serde_json::from_slice(&object.to_vec()).map_err(ApiError::internal)?;
    let answer = order::envelope(&answer).into();
    let mut response = reply::written(&parts.headers, StatusCode::CREATED, answer, &notes.warnings)?;
    if !notes.audit_annotations.is_empty() {
        response.extensions_mut().insert(Annotations(notes.audit_annotations));
    }
    Ok(response)
}

async fn admit(server: &ApiServer, mut write: Attributes, notes: &mut Notes) -> Result<BoxObject, ApiError> {
    server.admission.admit(&mut write, &Cluster(server), notes).await?;
    server.admission.validate(&write, &Cluster(server), notes).await?;
    write.object.ok_or_else(|| ApiError::internal("an admission plugin took the question away"))
}

impl Asked<'_> {
    async fn answer(&self, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let object: &mut dyn Any = object.as_any_mut();
        if let Some(review) = object.downcast_mut::<SubjectAccessReview>() {
            return self.subject_access(review).await;
        }
        if let Some(review) = object.downcast_mut::<LocalSubjectAccessReview>() {
            return self.local_subject_access(review).await;
        }
        if let Some(review) = object.downcast_mut::<SelfSubjectAccessReview>() {
            return self.self_subject_access(review).await;
        }
        if let Some(review) = object.downcast_mut::<SelfSubjectRulesReview>() {
            return self.self_subject_rules(review);
        }
        if let Some(review) = object.downcast_mut::<TokenReview>() {
            return self.token(review).await;
        }
        match object.downcast_mut::<SelfSubjectReview>() {
            Some(review) => {
                review.metadata.creation_timestamp = Some(Time(crate::verbs::write::whole_seconds(self.now)));
                review.status = Some(SelfSubjectReviewStatus { user_info: Some(info(self.user)) });
                Ok(())
            }
            None => Err(ApiError::no_such_path()),
        }
    }

    fn invalid(&self, errors: &[field::Error]) -> Result<(), ApiError> {
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&self.row.gvk, "", errors)) }
    }
}

/// A user as the API shows one.
fn info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()).filter(|name| !name.is_empty()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

/// A review has no name and no labels.
fn bare(meta: &ObjectMeta, namespaced: bool) -> Option<field::Error> {
    let mut rest = ObjectMeta { managed_fields: None, ..meta.clone() };
    if namespaced {
        rest.namespace = None;
    }
    let why = if namespaced { "must be empty except for namespace" } else { "must be empty" };
    let shown = || serde_json::to_value(meta).unwrap_or_default();
    (rest != ObjectMeta::default()).then(|| field::Error::invalid(&Path::new("metadata"), shown(), why))
}
