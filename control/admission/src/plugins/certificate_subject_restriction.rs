//! Nobody gets a certificate for `system:masters` from the signer of client certificates: it could not be taken back.
//!
//! Source: `plugin/pkg/admission/certificates/subjectrestriction`.

use async_trait::async_trait;
use wharf_auth::MASTERS;
use wharf_machinery::csr;
use wharf_types::ApiError;
use wharf_types::k8s::api::certificates::v1::CertificateSigningRequest;

use crate::{Attributes, Notes, Operation, Plugin, Reader};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, write: &Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let request = write.new_as::<CertificateSigningRequest>().filter(|request| request.spec.signer_name == SIGNER);
        let Some(request) = request else { return Ok(()) };
        let parsed = csr::parse(&request.spec.request.0)
            .map_err(|why| write.forbidden(format_args!("failed to parse CSR: {why}")))?;
        match parsed.organizations.iter().any(|group| group == MASTERS) {
            false => Ok(()),
            true => Err(write.forbidden(format_args!("use of {SIGNER} signer with {MASTERS} group is not allowed"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::super::testing::{Cluster, json, run, write};
    use super::*;

    /// Of `/O=system:masters/CN=mallory`.
    const MASTERS_REQUEST: &str = "-----BEGIN CERTIFICATE REQUEST-----\nMIHlMIGNAgEAMCsxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMRAwDgYDVQQDDAdt\nYWxsb3J5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMURLTN74ciA81DkWFbqN\nOfVe9VewXXjpG5jIJDt+obSGnXuRMs/bvnHzvOuFXvP4Qh9eWUOVr97E0jqprrw7\nFqAAMAoGCCqGSM49BAMCA0cAMEQCIEV/xAjAoiqudZlsOoI377zc23N072lHgJvc\nAfW3oqmoAiByAEceQLxr9y0TExYIFB4omixEYv8DVFVWXqxb97+2RA==\n-----END CERTIFICATE REQUEST-----\n";
    const ORDINARY_REQUEST: &str = include_str!("../../../../api/machinery/src/csr/request.pem");

    async fn check(signer: &str, request: &str, expected: Result<(), &str>) {
        let request: CertificateSigningRequest = json(json!({
            "metadata": {"name": "r"}, "spec": {"request": STANDARD.encode(request), "signerName": signer},
        }));
        let mut write = write(Operation::Create, "certificatesigningrequests", request);
        let verdict = run(&CertificateSubjectRestriction, &mut write, &Cluster::default()).await;
        let expected = expected
            .map_err(|why| format!(r#"certificatesigningrequests.certificates.k8s.io "r" is forbidden: {why}"#));
        assert_eq!(verdict.map_err(|error| error.message), expected);
    }

    #[tokio::test]
    async fn nobody_is_made_a_master() {
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        check(SIGNER, MASTERS_REQUEST, Err(why)).await;
        check(SIGNER, ORDINARY_REQUEST, Ok(())).await;
        check("example.com/own", MASTERS_REQUEST, Ok(())).await;
        check(SIGNER, "hello", Err("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST")).await;
    }
}
