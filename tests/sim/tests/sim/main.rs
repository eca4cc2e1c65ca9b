//! A fleet of simulated nodes under the real control plane: what a cluster of many machines does, in one process and in seconds.
//!
//! The nodes are the real agent on the fake runtime, so scheduling, eviction and recovery are the real ones. Each test has a
//! cluster of its own. The random walk prints its seed; `WHARF_SEED=…` repeats its steps.

mod failures;
mod fleet;
mod placement;
mod walk;
