//! What a kubelet's request must look like.
//!
//! Source: `ValidateKubeletClientCSR` and `ValidateKubeletServingCSR` in `pkg/apis/certificates`.

use std::collections::BTreeSet;

use wharf_machinery::csr::Request;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";

/// A request for the certificate with which a kubelet speaks to the API.
pub fn validate_client(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    validate_group(request)?;
    if !request.dns_names.is_empty() {
        return Err("DNS subjectAltNames are not allowed".to_owned());
    }
    refuse_others(request)?;
    if !request.ip_addresses.is_empty() {
        return Err("IP subjectAltNames are not allowed".to_owned());
    }
    validate_name(request)?;
    validate_usages(usages, "client auth")
}

/// A request for the certificate with which a kubelet answers.
pub fn validate_serving(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    validate_group(request)?;
    if request.dns_names.is_empty() && request.ip_addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    refuse_others(request)?;
    validate_name(request)?;
    validate_usages(usages, "server auth")
}

fn validate_group(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [group] if group == GROUP => Ok(()),
        _ => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn refuse_others(request: &Request) -> Result<(), String> {
    match (request.emails.is_empty(), request.uris.is_empty()) {
        (false, _) => Err("Email subjectAltNames are not allowed".to_owned()),
        (_, false) => Err("URI subjectAltNames are not allowed".to_owned()),
        _ => Ok(()),
    }
}

fn validate_name(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with(PREFIX) {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:".to_owned()),
    }
}

/// Keys that cannot encipher need not ask to.
fn validate_usages(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let short = BTreeSet::from(["digital signature", purpose]);
    let long = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    match *usages == short || *usages == long {
        true => Ok(()),
        false => Err(format!("usages did not match {:?}", long.into_iter().collect::<Vec<_>>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            common_name: "system:node:n1".to_owned(),
            organizations: vec![GROUP.to_owned()],
            ..Request::default()
        }
    }

    #[test]
    fn a_client_has_a_nodes_name_and_no_other() {
        let usages = BTreeSet::from(["digital signature", "client auth"]);
        let check = |request: Request, expected: Result<(), &str>| {
            assert_eq!(validate_client(&request, &usages), expected.map_err(str::to_owned));
        };
        check(request(), Ok(()));
        check(
            Request { common_name: "jane".to_owned(), ..request() },
            Err("subject common name does not begin with system:node:"),
        );
        check(Request { organizations: Vec::new(), ..request() }, Err("subject organization is not system:nodes"));
        check(Request { dns_names: vec!["n1".to_owned()], ..request() }, Err("DNS subjectAltNames are not allowed"));
        let serving = BTreeSet::from(["digital signature", "server auth"]);
        assert!(validate_client(&request(), &serving).is_err_and(|why| why.starts_with("usages did not match")));
    }

    #[test]
    fn a_server_has_names_of_its_own() {
        let usages = BTreeSet::from(["digital signature", "key encipherment", "server auth"]);
        let named = Request { dns_names: vec!["n1".to_owned()], ..request() };
        assert_eq!(validate_serving(&named, &usages), Ok(()));
        let why = "DNS or IP subjectAltName is required";
        assert_eq!(validate_serving(&request(), &usages), Err(why.to_owned()));
    }
}
