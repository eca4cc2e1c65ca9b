//! ResourceSlices: devices that a driver has, on one node or on several.
//!
//! Source: `validateResourceSliceSpec`, `pkg/registry/resource/resourceslice`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::resource::v1::{
    Counter, CounterSet, Device, DeviceAttribute, ResourceSlice, ResourceSliceSpec,
};
use wharf_types::meta::Time;

use super::super::storageclass::validate_driver_name;
use super::super::{created, name};
use super::device::validate_device;
use super::{each_once, validate_pool_name};
use crate::checks;
use crate::podspec::scheduling;
use crate::strategy::{AGE, Asked, Column, NAME, Strategy};

#[derive(Debug)]
pub struct ResourceSlices;

const DEVICES_MAX: usize = 128;
/// Where a device has taints or shares counters.
const DEVICES_MAX_COMPLEX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
pub const COUNTERS_MAX: usize = 32;
const PLACES: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

impl Strategy for ResourceSlices {
    type Object = ResourceSlice;

    fn prepare_for_create(&self, slice: &mut ResourceSlice) {
        slice.metadata.generation = Some(1);
        drop_alpha(&mut slice.spec, None);
    }

    fn prepare_for_update(&self, slice: &mut ResourceSlice, old: &ResourceSlice) {
        drop_alpha(&mut slice.spec, Some(&old.spec));
        let changed = slice.spec != old.spec;
        super::super::generation(&mut slice.metadata, &old.metadata, changed);
    }

    /// A taint that does not say since when it holds, holds from now on.
    fn stamp(&self, slice: &mut ResourceSlice, _old: Option<&ResourceSlice>, asked: &Asked<'_>) {
        let taints = slice.spec.devices.iter_mut().flatten().flat_map(|device| device.taints.iter_mut().flatten());
        for taint in taints {
            taint.time_added.get_or_insert(Time(asked.now));
        }
    }

    fn validate(&self, slice: &ResourceSlice) -> Errors {
        validate_spec(&slice.spec, &Path::new("spec"))
    }

    fn validate_update(&self, new: &ResourceSlice, old: &ResourceSlice) -> Errors {
        let (new, old, path) = (&new.spec, &old.spec, Path::new("spec"));
        let mut errors = checks::immutable(&new.pool.name, &old.pool.name, &path.child("pool").child("name"));
        errors.extend(checks::immutable(&new.driver, &old.driver, &path.child("driver")));
        errors.extend(checks::immutable(&new.node_name, &old.node_name, &path.child("nodeName")));
        errors
    }

    fn fields(&self, slice: &ResourceSlice) -> Vec<(&'static str, String)> {
        let node = slice.spec.node_name.clone().unwrap_or_default();
        vec![("spec.driver", slice.spec.driver.clone()), ("spec.nodeName", node)]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.driver", "spec.nodeName"]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Node",
                "string",
                "NodeName identifies the node which provides the resources in this pool. A field selector can be used to list only ResourceSlice objects belonging to a certain node.\n\nThis field can be used to limit access from nodes to ResourceSlices with the same node name. It also indicates to autoscalers that adding new nodes of the same type as some old node might also make new resources available.\n\nExactly one of NodeName, NodeSelector, AllNodes, and PerDeviceNodeSelection must be set. This field is immutable.",
            ),
            Column::new(
                "Driver",
                "string",
                "Driver identifies the DRA driver providing the capacity information. A field selector can be used to list only ResourceSlice objects with a certain driver name.\n\nMust be a DNS subdomain and should end with a DNS domain owned by the vendor of the driver. It should use only lower case characters. This field is immutable.",
            ),
            Column::new(
                "Pool",
                "string",
                "Name is used to identify the pool. For node-local devices, this is often the node name, but this is not required.\n\nIt must not be longer than 253 characters and must consist of one or more DNS sub-domains separated by slashes. This field is immutable.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        let spec = &slice.spec;
        vec![
            name(&slice.metadata),
            spec.node_name.clone().unwrap_or_else(|| "<unset>".to_owned()).into(),
            spec.driver.clone().into(),
            spec.pool.name.clone().into(),
            created(&slice.metadata, now),
        ]
    }
}

/// Takes away fields whose feature gates are off, `DRAListTypeAttributes` and `DRANodeAllocatableResources`, unless the slice
/// has had such fields before.
fn drop_alpha(spec: &mut ResourceSliceSpec, old: Option<&ResourceSliceSpec>) {
    let devices = |spec: &ResourceSliceSpec| spec.devices.clone().unwrap_or_default();
    let held = old.map(devices).unwrap_or_default();
    let keeps_lists = held.iter().any(|device| device.attributes.iter().flatten().any(|(_, held)| is_list(held)));
    let keeps_mappings = held.iter().any(|device| device.node_allocatable_resource_mappings.is_some());
    for device in spec.devices.iter_mut().flatten() {
        if !keeps_mappings {
            device.node_allocatable_resource_mappings = None;
        }
        for attribute in device.attributes.iter_mut().flat_map(|all| all.values_mut()).filter(|_| !keeps_lists) {
            (attribute.bools, attribute.ints, attribute.strings, attribute.versions) = (None, None, None, None);
        }
    }
}

fn is_list(attribute: &DeviceAttribute) -> bool {
    attribute.bools.is_some() || attribute.ints.is_some() || attribute.strings.is_some() || attribute.versions.is_some()
}

