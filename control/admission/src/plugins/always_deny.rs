//! Lets nothing in. Off by default; deprecated upstream, where it served tests.
//!
//! Source: `plugin/pkg/admission/deny`.

use async_trait::async_trait;
use wharf_types::ApiError;

use crate::config::Load;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const WHY: &str = "admission control is denying all modifications";

pub struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn configure(&mut self, _: Option<&serde_yaml::Value>, _: &Load<'_>) -> Result<(), String> {
        super::warn_deprecated(self.name());
        Ok(())
    }

    fn handles(&self, _: Operation) -> bool {
        true
    }

    async fn admit(&self, write: &mut Attributes, _: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
        Err(write.forbidden(WHY))
    }

    async fn validate(&self, write: &Attributes, _: &dyn Reader, _: &mut Notes) -> Result<(), ApiError> {
        Err(write.forbidden(WHY))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_types::k8s::api::core::v1::ConfigMap;

    use super::super::testing::{Cluster, json, write};
    use super::*;

    #[tokio::test]
    async fn nothing_is_let_in_on_either_side() {
        let map = || -> ConfigMap { json(json!({"metadata": {"name": "m"}})) };
        let (cluster, mut notes) = (Cluster::default(), Notes::default());
        let mut update = write(Operation::Update, "configmaps", map()).replacing(map());
        let admitted = AlwaysDeny.admit(&mut update, &cluster, &mut notes).await;
        let validated = AlwaysDeny.validate(&update.deleting(), &cluster, &mut notes).await;
        for verdict in [admitted, validated] {
            let error = verdict.expect_err("a refusal");
            assert_eq!(
                (error.code, error.message.as_str()),
                (403, "configmaps \"m\" is forbidden: admission control is denying all modifications")
            );
        }
    }
}
