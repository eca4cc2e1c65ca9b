//! What a Service costs. Source: `pkg/quota/v1/evaluator/core/services.go`.

use k8s_openapi::api::core::v1::Service;

use super::{Amounts, one};
use crate::quantity::{Format, Quantity};

pub const NAMES: &[&str] = &["services", "services.nodeports", "services.loadbalancers"];

/// Node ports are counted as they are asked for: when this is evaluated they are not allocated yet.
pub fn usage(service: &Service) -> Amounts {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let count = |number: usize| Quantity::new(number as i64, Format::DecimalSi);
    let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or_default();
    let allocates = spec.and_then(|spec| spec.allocate_load_balancer_node_ports) != Some(false);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count(),
        _ => 0,
    };
    Amounts::from([
        ("services".to_owned(), one()),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(usize::from(kind == "LoadBalancer"))),
    ])
}
