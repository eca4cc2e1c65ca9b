//! Which zeros on the wire mean something.
//!
//! Upstream's encoder writes every field that is no pointer in Go, zero or not; in JSON such a field is absent when zero.
//! Neither the `.proto` files nor the OpenAPI documents say which fields are pointers, so these tables do. Fields that JSON
//! always has (`exitCode`, `desiredReplicas`) keep their zero.

/// Numbers and booleans, by name, that are absent when zero.
const PLAIN: &[&str] = &[
    "active",
    "authenticated",
    "availableReplicas",
    "chapAuthDiscovery",
    "chapAuthSession",
    "code",
    "count",
    "currentReplicas",
    "denied",
    "deprecated",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "failed",
    "failureThreshold",
    "fullyLabeledReplicas",
    "generation",
    "globalDefault",
    "handSize",
    "healthCheckNodePort",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "insecureSkipTLSVerify",
    "matchingPrecedence",
    "minReadySeconds",
    "nodePort",
    "nullable",
    "number",
    "numberAvailable",
    "numberUnavailable",
    "observedGeneration",
    "partition",
    "paused",
    "periodSeconds",
    "preserveUnknownFields",
    "publishNotReadyAddresses",
    "queueLengthLimit",
    "queues",
    "readOnly",
    "readyReplicas",
    "retryAfterSeconds",
    "signal",
    "sizeBytes",
    "sslEnabled",
    "stdin",
    "stdinOnce",
    "succeeded",
    "successThreshold",
    "timeoutSeconds",
    "tty",
    "unavailableReplicas",
    "uniqueItems",
    "unschedulable",
    "updatedNumberScheduled",
    "updatedReplicas",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
];

/// Where such a name is a pointer all the same, or always in JSON; types are told apart by as much of their name as it takes.
const POINTERS: &[(&str, &str)] = &[
    ("AzureDiskVolumeSource", "readOnly"),
    ("CSIVolumeSource", "readOnly"),
    ("ClientIPConfig", "timeoutSeconds"),
    ("HorizontalPodAutoscalerStatus", "observedGeneration"),
    ("ListOptions", "timeoutSeconds"),
    ("MutatingWebhook", "timeoutSeconds"),
    ("RollingUpdateStatefulSetStrategy", "partition"),
    ("ResourcePool", "generation"),
    ("StatefulSetStatus", "availableReplicas"),
    ("ValidatingWebhook", "timeoutSeconds"),
    ("VolumeNodeResources", "count"),
    ("autoscaling.v1.HorizontalPodAutoscalerStatus", "currentReplicas"),
];

/// Names that are plain in one type only.
const PLAIN_IN: &[(&str, &str)] =
    &[("CustomResourceColumnDefinition", "priority"), ("DeploymentStatus", "replicas"), ("ScaleSpec", "replicas")];

/// Texts that are pointers, where empty is not absent.
const OPTIONAL_TEXT: &[(&str, &str)] = &[
    ("CSIStorageCapacity", "storageClassName"),
    ("CSIVolumeSource", "fsType"),
    ("Endpoint", "hostname"),
    ("Endpoint", "nodeName"),
    ("Endpoint", "zone"),
    ("EndpointAddress", "nodeName"),
    ("EndpointPort", "appProtocol"),
    ("EndpointPort", "name"),
    ("GRPCAction", "service"),
    ("HostPathVolumeSource", "type"),
    ("IngressClassParametersReference", "apiGroup"),
    ("IngressSpec", "ingressClassName"),
    ("LeaseSpec", "holderIdentity"),
    ("LeaseSpec", "preferredHolder"),
    ("LeaseSpec", "strategy"),
    ("PersistentVolumeClaimSpec", "storageClassName"),
    ("PersistentVolumeClaimSpec", "volumeAttributesClassName"),
    ("PersistentVolumeClaimStatus", "currentVolumeAttributesClassName"),
    ("PersistentVolumeSpec", "volumeAttributesClassName"),
    ("PodSpec", "hostnameOverride"),
    ("PodSpec", "runtimeClassName"),
    ("SeccompProfile", "localhostProfile"),
    ("AppArmorProfile", "localhostProfile"),
    ("ServicePort", "appProtocol"),
    ("ServiceSpec", "loadBalancerClass"),
    ("TypedLocalObjectReference", "apiGroup"),
    ("TypedObjectReference", "apiGroup"),
    ("TypedObjectReference", "namespace"),
];

/// True for a number or boolean that JSON leaves out when it is zero.
pub(super) fn is_plain(owner: &str, json: &str) -> bool {
    (PLAIN.contains(&json) && !lists(POINTERS, owner, json)) || lists(PLAIN_IN, owner, json)
}

/// True for a text that can be there and empty.
pub(super) fn is_optional_text(owner: &str, json: &str) -> bool {
    lists(OPTIONAL_TEXT, owner, json)
}

/// True if the field of the type, named in full, is in the table.
fn lists(table: &[(&str, &str)], owner: &str, json: &str) -> bool {
    let is = |short: &str| owner.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    table.iter().any(|(short, field)| *field == json && is(short))
}
