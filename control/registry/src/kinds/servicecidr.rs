//! ServiceCIDRs: ranges of addresses for Services.
//!
//! Source: `ValidateServiceCIDR` of `pkg/apis/networking/validation`, `pkg/registry/networking/servicecidr`.
//! The API server takes addresses of them (`allocate`), and a controller says when they are ready and when they may go.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};

use super::{created, name};
use crate::checks;
use crate::network::Block;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ServiceCIDRs;

const RANGES_MAX: usize = 2;

impl Strategy for ServiceCIDRs {
    type Object = ServiceCIDR;

    fn default(&self, range: &mut ServiceCIDR) {
        range.spec.get_or_insert_default();
    }

    fn prepare_for_create(&self, range: &mut ServiceCIDR) {
        range.status = Some(ServiceCIDRStatus::default());
    }

    fn prepare_for_update(&self, range: &mut ServiceCIDR, old: &ServiceCIDR) {
        range.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, range: &mut ServiceCIDR, old: &ServiceCIDR) {
        range.spec.clone_from(&old.spec);
        super::keep_meta(&mut range.metadata, &old.metadata);
    }

    fn validate(&self, range: &ServiceCIDR) -> Errors {
        let path = Path::new("spec").child("cidrs");
        let blocks = blocks(range);
        match blocks.len() {
            0 => return vec![Error::required(&path, "at least one CIDR required")],
            len if len > RANGES_MAX => {
                return vec![Error::invalid(&path, checks::json(&range.spec), "may only hold up to 2 values")];
            }
            _ => {}
        }
        if let [one, other] = blocks {
            let family = |text: &str| Block::parse(text).map(|block| block.address.is_ipv4());
            if family(one).zip(family(other)).is_none_or(|(one, other)| one == other) {
                let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                return vec![Error::invalid(&path, checks::json(&range.spec), why)];
            }
        }
        blocks.iter().enumerate().flat_map(|(index, block)| checks::strict_cidr(block, &path.index(index))).collect()
    }

    /// A range stays what it is; one of a single family may get the other one.
    fn validate_update(&self, new: &ServiceCIDR, old: &ServiceCIDR) -> Errors {
        match (blocks(new), blocks(old)) {
            ([first, _], [held]) if first == held => Vec::new(),
            (blocks, held) => checks::immutable(blocks, held, &Path::new("spec").child("cidrs")),
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "CIDRs",
                "string",
                "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, range: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        vec![name(&range.metadata), blocks(range).join(",").into(), created(&range.metadata, now)]
    }
}

fn blocks(range: &ServiceCIDR) -> &[String] {
    range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const RANGE: &str = "{metadata: {name: r}, spec: {cidrs: [10.96.0.0/16]}}";

    #[test]
    fn a_range_has_a_block_of_each_family() {
        check(&ServiceCIDRs, RANGE, &[]);
        check(&ServiceCIDRs, "{spec: {cidrs: [10.96.0.0/16, 'fd00::/112']}}", &[]);
        check(&ServiceCIDRs, "{}", &["spec.cidrs: Required value: at least one CIDR required"]);
        check(
            &ServiceCIDRs,
            "{spec: {cidrs: [10.0.0.0/8, 11.0.0.0/8]}}",
            &[
                "spec.cidrs: Invalid value: {\"cidrs\":[\"10.0.0.0/8\",\"11.0.0.0/8\"]}: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ],
        );
        check(
            &ServiceCIDRs,
            "{spec: {cidrs: [10.0.0.1/8]}}",
            &["spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"],
        );
    }

    #[test]
    fn a_range_only_gains_a_family() {
        check_update(&ServiceCIDRs, RANGE, &RANGE.replace("/16]", "/16, 'fd00::/112']"), &[]);
        check_update(
            &ServiceCIDRs,
            RANGE,
            &RANGE.replace("/16", "/12"),
            &["spec.cidrs: Invalid value: [\"10.96.0.0/12\"]: field is immutable"],
        );
    }

    #[test]
    fn cells_show_the_blocks() {
        check_cells(&ServiceCIDRs, RANGE, "r | 10.96.0.0/16 | <unknown>");
    }
}
