//! Gives an Ingress that names no class the cluster's default class: the newest that says it is one.
//!
//! Source: `plugin/pkg/admission/network/defaultingressclass`.

use async_trait::async_trait;
use wharf_types::k8s::api::networking::v1::Ingress;
use wharf_types::{ApiError, Gvr};

use super::newest_default;
use crate::{Attributes, Notes, Operation, Plugin, Reader};

const CLASSES: Gvr = super::gvr("networking.k8s.io", "v1", "ingressclasses");
const IS_DEFAULT: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];
/// Where the class stood before it had a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, write: &mut Attributes, cluster: &dyn Reader, _notes: &mut Notes) -> Result<(), ApiError> {
        if !write.is("networking.k8s.io", "ingresses") {
            return Ok(());
        }
        let Some(ingress) = write.new_as_mut::<Ingress>() else { return Ok(()) };
        let annotations = ingress.metadata.annotations.as_ref();
        let spec = ingress.spec.get_or_insert_default();
        if spec.ingress_class_name.is_some() || annotations.is_some_and(|all| all.contains_key(CLASS_ANNOTATION)) {
            return Ok(());
        }
        spec.ingress_class_name = newest_default(cluster, &CLASSES, IS_DEFAULT);
        Ok(())
    }
}
