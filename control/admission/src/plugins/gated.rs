//! Plugins that upstream runs by default and that do nothing unless a feature gate is on which v1.36 has off.
//!
//! Their names are known, so the lists of plugins that others use are understood; what they are about (pod groups, jobs that
//! make workloads, bundles of trust anchors) is not served here either.

use async_trait::async_trait;

use crate::{Operation, Plugin};

pub struct Gated(&'static str);

/// Source: `plugin/pkg/admission/scheduling/podgroupprotection`; gate `GenericWorkload`.
pub const POD_GROUP_PROTECTION: Gated = Gated("PodGroupProtection");
/// Source: `plugin/pkg/admission/certificates/ctbattest`; gate `ClusterTrustBundle`.
pub const CLUSTER_TRUST_BUNDLE_ATTEST: Gated = Gated("ClusterTrustBundleAttest");
/// Source: `plugin/pkg/admission/podgroup`; gate `GenericWorkload`.
pub const POD_GROUP_WORKLOAD_EXISTS: Gated = Gated("PodGroupWorkloadExists");
/// Source: `plugin/pkg/admission/job`; gate `WorkloadWithJob`.
pub const JOB_VALIDATION: Gated = Gated("JobValidation");

#[async_trait]
impl Plugin for Gated {
    fn name(&self) -> &'static str {
        self.0
    }

    fn handles(&self, _: Operation) -> bool {
        false
    }
}
