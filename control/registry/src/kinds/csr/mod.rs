//! CertificateSigningRequests: somebody asks for a certificate, somebody approves, a signer signs.
//!
//! Source: `pkg/registry/certificates/certificates`, `pkg/printers/internalversion`. Who asks is written down by the server, and
//! nobody changes it, nor anything else of the spec. Approving goes through `/approval`, signing through `/status`; that each is
//! done by somebody who may is for admission to see to.

mod validation;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::Errors;
use wharf_types::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use wharf_types::meta::Time;

use super::{created, name, rbac};
use crate::row::Subresource;
use crate::strategy::{AGE, Asked, Column, NAME, Strategy, human_duration};

#[derive(Debug)]
pub struct CertificateSigningRequests;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

impl Strategy for CertificateSigningRequests {
    type Object = CertificateSigningRequest;

    fn prepare_for_create(&self, request: &mut CertificateSigningRequest) {
        request.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_for_update(&self, request: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        request.spec.clone_from(&old.spec);
        request.status.clone_from(&old.status);
    }

    /// A signer adds a certificate and conditions of its own; approval stays as it is.
    fn prepare_for_status_update(&self, request: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        request.spec.clone_from(&old.spec);
        keep_conditions(request, old, APPROVED);
        keep_conditions(request, old, DENIED);
    }

    /// `/approval` changes the conditions only.
    fn prepare_for_subresource(
        &self,
        _which: Subresource,
        request: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) {
        request.spec.clone_from(&old.spec);
        let certificate = old.status.as_ref().and_then(|status| status.certificate.clone());
        request.status.get_or_insert_default().certificate = certificate;
    }

    fn stamp(
        &self,
        request: &mut CertificateSigningRequest,
        old: Option<&CertificateSigningRequest>,
        asked: &Asked<'_>,
    ) {
        match old {
            None => name_requester(request, asked),
            Some(old) => date_conditions(request, old, asked.now),
        }
    }

    fn validate(&self, request: &CertificateSigningRequest) -> Errors {
        validation::validate(request, None)
    }

    fn validate_update(&self, new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Errors {
        validation::validate_change(new, old, validation::Change::Main)
    }

    fn validate_status_update(&self, new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Errors {
        let mut errors = validation::validate(new, Some(old));
        errors.extend(validation::validate_change(new, old, validation::Change::Status));
        errors
    }

    fn validate_subresource(
        &self,
        _which: Subresource,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Errors {
        let mut errors = validation::validate(new, Some(old));
        errors.extend(validation::validate_change(new, old, validation::Change::Approval));
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        rbac::validate_name(name)
    }

    fn fields(&self, request: &CertificateSigningRequest) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", request.spec.signer_name.clone())]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            AGE,
            Column::new(
                "SignerName",
                "string",
                "signerName indicates the requested signer, and is a qualified name.\n\nList/watch requests for CertificateSigningRequests can filter on this field using a \"spec.signerName=NAME\" fieldSelector.\n\nWell-known Kubernetes signers are:\n 1. \"kubernetes.io/kube-apiserver-client\": issues client certificates that can be used to authenticate to kube-apiserver.\n  Requests for this signer are never auto-approved by kube-controller-manager, can be issued by the \"csrsigning\" controller in kube-controller-manager.\n 2. \"kubernetes.io/kube-apiserver-client-kubelet\": issues client certificates that kubelets use to authenticate to kube-apiserver.\n  Requests for this signer can be auto-approved by the \"csrapproving\" controller in kube-controller-manager, and can be issued by the \"csrsigning\" controller in kube-controller-manager.\n 3. \"kubernetes.io/kubelet-serving\" issues serving certificates that kubelets use to serve TLS endpoints, which kube-apiserver can connect to securely.\n  Requests for this signer are never auto-approved by kube-controller-manager, and can be issued by the \"csrsigning\" controller in kube-controller-manager.\n\nMore details are available at https://k8s.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers\n\nCustom signerNames can also be specified. The signer defines:\n 1. Trust distribution: how trust (CA bundles) are distributed.\n 2. Permitted subjects: and behavior when a disallowed subject is requested.\n 3. Required, permitted, or forbidden x509 extensions in the request (including whether subjectAltNames are allowed, which types, restrictions on allowed values) and behavior when a disallowed extension is requested.\n 4. Required, permitted, or forbidden key usages / extended key usages.\n 5. Expiration/certificate lifetime: whether it is fixed by the signer, configurable by the admin.\n 6. Whether or not requests for CA certificates are allowed.",
            ),
            Column::new(
                "Requestor",
                "string",
                "request contains an x509 certificate signing request encoded in a \"CERTIFICATE REQUEST\" PEM block. When serialized as JSON or YAML, the data is additionally base64-encoded.",
            ),
            Column::new(
                "RequestedDuration",
                "string",
                "expirationSeconds is the requested duration of validity of the issued certificate. The certificate signer may issue a certificate with a different validity duration so a client must check the delta between the notBefore and and notAfter fields in the issued certificate to determine the actual duration.\n\nThe v1.22+ in-tree implementations of the well-known Kubernetes signers will honor this field as long as the requested duration is not greater than the maximum duration they will honor per the --cluster-signing-duration CLI flag to the Kubernetes controller manager.\n\nCertificate signers may not honor this field for various reasons:\n\n  1. Old signer that is unaware of the field (such as the in-tree\n     implementations prior to v1.22)\n  2. Signer whose configured maximum is shorter than the requested duration\n  3. Signer whose configured minimum is longer than the requested duration\n\nThe minimum valid value for expirationSeconds is 600, i.e. 10 minutes.",
            ),
            Column::new(
                "Condition",
                "string",
                "conditions applied to the request. Known conditions are \"Approved\", \"Denied\", and \"Failed\".",
            ),
        ];
        COLUMNS
    }

    fn cells(&self, request: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let spec = &request.spec;
        let duration = spec.expiration_seconds.map(|seconds| human_duration(seconds.into()));
        vec![
            name(&request.metadata),
            created(&request.metadata, now),
            super::or_none(spec.signer_name.clone()).into(),
            spec.username.clone().unwrap_or_default().into(),
            super::or_none(duration.unwrap_or_default()).into(),
            condition(request).into(),
        ]
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has_certificate(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|pem| !pem.0.is_empty())
}

/// `Approved,Issued`
fn condition(request: &CertificateSigningRequest) -> String {
    let has = |kind: &str| conditions(request).iter().any(|condition| condition.type_ == kind);
    // A denial counts for more than an approval.
    let mut words = vec![match (has(DENIED), has(APPROVED)) {
        (true, _) => DENIED,
        (false, true) => APPROVED,
        (false, false) => "Pending",
    }];
    if has(FAILED) {
        words.push(FAILED);
    }
    if has_certificate(request) {
        words.push("Issued");
    }
    words.join(",")
}

/// Takes what the old object has of a condition, if the new one has as many of it; validation tells of the rest.
fn keep_conditions(request: &mut CertificateSigningRequest, old: &CertificateSigningRequest, kind: &str) {
    let held: Vec<_> = conditions(old).iter().filter(|condition| condition.type_ == kind).collect();
    let all = request.status.get_or_insert_default().conditions.iter_mut().flatten();
    let new: Vec<_> = all.filter(|condition| condition.type_ == kind).collect();
    if new.len() == held.len() {
        new.into_iter().zip(held).for_each(|(new, held)| new.clone_from(held));
    }
}

fn name_requester(request: &mut CertificateSigningRequest, asked: &Asked<'_>) {
    let spec = &mut request.spec;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    spec.username = text(asked.user);
    spec.uid = text(asked.uid);
    spec.groups = (!asked.groups.is_empty()).then(|| asked.groups.to_vec());
    spec.extra = (!asked.extra.is_empty()).then(|| asked.extra.clone());
}

/// Times that a condition lacks: a transition is as old as the condition's status.
fn date_conditions(request: &mut CertificateSigningRequest, old: &CertificateSigningRequest, now: Timestamp) {
    let Some(new) = request.status.as_mut().and_then(|status| status.conditions.as_mut()) else { return };
    for condition in new {
        condition.last_update_time.get_or_insert(Time(now));
        if condition.last_transition_time.is_none() {
            let mut held = conditions(old).iter();
            let same = held.find(|held| {
                held.type_ == condition.type_ && held.status == condition.status && held.last_transition_time.is_some()
            });
            let since = same.and_then(|held| held.last_transition_time.clone());
            condition.last_transition_time = since.or(Some(Time(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::testing::{NOW, check_cells, object};

    const APPROVED_AT: &str = "{type: Approved, status: 'True', reason: r, lastUpdateTime: '2024-01-01T00:00:00Z', lastTransitionTime: '2024-01-01T00:00:00Z'}";

    fn request(status: &str) -> CertificateSigningRequest {
        let yaml = format!(
            "{{metadata: {{name: r}}, spec: {{request: '', usages: [client auth], signerName: example.com/a}}, status: {status}}}"
        );
        object(&CertificateSigningRequests, &yaml)
    }

    fn asked<'a>(groups: &'a [String], extra: &'a BTreeMap<String, Vec<String>>) -> Asked<'a> {
        Asked { user: "jane", uid: "7", groups, extra, now: NOW.parse().expect("a time") }
    }

    #[test]
    fn the_server_names_the_requester() {
        let mut new = request("{conditions: [{type: Approved, status: 'True'}]}");
        new.spec.username = Some("system:admin".to_owned());
        CertificateSigningRequests.prepare_for_create(&mut new);
        let extra = BTreeMap::from([("scope".to_owned(), vec!["a".to_owned()])]);
        CertificateSigningRequests.stamp(&mut new, None, &asked(&["devs".to_owned()], &extra));
        let spec = json!({
            "request": "", "signerName": "example.com/a", "usages": ["client auth"],
            "username": "jane", "uid": "7", "groups": ["devs"], "extra": {"scope": ["a"]},
        });
        assert_eq!(serde_json::to_value(&new.spec).expect("JSON"), spec);
        assert_eq!(new.status, Some(CertificateSigningRequestStatus::default()));
    }

    #[test]
    fn a_signer_leaves_approval_alone() {
        let old = request(&format!("{{conditions: [{APPROVED_AT}]}}"));
        let mut new =
            request("{conditions: [{type: Approved, status: 'True', reason: other}, {type: Failed, status: 'True'}]}");
        CertificateSigningRequests.prepare_for_status_update(&mut new, &old);
        CertificateSigningRequests.stamp(&mut new, Some(&old), &asked(&[], &BTreeMap::new()));
        assert_eq!(conditions(&new)[0], conditions(&old)[0]);
        assert_eq!(conditions(&new)[1].last_transition_time, Some(Time(NOW.parse().expect("a time"))));
    }

    #[test]
    fn an_approval_keeps_when_it_was_given() {
        let old = request(&format!("{{conditions: [{APPROVED_AT}]}}"));
        let mut new = request("{certificate: aGVsbG8=, conditions: [{type: Approved, status: 'True', reason: other}]}");
        CertificateSigningRequests.prepare_for_subresource(Subresource::Approval, &mut new, &old);
        CertificateSigningRequests.stamp(&mut new, Some(&old), &asked(&[], &BTreeMap::new()));
        assert!(!has_certificate(&new), "only a signer issues");
        assert_eq!(conditions(&new)[0].last_transition_time, conditions(&old)[0].last_transition_time);
        assert_eq!(conditions(&new)[0].last_update_time, Some(Time(NOW.parse().expect("a time"))));
    }

    #[test]
    fn requests_show_where_they_stand() {
        let check = |status: &str, shown: &str| {
            let yaml = format!(
                "{{metadata: {{name: r}}, spec: {{request: '', username: jane, expirationSeconds: 3600, signerName: example.com/a}}, status: {status}}}"
            );
            let expected = format!("r | <unknown> | example.com/a | jane | 60m | {shown}");
            check_cells(&CertificateSigningRequests, &yaml, &expected);
        };
        check("{}", "Pending");
        check("{conditions: [{type: Approved, status: 'True'}], certificate: aGVsbG8=}", "Approved,Issued");
        check("{conditions: [{type: Approved, status: 'True'}, {type: Denied, status: 'True'}]}", "Denied");
        check("{conditions: [{type: Approved, status: 'True'}, {type: Failed, status: 'True'}]}", "Approved,Failed");
    }
}
