//! Approves kubelets' requests for client certificates, where the requester may have one.
//!
//! Source of the behaviour: `approver/sarapprove.go`. Two rights, asked of the API in this order: `selfnodeclient` for a node
//! that renews its own certificate, `nodeclient` for who brings up nodes. Serving certificates are for somebody else to approve.

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client};
use wharf_client::{Action, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::csr::{self, Request};
use wharf_types::k8s::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use super::{APPROVED, DENIED, KUBELET_CLIENT, has, is_issued, kubelet, usages, with};
use crate::call::{self, During as _};

const REASON: &str = "AutoApproved";

pub struct Approver {
    client: Client,
    requests: Lister<CertificateSigningRequest>,
    clock: Clock,
}

impl Approver {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        Self { client: informers.client().clone(), requests: informers.of(), clock }
    }

    /// False also where nobody can be asked.
    async fn allows(&self, request: &CertificateSigningRequest, right: &Right) -> Result<bool, Error> {
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review(request, right)).await {
            Ok(review) => Ok(review.status.is_some_and(|status| status.allowed)),
            Err(error) if call::is_not_found(&error) => Ok(false),
            Err(error) => {
                let name = request.metadata.name.as_deref().unwrap_or_default();
                Ok(Err(error).during("review the rights of the requester of", name)?)
            }
        }
    }
}

#[async_trait]
impl Reconcile for Approver {
    fn name(&self) -> &'static str {
        "certificate-approver"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::primary(&self.requests)]
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(request) = self.requests.get(key) else { return Ok(Action::done()) };
        for right in rights(&request) {
            if self.allows(&request, right).await? {
                let approved = with(&request, APPROVED, REASON, right.message, self.clock.now());
                let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
                let written = api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await;
                match written {
                    // Somebody was faster; their change wakes us.
                    Err(error) if call::is_conflict(&error) || call::is_not_found(&error) => {}
                    result => drop(result.during("approve certificate request", key)?),
                }
                break;
            }
        }
        Ok(Action::done())
    }
}

/// Who may have their request approved.
#[derive(Debug, PartialEq, Eq)]
struct Right {
    subresource: &'static str,
    message: &'static str,
}

const OWN: Right = Right {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Right = Right {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// Pure: the rights any of which is enough for this request; none if it is not for us to approve.
fn rights(request: &CertificateSigningRequest) -> Vec<&'static Right> {
    let settled = is_issued(request) || has(request, APPROVED) || has(request, DENIED);
    let Some(parsed) = csr::parse(&request.spec.request.0).ok().filter(|_| !settled) else { return Vec::new() };
    if request.spec.signer_name != KUBELET_CLIENT || kubelet::validate_client(&parsed, &usages(&request.spec)).is_err()
    {
        return Vec::new();
    }
    if is_own(request, &parsed) { vec![&OWN, &ANY] } else { vec![&ANY] }
}

fn is_own(request: &CertificateSigningRequest, parsed: &Request) -> bool {
    request.spec.username.as_deref() == Some(parsed.common_name.as_str())
}

fn review(request: &CertificateSigningRequest, right: &Right) -> SubjectAccessReview {
    let spec = &request.spec;
    let attributes = ResourceAttributes {
        group: Some("certificates.k8s.io".to_owned()),
        resource: Some("certificatesigningrequests".to_owned()),
        subresource: Some(right.subresource.to_owned()),
        verb: Some("create".to_owned()),
        version: Some("*".to_owned()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{NODE, SERVING, request};
    use super::*;

    const USAGES: &[&str] = &["digital signature", "client auth"];

    fn check(request: &CertificateSigningRequest, expected: &[&str]) {
        let rights: Vec<&str> = rights(request).into_iter().map(|right| right.subresource).collect();
        assert_eq!(rights, expected);
    }

    #[test]
    fn a_node_renews_its_own_certificate() {
        check(&request(NODE, KUBELET_CLIENT, USAGES, json!({})), &["selfnodeclient", "nodeclient"]);
    }

    #[test]
    fn a_bootstrapper_gets_one_for_a_node() {
        let mut request = request(NODE, KUBELET_CLIENT, USAGES, json!({}));
        request.spec.username = Some("system:bootstrap:abc".to_owned());
        check(&request, &["nodeclient"]);
    }

    #[test]
    fn nothing_else_is_approved() {
        check(&request(NODE, "kubernetes.io/kube-apiserver-client", USAGES, json!({})), &[]);
        check(&request(SERVING, KUBELET_CLIENT, USAGES, json!({})), &[]);
        check(&request(NODE, KUBELET_CLIENT, &["server auth"], json!({})), &[]);
        check(&request("hello", KUBELET_CLIENT, USAGES, json!({})), &[]);
        for kind in [APPROVED, DENIED] {
            let status = json!({"conditions": [{"type": kind, "status": "True"}]});
            check(&request(NODE, KUBELET_CLIENT, USAGES, status), &[]);
        }
    }

    #[test]
    fn the_requester_is_who_is_asked_about() {
        let request = request(NODE, KUBELET_CLIENT, USAGES, json!({}));
        let spec = review(&request, &OWN).spec;
        assert_eq!(spec.user.as_deref(), Some("system:node:n1"));
        let attributes = spec.resource_attributes.expect("a resource");
        assert_eq!(attributes.subresource.as_deref(), Some("selfnodeclient"));
    }
}
