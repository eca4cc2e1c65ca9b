//! `AuthenticationConfiguration`: which issuers' tokens count, and how their claims become users.
//!
//! Source: `k8s.io/apiserver/pkg/apis/apiserver/{v1,v1beta1,load}`. Unknown fields are refused, so a misspelt rule cannot be
//! lost. Absent on purpose: egress selectors, which are checked and have nothing to select here.

use serde::Deserialize;
use wharf_types::field::{self, Errors};

use super::mapping::Mapper;
use super::validate;

const API_VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
const KIND: &str = "AuthenticationConfiguration";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Configuration {
    pub api_version: String,
    pub kind: String,
    #[serde(default)]
    pub jwt: Vec<JwtAuthenticator>,
    #[serde(default)]
    pub anonymous: Option<AnonymousConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct JwtAuthenticator {
    #[serde(default)]
    pub issuer: Issuer,
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimRule>,
    #[serde(default)]
    pub claim_mappings: ClaimMappings,
    #[serde(default)]
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimMappings {
    pub username: PrefixedClaim,
    pub groups: PrefixedClaim,
    pub uid: Claim,
    pub extra: Vec<ExtraMapping>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixedClaim {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claim {
    pub claim: String,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ExtraMapping {
    pub key: String,
    pub value_expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousConfig {
    #[serde(default)]
    pub enabled: bool,
    #[serde(default)]
    pub conditions: Vec<AnonymousCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymousCondition {
    #[serde(default)]
    pub path: String,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("strict decoding error: {0}")]
    Decode(#[from] serde_yaml::Error),
    #[error("no kind {KIND:?} is registered for version {0:?}")]
    Kind(String),
    #[error("{}", aggregate(.0))]
    Invalid(Errors),
    #[error("{0}")]
    Use(String),
}

/// As upstream shows several errors as one.
pub(crate) fn aggregate(errors: &[field::Error]) -> String {
    match errors {
        [one] => one.to_string(),
        all => format!("[{}]", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl Configuration {
    pub fn parse(yaml: &str) -> Result<Self, Error> {
        let configuration: Self = serde_yaml::from_str(yaml)?;
        let Self { api_version, kind, .. } = &configuration;
        if !API_VERSIONS.contains(&api_version.as_str()) || kind != KIND {
            return Err(Error::Kind(format!("{api_version}, Kind={kind}")));
        }
        Ok(configuration)
    }

    /// Checks all of it, and compiles its expressions: one mapper for each issuer.
    pub fn compile(&self, disallowed: &[String]) -> Result<Vec<Mapper>, Error> {
        let (mappers, errors) = validate::configuration(self, disallowed);
        if errors.is_empty() { Ok(mappers) } else { Err(Error::Invalid(errors)) }
    }
}