fn validate_spec(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&spec.driver, &path.child("driver"));
    errors.extend(validate_pool(spec, &path.child("pool")));
    errors.extend(validate_place(spec, path));
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.push(Error::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = spec.devices.as_deref().unwrap_or_default();
    let max = if devices.iter().any(is_complex) { DEVICES_MAX_COMPLEX } else { DEVICES_MAX };
    let per_device = spec.per_device_node_selection == Some(true);
    errors.extend(each_once(
        devices,
        max,
        &path.child("devices"),
        |device| device.name.clone(),
        |device, path| validate_device(device, per_device, path),
    ));
    let sets = spec.shared_counters.as_deref().unwrap_or_default();
    let at = path.child("sharedCounters");
    errors.extend(each_once(sets, COUNTER_SETS_MAX, &at, |set| set.name.clone(), validate_counter_set));
    errors
}

fn is_complex(device: &Device) -> bool {
    device.taints.as_ref().is_some_and(|taints| !taints.is_empty())
        || device.consumes_counters.as_ref().is_some_and(|counters| !counters.is_empty())
}

fn validate_pool(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let pool = &spec.pool;
    let mut errors = validate_pool_name(&pool.name, &path.child("name"));
    if pool.resource_slice_count <= 0 {
        let at = path.child("resourceSliceCount");
        errors.push(Error::invalid(&at, pool.resource_slice_count, "must be greater than zero"));
    }
    if pool.generation < 0 {
        let why = "must be greater than or equal to zero";
        errors.push(Error::invalid(&path.child("generation"), pool.generation, why));
    }
    errors
}

/// The slice, or each of its devices, says which nodes can use it, in one way.
fn validate_place(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let (mut errors, mut set) = (Vec::new(), Vec::new());
    match spec.node_name.as_deref() {
        None => {}
        Some("") => {
            let why = "must be either unset or set to a non-empty string";
            errors.push(Error::invalid(&path.child("nodeName"), "", why));
        }
        Some(node) => {
            set.push("`nodeName`");
            errors.extend(checks::dns1123_subdomain(node, &path.child("nodeName")));
        }
    }
    if let Some(selector) = &spec.node_selector {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        errors.extend(scheduling::node_selector(selector, &at));
        if selector.node_selector_terms.len() != 1 {
            let terms = checks::json(&selector.node_selector_terms);
            let why = "must have exactly one node selector term";
            errors.push(Error::invalid(&at.child("nodeSelectorTerms"), terms, why));
        }
    }
    for (flag, field, quoted) in [
        (spec.all_nodes, "allNodes", "`allNodes`"),
        (spec.per_device_node_selection, "perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        match flag {
            None => {}
            Some(true) => set.push(quoted),
            Some(false) => {
                errors.push(Error::invalid(&path.child(field), false, "must be either unset or set to true"));
            }
        }
    }
    match set.as_slice() {
        [] => errors.push(Error::required(path, PLACES)),
        [_] => {}
        several => {
            let why = format!("{PLACES}, but multiple fields are set");
            errors.push(Error::invalid(path, format!("{{{}}}", several.join(", ")), why));
        }
    }
    errors
}

fn validate_counter_set(set: &CounterSet, path: &Path) -> Errors {
    let mut errors = match set.name.as_str() {
        "" => vec![Error::required(&path.child("name"), "")],
        name => checks::dns1123_label(name, &path.child("name")),
    };
    errors.extend(validate_counters(&set.counters, &path.child("counters")));
    errors
}

pub fn validate_counters(counters: &BTreeMap<String, Counter>, path: &Path) -> Errors {
    match counters.len() {
        0 => vec![Error::required(path, "")],
        many if many > COUNTERS_MAX => vec![Error::too_many(path, many, COUNTERS_MAX)],
        _ => counters.keys().flat_map(|name| checks::dns1123_label(name, &path.key(name))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update};

    const SLICE: &str = "{metadata: {name: s}, spec: {driver: g.example.com, nodeName: n1, pool: {name: n1, generation: 1, resourceSliceCount: 1}, devices: [{name: d0, attributes: {model: {string: x}}, capacity: {memory: {value: 1Gi}}}]}}";

    #[test]
    fn a_slice_is_of_one_place() {
        check(&ResourceSlices, SLICE, &[]);
        check(&ResourceSlices, &SLICE.replace("nodeName: n1,", ""), &[&format!("spec: Required value: {PLACES}")]);
        check(
            &ResourceSlices,
            &SLICE.replace("nodeName: n1,", "nodeName: n1, allNodes: true, perDeviceNodeSelection: false,"),
            &[
                "spec.perDeviceNodeSelection: Invalid value: false: must be either unset or set to true",
                &format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {PLACES}, but multiple fields are set"),
            ],
        );
    }

    #[test]
    fn counters_stand_alone() {
        check(
            &ResourceSlices,
            &SLICE.replace("devices:", "sharedCounters: [{name: a, counters: {}}], devices:"),
            &[
                "spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed",
                "spec.sharedCounters[0].counters: Required value",
            ],
        );
    }

    #[test]
    fn a_slice_stays_its_drivers() {
        check_update(&ResourceSlices, SLICE, &SLICE.replace("d0", "d1"), &[]);
        check_update(
            &ResourceSlices,
            SLICE,
            &SLICE.replace("g.example.com", "h.example.com"),
            &["spec.driver: Invalid value: \"h.example.com\": field is immutable"],
        );
    }

    #[test]
    fn lists_of_values_are_not_kept_yet() {
        let listed = SLICE.replace("model: {string: x}", "a: {strings: [x]}");
        let mut slice: ResourceSlice = crate::testing::object(&ResourceSlices, &listed);
        let held = slice.clone();
        ResourceSlices.prepare_for_update(&mut slice, &held);
        assert_eq!(slice.spec, held.spec, "who has them keeps them");
        ResourceSlices.prepare_for_create(&mut slice);
        let errors = ResourceSlices.validate(&slice);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified"]
        );
    }

    #[test]
    fn slices_show_node_and_driver() {
        check_cells(&ResourceSlices, SLICE, "s | n1 | g.example.com | n1 | <unknown>");
    }
}
