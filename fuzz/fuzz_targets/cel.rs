//! CEL over a small object. A program ends within its budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use wharf_machinery::cel::{Budget, Env, Program, Type, Variables};

/// Far below the server's own limit, so that an input costs little.
const BUDGET: u64 = 50_000;

fuzz_target!(|source: &str| {
    let own = json!({"a": 1, "text": "hello", "list": [1, 2, 3], "map": {"k": "v"}, "none": null, "half": 0.5});
    let _ = Env::default().variable("self", Type::Dyn).compile(source);
    let Ok(program) = Program::compile(source) else { return };
    let variables = Variables::default().json("self", &own);
    let mut budget = Budget::new(BUDGET, BUDGET);
    if let Ok(value) = program.evaluate(&variables, &mut budget) {
        let _ = value.to_json();
    }
});
