//! Binds through the `binding` subresource.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::framework::{Bind, BindError};
use crate::pod::PodInfo;

pub struct ApiBind {
    client: Client,
}

impl ApiBind {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Bind for ApiBind {
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindError> {
        let error = |settled, source: Box<dyn std::error::Error + Send + Sync>| BindError {
            operation: "bind",
            pod: pod.key.to_string(),
            settled,
            source,
        };
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.key.name.to_string()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        pods.create_subresource::<Binding, Status>("binding", &pod.key.name, &PostParams::default(), &binding)
            .await
            .map(drop)
            .map_err(|source| {
                error(matches!(&source, kube::Error::Api(status) if matches!(status.code, 404 | 409)), source.into())
            })
    }
}
