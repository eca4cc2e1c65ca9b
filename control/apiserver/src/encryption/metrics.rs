//! What is counted of reading the encryption configuration again, under upstream's names.
//!
//! Source: `k8s.io/apiserver/pkg/server/options/encryptionconfig/metrics`.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};

const SUBSYSTEM: &str = "apiserver_encryption_config_controller";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    status: &'static str,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Applied {
    apiserver_id_hash: String,
    hash: String,
}

/// Clones count together.
#[derive(Clone)]
pub struct ReloadMetrics {
    server: String,
    reloads: Family<Outcome, Counter>,
    last: Family<Outcome, Gauge>,
    applied: Family<Applied, Gauge>,
    current: Arc<Mutex<Option<Applied>>>,
}

impl ReloadMetrics {
    /// `server` is what this one is called among several.
    pub fn new(server: &str) -> Self {
        let (reloads, last, applied) = Default::default();
        Self { server: hash(server), reloads, last, applied, current: Arc::default() }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            format!("{SUBSYSTEM}_automatic_reloads"),
            "Total number of reload successes and failures of encryption configuration split by apiserver identity",
            self.reloads.clone(),
        );
        registry.register(
            format!("{SUBSYSTEM}_automatic_reload_last_timestamp_seconds"),
            "Timestamp of the last successful or failed automatic reload of encryption configuration split by apiserver identity",
            self.last.clone(),
        );
        registry.register(
            format!("{SUBSYSTEM}_last_config_info"),
            "Information about the last applied encryption configuration with hash as label, split by apiserver identity",
            self.applied.clone(),
        );
    }

    /// This text is what counts now.
    pub fn loaded(&self, text: &str) {
        let next = Applied { apiserver_id_hash: self.server.clone(), hash: hash(text) };
        self.applied.get_or_create(&next).set(1);
        let before = self.current.lock().replace(next.clone());
        if let Some(before) = before.filter(|before| *before != next) {
            self.applied.remove(&before);
        }
    }

    pub fn succeeded(&self, text: &str, now: Timestamp) {
        self.note("success", now);
        self.loaded(text);
    }

    pub fn failed(&self, now: Timestamp) {
        self.note("failure", now);
    }

    fn note(&self, status: &'static str, now: Timestamp) {
        let outcome = Outcome { status, apiserver_id_hash: self.server.clone() };
        self.reloads.get_or_create(&outcome).inc();
        self.last.get_or_create(&outcome).set(now.as_second());
    }
}

fn hash(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}
