//! The host's side of `guest-sdk/wit/admission.wit`, written by wasmtime's macro.

wasmtime::component::bindgen!({
    path: "../../guest-sdk/wit",
    world: "plugin",
    exports: { default: async },
});

pub use exports::wharf::admission::{mutation, validation};
pub use wharf::admission::types::{Change, Denial, Kind, Notes, Operation, Request, Target, UserInfo, Verdict};

/// What a component exports to be a plugin.
pub const MUTATION: &str = "wharf:admission/mutation@0.1.0";
pub const VALIDATION: &str = "wharf:admission/validation@0.1.0";
