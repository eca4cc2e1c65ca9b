//! `admission.wharf.dev/v1alpha1`: admission plugins that are WebAssembly components.
//!
//! A kind of our own, written as k8s-openapi writes Kubernetes': a null counts as absent, and `apiVersion`, `kind` and
//! `metadata` come first. It has no protobuf.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MatchCondition, RuleWithOperations};
use k8s_openapi::api::core::v1::SecretReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::{ClusterResourceScope, ListableResource, Metadata, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::meta::{Condition, LabelSelector, ObjectMeta};

/// AdmissionPlugin registers a WebAssembly component that the API server asks about writes. Components of the package
/// `wharf:admission` may refuse what is written, change it, or both, as what they export says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionPlugin {
    pub metadata: ObjectMeta,
    pub spec: AdmissionPluginSpec,
    pub status: Option<AdmissionPluginStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdmissionPluginSpec {
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<SecretReference>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleWithOperations>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_conditions: Option<Vec<MatchCondition>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reinvocation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<PluginResources>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginResources {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdmissionPluginStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "imageID")]
    pub image_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Resource for AdmissionPlugin {
    const API_VERSION: &'static str = "admission.wharf.dev/v1alpha1";
    const GROUP: &'static str = "admission.wharf.dev";
    const KIND: &'static str = "AdmissionPlugin";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "admissionplugins";
    type Scope = ClusterResourceScope;
}

impl ListableResource for AdmissionPlugin {
    const LIST_KIND: &'static str = "AdmissionPluginList";
}

impl Metadata for AdmissionPlugin {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Serialize for AdmissionPlugin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            api_version: &'a str,
            kind: &'a str,
            metadata: &'a ObjectMeta,
            spec: &'a AdmissionPluginSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: &'a Option<AdmissionPluginStatus>,
        }
        let Self { metadata, spec, status } = self;
        Written { api_version: Self::API_VERSION, kind: Self::KIND, metadata, spec, status }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AdmissionPlugin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Read {
            api_version: Option<String>,
            kind: Option<String>,
            metadata: Option<ObjectMeta>,
            spec: Option<AdmissionPluginSpec>,
            status: Option<AdmissionPluginStatus>,
        }
        let read = Read::deserialize(deserializer)?;
        let check = |held: Option<String>, expected: &'static str| match held {
            Some(held) if held != expected => {
                Err(serde::de::Error::invalid_value(serde::de::Unexpected::Str(&held), &expected))
            }
            _ => Ok(()),
        };
        check(read.api_version, Self::API_VERSION)?;
        check(read.kind, Self::KIND)?;
        Ok(Self {
            metadata: read.metadata.unwrap_or_default(),
            spec: read.spec.unwrap_or_default(),
            status: read.status,
        })
    }
}

