//! Refuses new `spec.externalIPs` of Services: with them a tenant can draw others' traffic to itself. Off by default.
//!
//! Source: `plugin/pkg/admission/network/denyserviceexternalips` (CVE-2020-8554). Those that a Service has it may keep.

use async_trait::async_trait;
use wharf_types::ApiError;
use wharf_types::k8s::api::core::v1::Service;

use crate::{Attributes, Notes, Operation, Plugin, Reader};

pub struct DenyServiceExternalIps;

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, write: &Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.about("", "services") {
            return Ok(());
        }
        let ips = |service: Option<&Service>| {
            service.and_then(|service| service.spec.as_ref()?.external_ips.clone()).unwrap_or_default()
        };
        let held = ips(write.old_as());
        match ips(write.new_as()).iter().all(|ip| held.contains(ip)) {
            true => Ok(()),
            false => Err(write.forbidden("Use of external IPs is denied by admission control.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_service_may_keep_what_it_has() {
        let service =
            |ips: &[&str]| -> Service { json(json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}})) };
        for (old, new, allowed) in
            [(&[][..], &["1.2.3.4"][..], false), (&["1.2.3.4"], &["1.2.3.4"], true), (&["1.2.3.4"], &[], true)]
        {
            let mut write = write(Operation::Update, "services", service(new)).replacing(service(old));
            let verdict = run(&DenyServiceExternalIps, &mut write, &Cluster::default()).await;
            assert_eq!(verdict.is_ok(), allowed, "{old:?} {new:?}");
        }
    }
}
