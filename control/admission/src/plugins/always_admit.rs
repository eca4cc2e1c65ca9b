//! Lets everything in. Off by default; deprecated upstream, for it does what no plugin at all does.
//!
//! Source: `plugin/pkg/admission/admit`.

use async_trait::async_trait;

use crate::config::Load;
use crate::{Operation, Plugin};

pub struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn configure(&mut self, _: Option<&serde_yaml::Value>, _: &Load<'_>) -> Result<(), String> {
        super::warn_deprecated(self.name());
        Ok(())
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }
}
