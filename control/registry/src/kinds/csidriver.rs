//! CSIDrivers: what a CSI driver asks of the cluster.
//!
//! Source: `pkg/apis/storage/{v1,validation}`, `pkg/registry/storage/csidriver`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::storage::v1::{CSIDriver, CSIDriverSpec, TokenRequest};

use super::{created, name, or_none};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct CSIDrivers;

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLE_MODES: &[&str] = &["Persistent", "Ephemeral"];
/// Shortest and longest life of a token, in seconds.
const TOKEN_LIFE_MIN_S: i64 = 600;
const TOKEN_LIFE_MAX_S: i64 = 1 << 32;
/// How often at most a node asks for its number of volumes.
const UPDATE_PERIOD_MIN_S: i64 = 10;

impl Strategy for CSIDrivers {
    type Object = CSIDriver;

    fn default(&self, driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        spec.attach_required.get_or_insert(true);
        for flag in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
        ] {
            flag.get_or_insert(false);
        }
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        let modes = spec.volume_lifecycle_modes.get_or_insert_default();
        if modes.is_empty() {
            modes.push("Persistent".to_owned());
        }
    }

    fn prepare_for_create(&self, driver: &mut CSIDriver) {
        driver.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, driver: &mut CSIDriver, old: &CSIDriver) {
        let changed = driver.spec != old.spec;
        super::generation(&mut driver.metadata, &old.metadata, changed);
    }

    fn validate(&self, driver: &CSIDriver) -> Errors {
        validate_spec(&driver.spec, &Path::new("spec"))
    }

    fn validate_update(&self, new: &CSIDriver, old: &CSIDriver) -> Errors {
        let path = Path::new("spec");
        let (new, old) = (&new.spec, &old.spec);
        let mut errors = checks::immutable(&new.attach_required, &old.attach_required, &path.child("attachedRequired"));
        let at = path.child("volumeLifecycleModes");
        errors.extend(checks::immutable(&new.volume_lifecycle_modes, &old.volume_lifecycle_modes, &at));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "AttachRequired",
                "boolean",
                "attachRequired indicates this CSI volume driver requires an attach operation (because it implements the CSI ControllerPublishVolume() method), and that the Kubernetes attach detach controller should call the attach volume interface which checks the volumeattachment status and waits until the volume is attached before proceeding to mounting. The CSI external-attacher coordinates with CSI volume driver and updates the volumeattachment status when the attach operation is complete. If the value is specified to false, the attach operation will be skipped. Otherwise the attach operation will be called.\n\nThis field is immutable.",
            ),
            Column::new(
                "PodInfoOnMount",
                "boolean",
                "podInfoOnMount indicates this CSI volume driver requires additional pod information (like podName, podUID, etc.) during mount operations, if set to true. If set to false, pod information will not be passed on mount. Default is false.\n\nThe CSI driver specifies podInfoOnMount as part of driver deployment. If true, Kubelet will pass pod information as VolumeContext in the CSI NodePublishVolume() calls. The CSI driver is responsible for parsing and validating the information passed in as VolumeContext.\n\nThe following VolumeContext will be passed if podInfoOnMount is set to true. This list might grow, but the prefix will be used. \"csi.storage.k8s.io/pod.name\": pod.Name \"csi.storage.k8s.io/pod.namespace\": pod.Namespace \"csi.storage.k8s.io/pod.uid\": string(pod.UID) \"csi.storage.k8s.io/ephemeral\": \"true\" if the volume is an ephemeral inline volume\n                                defined by a CSIVolumeSource, otherwise \"false\"\n\n\"csi.storage.k8s.io/ephemeral\" is a new feature in Kubernetes 1.16. It is only required for drivers which support both the \"Persistent\" and \"Ephemeral\" VolumeLifecycleMode. Other drivers can leave pod info disabled and/or ignore this field. As Kubernetes 1.15 doesn't support this field, drivers can only support one mode when deployed on such a cluster and the deployment determines which mode that is, for example via a command line parameter of the driver.\n\nThis field was immutable in Kubernetes < 1.29 and now is mutable.",
            ),
            Column::new(
                "StorageCapacity",
                "boolean",
                "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that the driver deployment will report by creating CSIStorageCapacity objects with capacity information, if set to true.\n\nThe check can be enabled immediately when deploying a driver. In that case, provisioning new volumes with late binding will pause until the driver deployment has published some suitable CSIStorageCapacity object.\n\nAlternatively, the driver can be deployed with the field unset or false and it can be flipped later when storage capacity information has been published.\n\nThis field was immutable in Kubernetes <= 1.22 and now is mutable.",
            ),
            Column::new(
                "TokenRequests",
                "string",
                "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do necessary authentication. Kubelet will pass the tokens in VolumeContext in the CSI NodePublishVolume calls. The CSI driver should parse and validate the following VolumeContext: \"csi.storage.k8s.io/serviceAccount.tokens\": {\n  \"<audience>\": {\n    \"token\": <token>,\n    \"expirationTimestamp\": <expiration timestamp in RFC3339>,\n  },\n  ...\n}\n\nNote: Audience in each TokenRequest should be different and at most one token is empty string. To receive a new token after expiry, RequiresRepublish can be used to trigger NodePublishVolume periodically.",
            ),
            Column::new(
                "RequiresRepublish",
                "boolean",
                "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any possible change in the mounted volume. This field defaults to false.\n\nNote: After a successful initial NodePublishVolume call, subsequent calls to NodePublishVolume should only update the contents of the volume. New mount points will not be seen by a running container.",
            ),
            Column::new(
                "Modes",
                "string",
                "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports. The default if the list is empty is \"Persistent\", which is the usage defined by the CSI specification and implemented in Kubernetes via the usual PV/PVC mechanism.\n\nThe other mode is \"Ephemeral\". In this mode, volumes are defined inline inside the pod spec with CSIVolumeSource and their lifecycle is tied to the lifecycle of that pod. A driver has to be aware of this because it is only going to get a NodePublishVolume call for such a volume.\n\nFor more information about implementing this mode, see https://kubernetes-csi.github.io/docs/ephemeral-local-volumes.html A driver can support one or more of these modes and more modes may be added in the future.\n\nThis field is beta. This field is immutable.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let audiences = spec
            .token_requests
            .as_ref()
            .map(|requests| requests.iter().map(|request| request.audience.as_str()).collect::<Vec<_>>().join(","));
        vec![
            name(&driver.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or_default().into(),
            spec.storage_capacity.unwrap_or_default().into(),
            audiences.unwrap_or_else(|| "<unset>".to_owned()).into(),
            spec.requires_republish.unwrap_or_default().into(),
            or_none(spec.volume_lifecycle_modes.clone().unwrap_or_default().join(",")).into(),
            created(&driver.metadata, now),
        ]
    }
}

