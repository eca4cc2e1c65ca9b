//! One CertificateSigningRequest, from a key to a certificate.
//!
//! Source of the behaviour: `k8s.io/client-go/util/certificate/csr` and `requestNodeCertificate` of the kubelet.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use sha2::{Digest, Sha512_256};
use wharf_machinery::csr;

use super::{Error, GROUP, Pair, Purpose, Template};

/// How long a request waits for its signature: upstream's `certificateWaitTimeout`.
const WAIT: Duration = Duration::from_secs(15 * 60);

/// A key and what is asked for it.
pub struct Ask {
    key: KeyPair,
    pem: String,
    pub template: Template,
    pub purpose: &'static Purpose,
}

impl Ask {
    pub fn new(key: KeyPair, template: &Template, purpose: &'static Purpose) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, GROUP);
        params.distinguished_name.push(DnType::CommonName, template.common_name());
        for name in &template.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(template.ip_addresses.iter().copied().map(SanType::IpAddress));
        let pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, pem, template: template.clone(), purpose })
    }

    /// The same name for the same key and the same wishes, so that whoever begins again finds the request it filed.
    /// Source: `digestedName`.
    pub fn digested_name(&self) -> String {
        let mut hash = Sha512_256::new();
        let mut write = |part: &[u8]| {
            hash.update(URL_SAFE_NO_PAD.encode(part));
            hash.update(b"|");
        };
        write(&self.key.subject_public_key_info());
        write(self.template.common_name().as_bytes());
        write(GROUP.as_bytes());
        self.purpose.usages.iter().for_each(|usage| write(usage.as_bytes()));
        format!("node-csr-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
    }

    /// Files the request, under a name of its own or one that the server makes up, and waits for the certificate.
    pub async fn settle(&self, client: &Client, name: Option<String>) -> Result<Pair, Error> {
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        let filed = self.file(&api, name).await?;
        let name = filed.metadata.name.unwrap_or_default();
        tracing::info!(request = name, signer = self.purpose.signer, "waiting for a certificate");
        let waited = tokio::time::timeout(WAIT, issued(&api, &name, filed.metadata.uid.as_deref())).await;
        let certificate_pem = waited.map_err(|_| Error::TooLate(name))??;
        if public_key(&certificate_pem) != Some(self.key.subject_public_key_info()) {
            return Err(Error::NotOurs);
        }
        Ok(Pair { certificate_pem, key_pem: self.key.serialize_pem() })
    }

    async fn file(
        &self,
        api: &Api<CertificateSigningRequest>,
        name: Option<String>,
    ) -> Result<CertificateSigningRequest, Error> {
        let failed = |operation| move |source| Error::Api { operation, source: Box::new(source) };
        let request = self.object(name.clone());
        match (api.create(&PostParams::default(), &request).await, name) {
            (Err(kube::Error::Api(status)), Some(name)) if status.code == 409 => {
                let held = api.get(&name).await.map_err(failed("read"))?;
                self.ensure_same(&held).map_err(|why| Error::Refused { name, why })?;
                Ok(held)
            }
            (created, _) => created.map_err(failed("create")),
        }
    }

    fn object(&self, name: Option<String>) -> CertificateSigningRequest {
        let generate_name = name.is_none().then(|| "csr-".to_owned());
        CertificateSigningRequest {
            metadata: ObjectMeta { name, generate_name, ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(self.pem.clone().into_bytes()),
                signer_name: self.purpose.signer.to_owned(),
                usages: Some(self.purpose.usages.iter().map(|usage| (*usage).to_owned()).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }

    /// What is there under our name must ask for our key.
    fn ensure_same(&self, held: &CertificateSigningRequest) -> Result<(), String> {
        let ours = csr::parse(self.pem.as_bytes()).map_err(|error| error.to_string())?;
        let theirs = csr::parse(&held.spec.request.0).map_err(|error| error.to_string())?;
        let same = |request: &csr::Request| (request.common_name.clone(), request.organizations.clone());
        if held.spec.signer_name != self.purpose.signer || same(&ours) != same(&theirs) {
            return Err("is there, but asks for something else".to_owned());
        }
        let key = csr::public_key(&theirs).map_err(|error| error.to_string())?;
        if key == self.key.subject_public_key_info() { Ok(()) } else { Err("is there, but has another key".to_owned()) }
    }
}

fn public_key(certificate_pem: &str) -> Option<Vec<u8>> {
    csr::certified_key(certificate_pem.as_bytes())
}

/// Waits for the certificate that the request ends with.
async fn issued(api: &Api<CertificateSigningRequest>, name: &str, uid: Option<&str>) -> Result<String, Error> {
    let refused = |why: String| Error::Refused { name: name.to_owned(), why };
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher::watcher(api.clone(), config));
    let mut seen = false;
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Err(refused("is watched no more".to_owned())),
            // The watcher goes on by itself; whether it may is what the first answer tells.
            Err(error) if seen || !forbidden(&error) => {
                tracing::debug!(%error, name, "watch a certificate signing request");
                tokio::time::sleep(super::manager::BACKOFF_MIN).await;
                continue;
            }
            Err(error) => return Err(Error::Watch(name.to_owned(), Box::new(error))),
        };
        match event {
            Event::Init => seen = false,
            Event::InitApply(request) | Event::Apply(request) => {
                seen = true;
                match verdict(&request, uid) {
                    Verdict::Wait => {}
                    Verdict::Issued(pem) => return Ok(pem),
                    Verdict::Refused(why) => return Err(refused(why)),
                }
            }
            Event::InitDone if seen => {}
            Event::InitDone | Event::Delete(_) => return Err(refused("was deleted".to_owned())),
        }
    }
}

