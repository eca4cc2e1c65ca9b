//! A node's first certificate, asked for with somebody else's credentials: a bootstrap token.
//!
//! Source of the behaviour: `LoadClientConfig` and `requestNodeCertificate` in `pkg/kubelet/certificate/bootstrap`. The key is on disk
//! before it is asked about, and the request has a name that follows from it: who is killed meanwhile goes on waiting for
//! the same request.

use jiff::Timestamp;
use kube::Client;
use rcgen::KeyPair;

use super::manager::backoff;
use super::request::Ask;
use super::{CLIENT, Error, Pair, Store, Template};

/// Waits until the cluster has signed, however long it cannot be reached. Fails where it refuses.
pub async fn first(
    client: &Client,
    store: &Store,
    template: &Template,
    now: &(dyn Fn() -> Timestamp + Sync),
) -> Result<Pair, Error> {
    let key = key(store)?;
    let ask = Ask::new(key, template, &CLIENT)?;
    let mut attempt = 0;
    let pair = loop {
        match ask.settle(client, Some(ask.digested_name())).await {
            Ok(pair) => break pair,
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                tracing::warn!(error = crate::names::chain(&error), "ask for the node's first certificate");
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
            }
        }
    };
    store.update(&pair, now())?;
    store.remove_pending_key()?;
    Ok(pair)
}

/// The key that waits, or a new one that does from now on.
fn key(store: &Store) -> Result<KeyPair, Error> {
    if let Some(key) = store.pending_key()?.and_then(|pem| KeyPair::from_pem(&pem).ok()) {
        return Ok(key);
    }
    let key = KeyPair::generate()?;
    store.put_pending_key(&key.serialize_pem())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_until_its_certificate_is_there() {
        let root = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(root.path(), CLIENT.prefix).expect("a store");
        let first = key(&store).expect("a key").serialize_pem();
        assert_eq!(key(&store).expect("a key").serialize_pem(), first);
        store.put_pending_key("half a k").expect("spoil");
        let other = key(&store).expect("a key").serialize_pem();
        assert_ne!(other, first);
        store.remove_pending_key().expect("remove");
        assert_ne!(key(&store).expect("a key").serialize_pem(), other);
    }
}
