//! What may I do in this namespace? What `kubectl auth can-i --list` shows.
//!
//! Source: `pkg/registry/authorization/selfsubjectrulesreview`. RBAC can list its rules; the Node authorizer cannot, and a
//! node is told that its list is incomplete.

use wharf_types::ApiError;
use wharf_types::k8s::api::authorization::v1::{
    NonResourceRule, ResourceRule, SelfSubjectRulesReview, SubjectRulesReviewStatus,
};

use super::Asked;

impl Asked<'_> {
    pub(super) fn self_subject_rules(&self, review: &mut SelfSubjectRulesReview) -> Result<(), ApiError> {
        let namespace = review.spec.namespace.as_deref().unwrap_or_default();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let found = self.server.rbac.as_ref().map(|rbac| rbac.rules_for(self.user, namespace)).unwrap_or_default();
        let mut errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let node = wharf_auth::node::name_of(self.user).is_some();
        if node {
            errors.push("node authorizer does not support user rule resolution".to_owned());
        }
        if let Err(why) = self.server.authorizer.lists_rules() {
            errors.push(why.to_owned());
        }
        let mut status = SubjectRulesReviewStatus {
            incomplete: !errors.is_empty(),
            evaluation_error: Some(errors.join(", ")).filter(|text| !text.is_empty()),
            ..SubjectRulesReviewStatus::default()
        };
        for rule in found.rules {
            if rule.resources.as_ref().is_some_and(|resources| !resources.is_empty()) {
                status.resource_rules.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups,
                    resources: rule.resources,
                    resource_names: rule.resource_names,
                });
            }
            if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                status
                    .non_resource_rules
                    .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
            }
        }
        review.status = Some(status);
        Ok(())
    }
}
