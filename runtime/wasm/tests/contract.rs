//! The engine keeps the Runtime contract.

mod support;

use support::{bench, exiting, looping};
use wharf_cri::contract::{Subject, suite};

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_passes_the_contract() {
    suite(|| async {
        let bench = bench();
        let [forever, exits_0, exits_3] = [looping(), exiting(0), exiting(3)].map(|text| bench.wat("contract", &text));
        Subject {
            runtime: bench.runtime.clone(),
            forever,
            exits_0,
            exits_3,
            log_root: bench.dir.path().join("logs"),
            keep: Box::new(bench),
        }
    })
    .await;
}
