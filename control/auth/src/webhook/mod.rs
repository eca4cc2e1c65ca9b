//! Servers that are asked who a token speaks for, and what a user may do.

mod authorizer;
mod client;
mod conditions;
mod tokens;

pub use authorizer::{FailurePolicy, Options, Webhook};
pub use client::{Client, OpenError, PAUSE, TIMEOUT};
pub use conditions::Conditions;
pub use tokens::WebhookTokens;
