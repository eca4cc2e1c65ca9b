//! Who approves or denies a certificate request must be allowed to `approve` for its signer.
//!
//! Source: `plugin/pkg/admission/certificates/approval` and `plugin/pkg/admission/certificates/util.go`.

use async_trait::async_trait;
use wharf_auth::{Attributes as Asked, Decision, User};
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct CertificateApproval;

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let approval = write.subresource == Some(Subresource::Approval);
        if !approval || !write.about("certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let Some(old) = write.old_as::<CertificateSigningRequest>() else { return Ok(()) };
        let signer = &old.spec.signer_name;
        match may(cluster, &write.user, "approve", signer).await {
            true => Ok(()),
            false => {
                Err(write.forbidden(format_args!("user not permitted to approve requests with signerName {signer:?}")))
            }
        }
    }
}

/// True for whoever may do it for this signer, or for all signers of its domain.
pub async fn may(cluster: &dyn Reader, user: &User, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let asked = Asked {
            verb: verb.to_owned(),
            resource_request: true,
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Asked::default()
        };
        if matches!(cluster.authorize(user, &asked).await, Decision::Allow(_)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    async fn check(rights: &str, subresource: Option<Subresource>, allowed: bool) {
        let request: CertificateSigningRequest =
            json(json!({"metadata": {"name": "r"}, "spec": {"request": "", "signerName": "example.com/a"}}));
        let mut write = write(Operation::Update, "certificatesigningrequests", request.clone()).replacing(request);
        write.subresource = subresource;
        let verdict = run(&CertificateApproval, &mut write, &Cluster::default().allowing(rights)).await;
        let refusal = r#"certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to approve requests with signerName "example.com/a""#;
        assert_eq!(verdict.map_err(|error| error.message), if allowed { Ok(()) } else { Err(refusal.to_owned()) });
    }

    #[tokio::test]
    async fn approval_is_for_approvers_of_the_signer() {
        let approval = Some(Subresource::Approval);
        check("jane approve certificates.k8s.io/signers example.com/a", approval, true).await;
        check("jane approve certificates.k8s.io/signers example.com/*", approval, true).await;
        check("jane approve certificates.k8s.io/signers example.com/b", approval, false).await;
        check("jane sign certificates.k8s.io/signers example.com/a", approval, false).await;
        check("nothing", None, true).await;
        check("nothing", Some(Subresource::Status), true).await;
    }
}
