//! Who issues a certificate, or says why not, must be allowed to `sign` for the request's signer.
//!
//! Source: `plugin/pkg/admission/certificates/signing`.

use async_trait::async_trait;
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use super::certificate_approval::may;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct CertificateSigning;

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, write: &Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let status = write.subresource == Some(Subresource::Status);
        if !status || !write.about("certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let requests = (write.old_as::<CertificateSigningRequest>(), write.new_as::<CertificateSigningRequest>());
        let (Some(old), Some(new)) = requests else { return Ok(()) };
        if old.status.clone().unwrap_or_default() == new.status.clone().unwrap_or_default() {
            return Ok(());
        }
        let signer = &old.spec.signer_name;
        match may(cluster, &write.user, "sign", signer).await {
            true => Ok(()),
            false => {
                Err(write.forbidden(format_args!("user not permitted to sign requests with signerName {signer:?}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    async fn check(rights: &str, status: Value, allowed: bool) {
        let request = |status: Value| -> CertificateSigningRequest {
            json(
                json!({"metadata": {"name": "r"}, "spec": {"request": "", "signerName": "example.com/a"}, "status": status}),
            )
        };
        let mut write = write(Operation::Update, "certificatesigningrequests", request(status))
            .replacing(request(json!({})))
            .through(Subresource::Status);
        let verdict = run(&CertificateSigning, &mut write, &Cluster::default().allowing(rights)).await;
        let refusal = r#"certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to sign requests with signerName "example.com/a""#;
        assert_eq!(verdict.map_err(|error| error.message), if allowed { Ok(()) } else { Err(refusal.to_owned()) });
    }

    #[tokio::test]
    async fn issuing_is_for_those_who_may_sign() {
        let issued = || json!({"certificate": "aGVsbG8="});
        check("jane sign certificates.k8s.io/signers example.com/*", issued(), true).await;
        check("jane approve certificates.k8s.io/signers example.com/a", issued(), false).await;
        check("nothing", json!({"conditions": [{"type": "Failed", "status": "True"}]}), false).await;
        check("nothing", json!({}), true).await;
    }
}
