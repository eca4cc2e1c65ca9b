//! Leases: who holds a role, and until when. Nodes show with theirs that they live.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::coordination::v1::Lease;

use super::{created, name};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct Leases;

impl Strategy for Leases {
    type Object = Lease;

    fn validate(&self, lease: &Lease) -> Errors {
        let Some(spec) = &lease.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.push(Error::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        errors
            .extend(checks::non_negative(spec.lease_transitions.unwrap_or_default(), &path.child("leaseTransitions")));
        let strategy = spec.strategy.as_deref().unwrap_or_default();
        if !strategy.is_empty() {
            errors.extend(checks::qualified_name(strategy, &path.child("strategy")));
        } else if spec.preferred_holder.as_deref().is_some_and(|holder| !holder.is_empty()) {
            let why = "may only be specified if `strategy` is defined";
            errors.push(Error::forbidden(&path.child("preferredHolder"), why));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Holder",
                "string",
                "holderIdentity contains the identity of the holder of a current lease. If Coordinated Leader Election is used, the holder identity must be equal to the elected LeaseCandidate.metadata.name field.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, lease: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        vec![name(&lease.metadata), holder.into(), created(&lease.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells};

    #[test]
    fn durations_are_positive() {
        check(&Leases, "{spec: {leaseDurationSeconds: 40, leaseTransitions: 0}}", &[]);
        check(
            &Leases,
            "{spec: {leaseDurationSeconds: 0, leaseTransitions: -1}}",
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
        check(
            &Leases,
            "{spec: {preferredHolder: a}}",
            &["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"],
        );
    }

    #[test]
    fn the_holder_is_shown() {
        check_cells(
            &Leases,
            "{metadata: {name: n, creationTimestamp: '2024-05-01T10:00:00Z'}, spec: {holderIdentity: me}}",
            "n | me | 120m",
        );
    }
}
