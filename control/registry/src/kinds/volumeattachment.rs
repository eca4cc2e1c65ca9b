//! VolumeAttachments: a volume that is to be attached to a node.
//!
//! Source: `pkg/apis/storage/validation`, `pkg/registry/storage/volumeattachment`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentStatus, VolumeError,
};

use super::storageclass::validate_driver_name;
use super::{created, name, pv};
use crate::checks;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct VolumeAttachments;

const ONE_SOURCE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
/// Most bytes that all metadata of an attachment have together.
const METADATA_MAX: usize = 256 * 1024;
/// Longest message of an error, in bytes.
const MESSAGE_MAX: usize = 1024;

impl Strategy for VolumeAttachments {
    type Object = VolumeAttachment;

    fn prepare_for_create(&self, attachment: &mut VolumeAttachment) {
        attachment.status = Some(VolumeAttachmentStatus::default());
    }

    fn prepare_for_update(&self, attachment: &mut VolumeAttachment, old: &VolumeAttachment) {
        attachment.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, attachment: &mut VolumeAttachment, old: &VolumeAttachment) {
        attachment.spec.clone_from(&old.spec);
        super::keep_meta(&mut attachment.metadata, &old.metadata);
    }

    fn validate(&self, attachment: &VolumeAttachment) -> Errors {
        let mut errors = validate_any(attachment);
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        errors.extend(validate_driver_name(&spec.attacher, &path.child("attacher")));
        if let Some(volume) = &spec.source.persistent_volume_name {
            let at = path.child("source").child("persistentVolumeName");
            errors.extend(checks::dns1123_subdomain(volume, &at));
        }
        errors
    }

    fn validate_update(&self, new: &VolumeAttachment, old: &VolumeAttachment) -> Errors {
        checks::immutable(&new.spec, &old.spec, &Path::new("spec"))
    }

    fn validate_status_update(&self, new: &VolumeAttachment, old: &VolumeAttachment) -> Errors {
        let mut errors = validate_any(new);
        errors.extend(self.validate_update(new, old));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column {
                format: "name",
                ..Column::new(
                    "Attacher",
                    "string",
                    "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().",
                )
            },
            Column::new("PV", "string", "persistentVolumeName represents the name of the persistent volume to attach."),
            Column::new("Node", "string", "nodeName represents the node that the volume should be attached to."),
            Column::new(
                "Attached",
                "boolean",
                "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &attachment.spec;
        vec![
            name(&attachment.metadata),
            spec.attacher.clone().into(),
            spec.source.persistent_volume_name.clone().unwrap_or_default().into(),
            spec.node_name.clone().into(),
            attachment.status.as_ref().is_some_and(|status| status.attached).into(),
            created(&attachment.metadata, now),
        ]
    }
}

/// What holds in every version of the API.
fn validate_any(attachment: &VolumeAttachment) -> Errors {
    let (spec, path) = (&attachment.spec, Path::new("spec"));
    let mut errors = Vec::new();
    if spec.attacher.is_empty() {
        errors.push(Error::required(&path.child("attacher"), ""));
    }
    errors.extend(validate_source(&spec.source, &path.child("source")));
    errors.extend(checks::dns1123_subdomain(&spec.node_name, &path.child("nodeName")));
    if let Some(status) = &attachment.status {
        errors.extend(validate_status(status, &Path::new("status")));
    }
    errors
}

fn validate_source(source: &VolumeAttachmentSource, path: &Path) -> Errors {
    match (&source.inline_volume_spec, &source.persistent_volume_name) {
        (None, None) => vec![Error::required(path, ONE_SOURCE)],
        (Some(_), Some(_)) => vec![Error::forbidden(path, ONE_SOURCE)],
        (None, Some(name)) if name.is_empty() => {
            vec![Error::required(&path.child("persistentVolumeName"), "must specify non empty persistentVolumeName")]
        }
        (None, Some(_)) => Vec::new(),
        (Some(spec), None) => pv::validate_inline(spec, &path.child("inlineVolumeSpec")),
    }
}

fn validate_status(status: &VolumeAttachmentStatus, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let metadata = status.attachment_metadata.iter().flatten();
    if metadata.map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_MAX {
        errors.push(Error::too_long(&path.child("attachmentMetadata"), METADATA_MAX));
    }
    for (error, field) in [(&status.attach_error, "attachError"), (&status.detach_error, "detachError")] {
        errors.extend(error.iter().flat_map(|error| validate_error(error, &path.child(field))));
    }
    errors
}

fn validate_error(error: &VolumeError, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if error.message.as_ref().is_some_and(|message| message.len() > MESSAGE_MAX) {
        // Upstream names the limit of the metadata here.
        errors.push(Error::too_long(&path.child("message"), METADATA_MAX));
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        let why = format!("must be between 0 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("errorCode"), code, why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_cells, check_starts, check_update, object};

    const ATTACHMENT: &str =
        "{metadata: {name: a}, spec: {attacher: csi.example.com, nodeName: n, source: {persistentVolumeName: v}}}";

    #[test]
    fn one_volume_is_attached() {
        check(&VolumeAttachments, ATTACHMENT, &[]);
        check(
            &VolumeAttachments,
            &ATTACHMENT.replace("{persistentVolumeName: v}", "{}"),
            &[&format!("spec.source: Required value: {ONE_SOURCE}")],
        );
        check(
            &VolumeAttachments,
            &ATTACHMENT.replace("{persistentVolumeName: v}", "{persistentVolumeName: v, inlineVolumeSpec: {}}"),
            &[&format!("spec.source: Forbidden: {ONE_SOURCE}")],
        );
        check_starts(
            &VolumeAttachments,
            &ATTACHMENT.replace("csi.example.com", "''"),
            &["spec.attacher: Required value", "spec.attacher: Required value", "spec.attacher: Invalid value: \"\""],
        );
    }

    #[test]
    fn an_inline_volume_is_a_csi_volume() {
        let inline = |spec: &str| ATTACHMENT.replace("persistentVolumeName: v", &format!("inlineVolumeSpec: {spec}"));
        let csi = "{accessModes: [ReadWriteOnce], csi: {driver: csi.example.com, volumeHandle: h}}";
        check(&VolumeAttachments, &inline(csi), &[]);
        check(
            &VolumeAttachments,
            &inline("{accessModes: [ReadWriteOnce]}"),
            &[
                "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
                "spec.source.inlineVolumeSpec: Required value: must specify a volume type",
            ],
        );
    }

    #[test]
    fn what_is_attached_stays() {
        let other = ATTACHMENT.replace("nodeName: n", "nodeName: m");
        let why = "spec: Invalid value: {\"attacher\":\"csi.example.com\",\"nodeName\":\"m\",\"source\":{\"persistentVolumeName\":\"v\"}}: field is immutable";
        check_update(&VolumeAttachments, ATTACHMENT, &other, &[why]);
    }

    #[test]
    fn the_status_holds_no_long_stories() {
        let status = |status: &str| {
            object(&VolumeAttachments, &ATTACHMENT.replace("spec:", &format!("status: {status}, spec:")))
        };
        let old = object(&VolumeAttachments, ATTACHMENT);
        let new =
            status(&format!("{{attached: false, attachError: {{message: {}, errorCode: -1}}}}", "x".repeat(2000)));
        let errors: Vec<String> =
            VolumeAttachments.validate_status_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "status.attachError.message: Too long: may not be more than 262144 bytes",
                "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"
            ]
        );
    }

    #[test]
    fn attachments_show_volume_and_node() {
        check_cells(&VolumeAttachments, ATTACHMENT, "a | csi.example.com | v | n | false | <unknown>");
    }
}