/// A type's schema in the words of its fields, as `kubectl explain` shows them.
macro_rules! schema {
    ($kind:ty, $name:literal, |$generator:ident| $schema:expr) => {
        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                concat!("dev.wharf.admission.v1alpha1.", $name).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// A reference to another type's schema, with words of its own.
fn named<T: JsonSchema>(generator: &mut SchemaGenerator, words: &str) -> Schema {
    let mut schema = generator.subschema_for::<T>();
    schema.insert("description".to_owned(), words.into());
    schema
}

fn list_of<T: JsonSchema>(generator: &mut SchemaGenerator, words: &str) -> Schema {
    json_schema!({ "type": "array", "description": words, "items": generator.subschema_for::<T>() })
}

schema!(AdmissionPlugin, "AdmissionPlugin", |generator| json_schema!({
    "type": "object",
    "description": "AdmissionPlugin registers a WebAssembly component that the API server asks about writes. Components of the package `wharf:admission` may refuse what is written, change it, or both, as what they export says.",
    "required": ["metadata", "spec"],
    "properties": {
        "apiVersion": { "type": "string", "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources" },
        "kind": { "type": "string", "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds" },
        "metadata": named::<ObjectMeta>(generator, "Standard object metadata; More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata."),
        "spec": named::<AdmissionPluginSpec>(generator, "Which component is asked, about what."),
        "status": named::<AdmissionPluginStatus>(generator, "Whether the component is loaded. Read-only."),
    },
}));

schema!(AdmissionPluginSpec, "AdmissionPluginSpec", |generator| json_schema!({
    "type": "object",
    "description": "AdmissionPluginSpec says which component is asked, about what, and what happens where it has no answer.",
    "required": ["image"],
    "properties": {
        "image": { "type": "string", "description": "image is the reference of an OCI image or artifact that holds the component, by tag or by digest. It is pulled when the object is made and whenever its spec or annotations change." },
        "imagePullSecrets": list_of::<SecretReference>(generator, "imagePullSecrets names secrets with credentials for the image's registry, of the types that a pod's imagePullSecrets have. Those that are not there are passed over."),
        "rules": list_of::<RuleWithOperations>(generator, "rules describes what operations on what resources/subresources the plugin cares about. It is asked if any rule matches. AdmissionPlugins themselves and the kinds of admissionregistration.k8s.io are exempt."),
        "matchPolicy": { "type": "string", "description": "matchPolicy defines how the rules are used to match incoming requests. Allowed values are \"Exact\" or \"Equivalent\". Defaults to \"Equivalent\"." },
        "namespaceSelector": named::<LabelSelector>(generator, "namespaceSelector decides whether to ask about an object by the labels of its namespace, or of the object itself where it is a namespace. Other cluster-scoped objects are never passed over. Default to the empty LabelSelector, which matches everything."),
        "objectSelector": named::<LabelSelector>(generator, "objectSelector decides whether to ask by the labels of the object, either as it is or as it would be. Default to the empty LabelSelector, which matches everything."),
        "matchConditions": list_of::<MatchCondition>(generator, "matchConditions is a list of conditions in CEL that must all hold for the plugin to be asked. There are a maximum of 64 match conditions allowed."),
        "failurePolicy": { "type": "string", "description": "failurePolicy defines what becomes of a write where the plugin is not ready, fails, or takes too long: allowed values are Ignore or Fail. Defaults to Fail." },
        "reinvocationPolicy": { "type": "string", "description": "reinvocationPolicy indicates whether a mutating plugin is called once more where something has changed after it: allowed values are \"Never\" and \"IfNeeded\". Defaults to \"Never\"." },
        "timeoutSeconds": { "type": "integer", "format": "int32", "description": "timeoutSeconds is how long a call may take, between 1 and 30 seconds. Default to 10 seconds." },
        "parameters": { "type": "object", "description": "parameters are handed to the component with each call, as they stand.", "x-kubernetes-preserve-unknown-fields": true },
        "resources": named::<PluginResources>(generator, "resources bounds what a call may use."),
    },
}));

schema!(PluginResources, "PluginResources", |generator| json_schema!({
    "type": "object",
    "description": "PluginResources bounds what a call may use.",
    "properties": {
        "limits": { "type": "object", "description": "limits describes the most that a call may use. Only memory is known; it defaults to 64Mi.", "additionalProperties": generator.subschema_for::<Quantity>() },
    },
}));

schema!(AdmissionPluginStatus, "AdmissionPluginStatus", |generator| json_schema!({
    "type": "object",
    "description": "AdmissionPluginStatus says whether the component is loaded.",
    "properties": {
        "observedGeneration": { "type": "integer", "format": "int64", "description": "observedGeneration is the generation that the status is about." },
        "imageID": { "type": "string", "description": "imageID is the digest of the image that is loaded." },
        "hooks": { "type": "array", "description": "hooks is what the component exports: Mutating, Validating, or both.", "items": { "type": "string" } },
        "conditions": list_of::<Condition>(generator, "conditions are ImagePulled, Compiled and Ready."),
    },
}));
