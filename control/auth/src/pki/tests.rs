use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;

const START: &str = "2030-01-01T00:00:00Z";

fn at(days: u64) -> Timestamp {
    START.parse::<Timestamp>().expect("timestamp") + Duration::from_secs(days * DAY_S)
}

fn names(extra: &[&str]) -> ServerNames {
    let extra: Vec<String> = extra.iter().map(|name| (*name).to_owned()).collect();
    ServerNames::api_server(IpAddr::from([127, 96, 0, 1]), Some("box"), &extra)
}

/// Opens the directory at `first` and again at `then`; tells whether authority and server certificate stayed.
fn check(first: (u64, &[&str]), then: (u64, &[&str]), authority_stays: bool, certificate_stays: bool) {
    let root = tempfile::tempdir().expect("temporary directory");
    let open = |(day, extra): (u64, &[&str])| {
        let pki = Pki::open(root.path(), at(day)).expect("open");
        let leaf = pki.api_server(&names(extra), at(day)).expect("server certificate");
        assert!(leaf::signed_by(&leaf.certificate_pem, &pki.ca_pem()).expect("verify"));
        assert_eq!(Facts::read(&leaf.certificate_pem).expect("read").names, names(extra).sorted());
        (pki.ca_pem(), pki.service_account_key_pem(), leaf.certificate_pem)
    };
    let (before, after) = (open(first), open(then));
    assert_eq!(before.0 == after.0, authority_stays, "authority");
    assert_eq!(before.1, after.1, "the service-account key always stays");
    assert_eq!(before.2 == after.2, certificate_stays, "server certificate");
    assert!(leaf::signed_by(&before.2, &after.0).expect("verify"), "what was signed before stays good");
}

#[test]
fn a_restart_finds_what_the_first_start_made() {
    check((0, &[]), (30, &[]), true, true);
}

#[test]
fn the_server_certificate_follows_its_names() {
    check((0, &[]), (1, &["10.0.0.7", "wharf.example"]), true, false);
    check((0, &["10.0.0.7"]), (1, &[]), true, false);
    check((0, &["b", "a", "::1"]), (1, &["::1", "a", "b"]), true, true);
}

#[test]
fn certificates_are_reissued_before_they_end() {
    check((0, &[]), (274, &[]), true, true);
    check((0, &[]), (275, &[]), true, false);
}

#[test]
fn an_authority_near_its_end_is_reissued_with_its_key() {
    check((0, &[]), (3650 - 365 - 91, &[]), true, false);
    check((0, &[]), (3650 - 365 - 90, &[]), false, false);
}

#[test]
fn an_authority_is_renewed_while_it_is_in_use_and_those_who_pass_it_on_are_told() {
    let root = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::open(root.path(), at(0)).expect("open");
    let (first, mut published) = (pki.ca_pem(), pki.published());
    let leaf = pki.client(&Identity::admin(), at(0)).expect("issue");
    let due = pki.renew(at(1)).expect("look");
    assert_eq!((due, pki.ca_pem() == first), (at(3650 - 365 - 90), true), "nothing to do yet");
    assert!(!published.has_changed().expect("the authority is there"));

    let next = pki.renew(due).expect("renew");
    let second = pki.ca_pem();
    assert_eq!((next, second != first), (due + (due.duration_since(at(0))), true));
    assert_eq!(*published.borrow_and_update(), second);
    let key = |pem: &str| Facts::read(pem).expect("read").public_key;
    assert_eq!(key(&first), key(&second));
    let late = pki.client(&Identity::admin(), due).expect("issue");
    for (leaf, authority) in [(&leaf, &second), (&late, &first), (&late, &second)] {
        assert!(leaf::signed_by(&leaf.certificate_pem, authority).expect("verify"));
    }
    assert_eq!(late.expires().expect("an end"), due + LEAF_LIFETIME);
    assert_eq!(Pki::open(root.path(), due).expect("open").ca_pem(), second, "a start finds the same");
}

#[test]
fn an_authority_without_its_key_is_refused() {
    let root = tempfile::tempdir().expect("temporary directory");
    Pki::open(root.path(), at(0)).expect("open");
    std::fs::remove_file(root.path().join("ca.key")).expect("lose the key");
    assert!(matches!(Pki::open(root.path(), at(0)), Err(Error::KeyMissing { .. })));
    store(&root.path().join("ca.key"), &new_key().expect("key").serialize_pem()).expect("another key");
    assert!(matches!(Pki::open(root.path(), at(0)), Err(Error::KeyMismatch { .. })));
    store(&root.path().join("ca.key"), "garbage").expect("garbage");
    assert!(matches!(Pki::open(root.path(), at(0)), Err(Error::Unreadable { .. })));
}

#[test]
fn a_first_start_cut_short_is_finished_by_the_next() {
    let root = tempfile::tempdir().expect("temporary directory");
    let first = Pki::open(root.path(), at(0)).expect("open");
    first.api_server(&names(&[]), at(0)).expect("server certificate");
    let key = std::fs::read(root.path().join("ca.key")).expect("read");
    for lost in ["ca.crt", "sa.pub", "apiserver.crt"] {
        std::fs::remove_file(root.path().join(lost)).expect("lose");
    }
    let second = Pki::open(root.path(), at(0)).expect("open again");
    second.api_server(&names(&[]), at(0)).expect("server certificate");
    assert_eq!(std::fs::read(root.path().join("ca.key")).expect("read"), key);
}

#[test]
fn serial_numbers_are_never_the_same() {
    let root = tempfile::tempdir().expect("temporary directory");
    let pki = Pki::open(root.path(), at(0)).expect("open");
    let serials: BTreeSet<Vec<u8>> = (0..20)
        .map(|_| {
            let leaf = pki.client(&Identity::admin(), at(0)).expect("issue");
            let der = leaf::certificates(&leaf.certificate_pem).expect("read").remove(0);
            let (_, parsed) =
                <x509_parser::prelude::X509Certificate<'_> as x509_parser::prelude::FromDer<_>>::from_der(&der)
                    .expect("parse");
            parsed.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 20);
}
