//! What is counted of tokens, under upstream's names.
//!
//! Source: `pkg/serviceaccount/metrics.go` and `k8s.io/apiserver/pkg/authentication/token/cache/stats.go`. Uses are counted where a token is
//! looked into, which the cache makes rarer than requests.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Status {
    pub status: &'static str,
}

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct TokenMetrics {
    pub legacy: Counter,
    pub legacy_auto: Counter,
    pub legacy_manual: Counter,
    pub legacy_invalid: Counter,
    pub stale: Counter,
    pub valid: Counter,
    /// `hit` and `miss`.
    pub requests: Family<Status, Counter>,
    /// `ok` and `error`.
    pub fetches: Family<Status, Counter>,
    /// `in_flight`.
    pub active: Family<Status, Gauge>,
}

impl TokenMetrics {
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("legacy_tokens", "Cumulative legacy service account tokens used", &self.legacy),
            ("legacy_auto_token_uses", "Cumulative auto-generated legacy tokens used", &self.legacy_auto),
            ("legacy_manual_token_uses", "Cumulative manually created legacy tokens used", &self.legacy_manual),
            (
                "invalid_legacy_auto_token_uses",
                "Cumulative invalid auto-generated legacy tokens used",
                &self.legacy_invalid,
            ),
            ("stale_tokens", "Cumulative stale projected service account tokens used", &self.stale),
            ("valid_tokens", "Cumulative valid projected service account tokens used", &self.valid),
        ] {
            registry.register(format!("serviceaccount_{name}"), help, counter.clone());
        }
        registry.register(
            "authentication_token_cache_request",
            "Tokens asked about, by whether the answer was there",
            self.requests.clone(),
        );
        registry.register(
            "authentication_token_cache_fetch",
            "Tokens looked into, by whether that could be done",
            self.fetches.clone(),
        );
        registry.register(
            "authentication_token_cache_active_fetch_count",
            "Tokens that are being looked into",
            self.active.clone(),
        );
    }
}