fn forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => matches!(status.code, 401 | 403),
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Issued(String),
    Refused(String),
}

/// Pure: what has become of the request.
fn verdict(request: &CertificateSigningRequest, uid: Option<&str>) -> Verdict {
    if uid.is_some() && request.metadata.uid.as_deref() != uid {
        return Verdict::Refused("changed UIDs".to_owned());
    }
    let status = request.status.as_ref();
    let mut approved = false;
    for condition in status.and_then(|status| status.conditions.as_deref()).unwrap_or_default() {
        let told = || {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("reason: {:?}, message: {:?}", part(&condition.reason), part(&condition.message))
        };
        match condition.type_.as_str() {
            "Denied" => return Verdict::Refused(format!("is denied, {}", told())),
            "Failed" => return Verdict::Refused(format!("failed, {}", told())),
            "Approved" => approved = true,
            _ => {}
        }
    }
    let certificate = status.and_then(|status| status.certificate.as_ref()).filter(|pem| !pem.0.is_empty());
    match certificate.and_then(|pem| String::from_utf8(pem.0.clone()).ok()) {
        Some(pem) if approved => Verdict::Issued(pem),
        _ => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{CLIENT, SERVING};
    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    #[test]
    fn a_request_names_the_node_and_what_it_is_called() {
        let template = Template::serving("n1", &["10.0.0.1".parse().expect("an address")]);
        let ask = Ask::new(key(), &template, &SERVING).expect("a request");
        let parsed = csr::parse(ask.pem.as_bytes()).expect("a request");
        assert_eq!(csr::check_signature(&parsed), Ok(()));
        assert_eq!((parsed.common_name.as_str(), parsed.organizations), ("system:node:n1", vec![GROUP.to_owned()]));
        assert_eq!((parsed.dns_names, parsed.ip_addresses), (vec!["n1".to_owned()], template.ip_addresses));
        let object = ask.object(None);
        assert_eq!(object.metadata.generate_name.as_deref(), Some("csr-"));
        assert_eq!(object.spec.usages.unwrap_or_default(), ["digital signature", "server auth"]);
    }

    #[test]
    fn whoever_begins_again_finds_its_request() {
        let (pem, template) = (key().serialize_pem(), Template::client("n1"));
        let ask = |pem: &str, template: &Template| {
            Ask::new(KeyPair::from_pem(pem).expect("a key"), template, &CLIENT).expect("a request")
        };
        let name = ask(&pem, &template).digested_name();
        assert_eq!(name, ask(&pem, &template).digested_name());
        assert_ne!(name, ask(&pem, &Template::client("n2")).digested_name());
        assert_ne!(name, ask(&key().serialize_pem(), &template).digested_name());
        let held = ask(&pem, &template).object(Some(name));
        assert_eq!(ask(&pem, &template).ensure_same(&held), Ok(()));
        assert!(ask(&key().serialize_pem(), &template).ensure_same(&held).is_err());
        assert!(ask(&pem, &Template::client("n2")).ensure_same(&held).is_err());
    }

    #[track_caller]
    fn check(status: Value, expected: Verdict) {
        let request = serde_json::from_value(json!({
            "metadata": {"uid": "1"}, "spec": {"request": "", "signerName": "s"}, "status": status,
        }));
        assert_eq!(verdict(&request.expect("a request"), Some("1")), expected);
    }

    #[test]
    fn only_what_is_approved_and_signed_is_taken() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "m"});
        check(json!({}), Verdict::Wait);
        check(json!({"conditions": [condition("Approved")]}), Verdict::Wait);
        check(json!({"certificate": "aGk="}), Verdict::Wait);
        let issued = json!({"conditions": [condition("Approved")], "certificate": "aGk="});
        check(issued.clone(), Verdict::Issued("hi".to_owned()));
        let denied = "is denied, reason: \"R\", message: \"m\"";
        check(json!({"conditions": [condition("Denied")]}), Verdict::Refused(denied.to_owned()));
        let failed = "failed, reason: \"R\", message: \"m\"";
        let both = json!({"conditions": [condition("Approved"), condition("Failed")]});
        check(both, Verdict::Refused(failed.to_owned()));
        let mut other: CertificateSigningRequest = serde_json::from_value(
            json!({"metadata": {"uid": "2"}, "spec": {"request": "", "signerName": "s"}, "status": issued}),
        )
        .expect("a request");
        assert_eq!(verdict(&other, Some("1")), Verdict::Refused("changed UIDs".to_owned()));
        other.metadata.uid = Some("1".to_owned());
        assert_eq!(verdict(&other, Some("1")), Verdict::Issued("hi".to_owned()));
    }
}
