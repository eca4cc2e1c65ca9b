//! The types of what admission's expressions are told beside the objects.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/cel/compile.go`.

use super::types::Type;

/// Of `request`. Source: `BuildRequestType`.
pub fn request_type() -> Type {
    let text = |names: &[&'static str]| names.iter().map(|name| (*name, Type::STRING)).collect::<Vec<_>>();
    let kind = Type::object("kubernetes.GroupVersionKind", text(&["group", "version", "kind"]));
    let resource = Type::object("kubernetes.GroupVersionResource", text(&["group", "version", "resource"]));
    let user = [
        ("username", Type::STRING),
        ("uid", Type::STRING),
        ("groups", Type::list(Type::STRING)),
        ("extra", Type::map(Type::list(Type::STRING))),
    ];
    let mut fields = text(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    fields.extend([
        ("kind", kind.clone()),
        ("requestKind", kind),
        ("resource", resource.clone()),
        ("requestResource", resource),
        ("userInfo", Type::object("kubernetes.UserInfo", user)),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ]);
    Type::object("kubernetes.AdmissionRequest", fields)
}

/// Of `namespaceObject`. Source: `BuildNamespaceType`.
pub fn namespace_type() -> Type {
    let texts = Type::list(Type::STRING);
    let metadata = [
        ("name", Type::STRING),
        ("generateName", Type::STRING),
        ("namespace", Type::STRING),
        ("labels", Type::map(Type::STRING)),
        ("annotations", Type::map(Type::STRING)),
        ("UID", Type::STRING),
        ("creationTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("deletionTimestamp", Type::Timestamp),
        ("generation", Type::Int),
        ("resourceVersion", Type::STRING),
        ("finalizers", texts.clone()),
    ];
    let condition = [
        ("status", Type::STRING),
        ("type", Type::STRING),
        ("lastTransitionTime", Type::Timestamp),
        ("message", Type::STRING),
        ("reason", Type::STRING),
    ];
    let conditions = Type::list(Type::object("kubernetes.NamespaceCondition", condition));
    Type::object(
        "kubernetes.Namespace",
        [
            ("metadata", Type::object("kubernetes.NamespaceMetadata", metadata)),
            ("spec", Type::object("kubernetes.NamespaceSpec", [("finalizers", texts)])),
            (
                "status",
                Type::object("kubernetes.NamespaceStatus", [("conditions", conditions), ("phase", Type::STRING)]),
            ),
        ],
    )
}