fn validate_spec(spec: &CSIDriverSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (flag, field) in [
        (spec.attach_required, "attachedRequired"),
        (spec.pod_info_on_mount, "podInfoOnMount"),
        (spec.storage_capacity, "storageCapacity"),
    ] {
        if flag.is_none() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    if let Some(policy) = &spec.fs_group_policy {
        errors.extend(checks::one_of(policy, GROUP_POLICIES, &path.child("fsGroupPolicy")));
    }
    let requests = spec.token_requests.as_deref().unwrap_or_default();
    errors.extend(validate_token_requests(requests, &path.child("tokenRequests")));
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        errors.extend(checks::one_of(mode, LIFECYCLE_MODES, &path.child("volumeLifecycleModes")));
    }
    if spec.se_linux_mount.is_none() {
        errors.push(Error::required(&path.child("seLinuxMount"), ""));
    }
    if let Some(period) = spec.node_allocatable_update_period_seconds.filter(|period| *period < UPDATE_PERIOD_MIN_S) {
        let why = format!("must be greater than or equal to {UPDATE_PERIOD_MIN_S} seconds");
        errors.push(Error::invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), period, why));
    }
    if let Some(in_secrets) = spec.service_account_token_in_secrets.filter(|_| requests.is_empty()) {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(Error::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, why));
    }
    errors
}

fn validate_token_requests(requests: &[TokenRequest], path: &Path) -> Errors {
    let (mut errors, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, request) in requests.iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(&request.audience) {
            errors.push(Error::duplicate(&path.child("audience"), &request.audience));
            continue;
        }
        let at = path.child("expirationSeconds");
        match request.expiration_seconds {
            Some(seconds) if seconds < TOKEN_LIFE_MIN_S => {
                errors.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
            }
            Some(seconds) if seconds > TOKEN_LIFE_MAX_S => {
                errors.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_update, created};

    #[test]
    fn a_driver_asks_for_little() {
        created(
            &CSIDrivers,
            "{metadata: {name: csi.example.com}, spec: {}}",
            r#"{"metadata": {"name": "csi.example.com", "generation": 1}, "spec": {"attachRequired": true, "podInfoOnMount": false,
                "storageCapacity": false, "requiresRepublish": false, "seLinuxMount": false,
                "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]}}"#,
        );
    }

    #[test]
    fn what_a_driver_asks_for_is_checked() {
        check(
            &CSIDrivers,
            "{spec: {fsGroupPolicy: Some, volumeLifecycleModes: [Forever], nodeAllocatableUpdatePeriodSeconds: 9, serviceAccountTokenInSecrets: true}}",
            &[
                "spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.volumeLifecycleModes: Unsupported value: \"Forever\": supported values: \"Persistent\", \"Ephemeral\"",
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
                "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified",
            ],
        );
        check(
            &CSIDrivers,
            "{spec: {tokenRequests: [{audience: a, expirationSeconds: 5}, {audience: a}, {audience: '', expirationSeconds: 4294967297}]}}",
            &[
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                "spec.tokenRequests[2].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
            ],
        );
    }

    #[test]
    fn how_a_driver_attaches_stays() {
        check_update(&CSIDrivers, "{spec: {}}", "{spec: {requiresRepublish: true, podInfoOnMount: true}}", &[]);
        check_update(
            &CSIDrivers,
            "{spec: {}}",
            "{spec: {attachRequired: false, volumeLifecycleModes: [Ephemeral]}}",
            &[
                "spec.attachedRequired: Invalid value: false: field is immutable",
                "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable",
            ],
        );
    }

    #[test]
    fn drivers_show_what_they_ask_for() {
        check_cells(
            &CSIDrivers,
            "{metadata: {name: d}, spec: {tokenRequests: [{audience: a}, {audience: b}]}}",
            "d | true | false | false | a,b | false | Persistent | <unknown>",
        );
        check_cells(
            &CSIDrivers,
            "{metadata: {name: d}, spec: {}}",
            "d | true | false | false | <unset> | false | Persistent | <unknown>",
        );
    }
}
