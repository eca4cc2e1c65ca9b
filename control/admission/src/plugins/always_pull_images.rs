//! Makes every container pull its image anew, so that nobody runs another tenant's image off a node. Off by default.
//!
//! Source: `plugin/pkg/admission/alwayspullimages`.

use async_trait::async_trait;
use wharf_registry::Subresource;
use wharf_types::ApiError;
use wharf_types::field::{Error, Path};
use wharf_types::k8s::api::core::v1::Pod;

use super::refusals;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const ALWAYS: &str = "Always";

pub struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, write: &mut Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if is_looked_at(write)
            && let Some(pod) = write.new_as_mut::<Pod>()
        {
            policies(pod, &mut |_, _, policy| *policy = Some(ALWAYS.to_owned()));
        }
        Ok(())
    }

    async fn validate(&self, write: &Attributes, _cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        let Some(mut pod) = write.new_as::<Pod>().filter(|_| is_looked_at(write)).cloned() else { return Ok(()) };
        let mut errors = Vec::new();
        policies(&mut pod, &mut |list, index, policy| {
            if policy.as_deref() != Some(ALWAYS) {
                let path = Path::new("spec").child(list).index(index).child("imagePullPolicy");
                let error = Error::not_supported(&path, policy.as_deref().unwrap_or_default(), &[ALWAYS]);
                errors.push(write.forbidden(error).message);
            }
        });
        if errors.is_empty() {
            return Ok(());
        }
        let mut refused = write.forbidden("");
        refused.message = refusals(&errors);
        Err(refused)
    }
}

fn is_looked_at(write: &Attributes) -> bool {
    write.is("", "pods") || write.about("", "pods") && write.subresource == Some(Subresource::EphemeralContainers)
}

/// Visits the pull policy of every container.
fn policies(pod: &mut Pod, visit: &mut dyn FnMut(&str, usize, &mut Option<String>)) {
    let Some(spec) = &mut pod.spec else { return };
    for (index, container) in spec.init_containers.iter_mut().flatten().enumerate() {
        visit("initContainers", index, &mut container.image_pull_policy);
    }
    for (index, container) in spec.containers.iter_mut().enumerate() {
        visit("containers", index, &mut container.image_pull_policy);
    }
    for (index, container) in spec.ephemeral_containers.iter_mut().flatten().enumerate() {
        visit("ephemeralContainers", index, &mut container.image_pull_policy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Cluster, json, run, write};
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn every_container_pulls() {
        let pod: Pod = json(json!({"metadata": {"name": "web"}, "spec": {
            "containers": [{"name": "a", "imagePullPolicy": "Never"}], "initContainers": [{"name": "i"}]}}));
        let mut write = write(Operation::Create, "pods", pod);
        let unchanged = AlwaysPullImages.validate(&write, &Cluster::default(), &mut Notes::default()).await;
        assert_eq!(
            unchanged.expect_err("refused").message,
            r#"[pods "web" is forbidden: spec.initContainers[0].imagePullPolicy: Unsupported value: "": supported values: "Always", pods "web" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always"]"#
        );
        run(&AlwaysPullImages, &mut write, &Cluster::default()).await.expect("admitted");
    }
}
