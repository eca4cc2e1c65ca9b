//! A certificate that one end of TLS shows, and that may be exchanged at any time.
//!
//! Handshakes after an exchange show the new one; connections that are there go on with what they showed. Before there is any, a
//! server refuses handshakes and a client shows nothing.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Error, Leaf};

#[derive(Debug, Default)]
pub struct Shown(ArcSwapOption<CertifiedKey>);

impl Shown {
    pub fn new(leaf: &Leaf) -> Result<Arc<Self>, Error> {
        let shown = Arc::new(Self::default());
        shown.exchange(leaf)?;
        Ok(shown)
    }

    /// Shows this from now on.
    pub fn exchange(&self, leaf: &Leaf) -> Result<(), Error> {
        let (chain, key) = leaf.chain()?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let unfit = |_| Error::Unreadable { what: "certificate and its key".to_owned() };
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(unfit)?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
