//! Subresources with a handler of their own. `status` and `finalize` are ordinary updates under other rules.

pub mod binding;
mod condition;
pub mod eviction;
pub mod log;
pub mod scale;
pub mod token;
