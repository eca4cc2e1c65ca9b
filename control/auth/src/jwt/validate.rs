//! What a configuration of issuers must say. Pure; the expressions are compiled on the way.
//!
//! Source: `k8s.io/apiserver/pkg/apis/apiserver/validation` (`ValidateAuthenticationConfiguration`), with its messages.

use std::collections::HashSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use wharf_machinery::names;
use wharf_types::field::{Error, Errors, Path};

use super::config::{ClaimMappings, ClaimRule, Configuration, Issuer, JwtAuthenticator, PrefixedClaim, UserRule};
use super::expression::{Expression, Scope, Wants};
use super::mapping::{Mapper, Rule};

/// Most issuers, as upstream.
const ISSUERS_MAX: usize = 64;
const MATCH_ANY: &str = "MatchAny";

/// All that is wrong, and what the expressions mean where nothing is.
pub fn configuration(configuration: &Configuration, disallowed: &[String]) -> (Vec<Mapper>, Errors) {
    let root = Path::new("jwt");
    let jwt = &configuration.jwt;
    if jwt.len() > ISSUERS_MAX {
        return (Vec::new(), vec![Error::too_many(&root, jwt.len(), ISSUERS_MAX)]);
    }
    let (mut mappers, mut errors) = (Vec::new(), Errors::new());
    let (mut urls, mut discoveries) = (HashSet::new(), HashSet::new());
    for (place, authenticator) in jwt.iter().enumerate() {
        let path = root.index(place);
        mappers.push(one(authenticator, disallowed, &path, &mut errors));
        let issuer = &authenticator.issuer;
        if !urls.insert(&issuer.url) {
            errors.push(Error::duplicate(&path.child("issuer").child("url"), &issuer.url));
        }
        if !issuer.discovery_url.is_empty() && !discoveries.insert(&issuer.discovery_url) {
            errors.push(Error::duplicate(&path.child("issuer").child("discoveryURL"), &issuer.discovery_url));
        }
    }
    if let Some(anonymous) = &configuration.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        let paths = anonymous.conditions.iter().map(|condition| json!({"path": condition.path}));
        let shown = serde_json::Value::from(paths.collect::<Vec<_>>());
        let why = "enabled should be set to true when conditions are defined";
        errors.push(Error::invalid(&Path::new("anonymous").child("conditions"), shown, why));
    }
    (mappers, errors)
}

fn one(authenticator: &JwtAuthenticator, disallowed: &[String], path: &Path, errors: &mut Errors) -> Mapper {
    let JwtAuthenticator { issuer: from, claim_validation_rules, claim_mappings, user_validation_rules } =
        authenticator;
    issuer(from, disallowed, &path.child("issuer"), errors);
    let mut mapper = Mapper::default();
    claim_rules(claim_validation_rules, &path.child("claimValidationRules"), &mut mapper, errors);
    mappings(claim_mappings, &path.child("claimMappings"), &mut mapper, errors);
    user_rules(user_validation_rules, &path.child("userValidationRules"), &mut mapper, errors);
    mapper
}

fn issuer(issuer: &Issuer, disallowed: &[String], path: &Path, errors: &mut Errors) {
    let at = path.child("url");
    if issuer.url.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        if disallowed.contains(&issuer.url) {
            let why = format!("URL must not overlap with disallowed issuers: [{}]", disallowed.join(" "));
            errors.push(Error::invalid(&at, &issuer.url, why));
        }
        url(&issuer.url, &at, errors);
    }
    let (discovery, at) = (&issuer.discovery_url, path.child("discoveryURL"));
    if !discovery.is_empty() {
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
            errors.push(Error::invalid(&at, discovery, "discoveryURL must be different from URL"));
        }
        url(discovery, &at, errors);
    }
    audiences(issuer, path, errors);
    let authority = &issuer.certificate_authority;
    if !authority.is_empty()
        && CertificateDer::pem_slice_iter(authority.as_bytes()).filter_map(Result::ok).next().is_none()
    {
        let why = "data does not contain any valid RSA or ECDSA certificates";
        errors.push(Error::invalid(&path.child("certificateAuthority"), "<omitted>", why));
    }
    let egress = &issuer.egress_selector_type;
    if !egress.is_empty() && !matches!(egress.as_str(), "controlplane" | "cluster") {
        let why = "egress selector must be either controlplane or cluster";
        errors.push(Error::invalid(&path.child("egressSelectorType"), egress, why));
    }
}

fn url(text: &str, path: &Path, errors: &mut Errors) {
    let mut refuse = |why: String| errors.push(Error::invalid(path, text, why));
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return refuse(format!("parse {text:?}: net/url: invalid control character in URL"));
    }
    if text.starts_with(':') {
        return refuse(format!("parse {text:?}: missing protocol scheme"));
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let authority = rest.split('/').next().unwrap_or_default();
    let faults = [
        (!scheme.eq_ignore_ascii_case("https"), "URL scheme must be https"),
        (!scheme.is_empty() && authority.contains('@'), "URL must not contain a username or password"),
        (!query.is_empty(), "URL must not contain a query"),
        (!fragment.is_empty(), "URL must not contain a fragment"),
    ];
    faults.into_iter().filter(|(is, _)| *is).for_each(|(_, why)| refuse(why.to_owned()));
}

fn audiences(issuer: &Issuer, path: &Path, errors: &mut Errors) {
    let (at, policy) = (path.child("audiences"), &issuer.audience_match_policy);
    if issuer.audiences.is_empty() {
        return errors.push(Error::required(&at, format!("at least one {at} is required")));
    }
    let mut seen = HashSet::new();
    for (place, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(&at.index(place), ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&at.index(place), audience));
        }
    }
    let why = match issuer.audiences.len() {
        _ if policy == MATCH_ANY => return,
        1 if policy.is_empty() => return,
        1 => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(Error::invalid(&path.child("audienceMatchPolicy"), policy, why));
}

/// Compiles into `errors`; none where it could not be.
fn compile(text: &str, scope: Scope, wants: Wants, path: &Path, errors: &mut Errors) -> Option<Expression> {
    Expression::compile(text, scope, wants).map_err(|why| errors.push(Error::invalid(path, text, why))).ok()
}

fn claim_rules(rules: &[ClaimRule], path: &Path, mapper: &mut Mapper, errors: &mut Errors) {
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (place, rule) in rules.iter().enumerate() {
        let path = path.index(place);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => {
                errors.push(Error::invalid(&path, &rule.claim, "claim and expression can't both be set"));
            }
            (true, true) => errors.push(Error::required(&path, "claim or expression is required")),
            (false, true) => {
                if !rule.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errors.push(Error::invalid(&path.child("message"), &rule.message, why));
                }
                if !claims.insert(&rule.claim) {
                    errors.push(Error::duplicate(&path.child("claim"), &rule.claim));
                }
                mapper.required.push((rule.claim.clone(), rule.required_value.clone()));
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errors.push(Error::invalid(&path.child("requiredValue"), &rule.required_value, why));
                }
                let at = path.child("expression");
                if !expressions.insert(&rule.expression) {
                    errors.push(Error::duplicate(&at, &rule.expression));
                    continue;
                }
                let compiled = compile(&rule.expression, Scope::Claims, Wants::Bool, &at, errors);
                mapper
                    .claim_rules
                    .extend(compiled.map(|expression| Rule { expression, message: rule.message.clone() }));
            }
        }
    }
}

fn mappings(mappings: &ClaimMappings, path: &Path, mapper: &mut Mapper, errors: &mut Errors) {
    mapper.username = prefixed(&mappings.username, &path.child("username"), true, errors);
    mapper.groups = prefixed(&mappings.groups, &path.child("groups"), false, errors);
    let uid = &mappings.uid;
    match (uid.claim.is_empty(), uid.expression.is_empty()) {
        (false, false) => {
            errors.push(Error::invalid(&path.child("uid"), "", "claim and expression can't both be set"));
        }
        (_, true) => {}
        (true, false) => {
            let at = path.child("uid").child("expression");
            mapper.uid = compile(&uid.expression, Scope::Claims, Wants::Anything, &at, errors);
        }
    }
    extra(mappings, path, mapper, errors);
    let Some(username) = &mapper.username else { return };
    let all = mapper.claim_rules.iter().map(|rule| &rule.expression);
    let all = all.chain(mapper.extra.iter().map(|(_, expression)| expression)).chain([username]);
    let verified = all.into_iter().any(|expression| expression.selects("email_verified"));
    if username.selects("email") && !verified {
        let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        errors.push(Error::invalid(&path.child("username").child("expression"), &mappings.username.expression, why));
    }
}

fn prefixed(mapping: &PrefixedClaim, path: &Path, required: bool, errors: &mut Errors) -> Option<Expression> {
    match (mapping.expression.is_empty(), mapping.claim.is_empty()) {
        (false, false) => errors.push(Error::invalid(path, "", "claim and expression can't both be set")),
        (true, true) if required => errors.push(Error::required(path, "claim or expression is required")),
        (true, true) => {}
        (false, true) => {
            if let Some(prefix) = &mapping.prefix {
                let why = "may not be specified when expression is set";
                errors.push(Error::invalid(&path.child("prefix"), prefix, why));
            }
            return compile(&mapping.expression, Scope::Claims, Wants::Anything, &path.child("expression"), errors);
        }
        (true, false) if mapping.prefix.is_none() => {
            let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errors.push(Error::required(&path.child("prefix"), why));
        }
        (true, false) => {}
    }
    None
}

fn extra(mappings: &ClaimMappings, path: &Path, mapper: &mut Mapper, errors: &mut Errors) {
    let mut keys = HashSet::new();
    for (place, mapping) in mappings.extra.iter().enumerate() {
        let path = path.child("extra").index(place);
        let (key, at) = (&mapping.key, path.child("key"));
        errors.extend(domain_prefixed_path(key, &at));
        if *key != key.to_lowercase() {
            errors.push(Error::invalid(&at, key, "must be lowercase"));
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let reserved = |suffix: &str| domain == suffix || domain.ends_with(&format!(".{suffix}"));
        if reserved("kubernetes.io") || reserved("k8s.io") {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.push(Error::invalid(&at, key, why));
        }
        if !keys.insert(key) {
            errors.push(Error::duplicate(&at, key));
            continue;
        }
        let at = path.child("valueExpression");
        if mapping.value_expression.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let compiled = compile(&mapping.value_expression, Scope::Claims, Wants::Anything, &at, errors);
        mapper.extra.extend(compiled.map(|expression| (key.clone(), expression)));
    }
}

fn user_rules(rules: &[UserRule], path: &Path, mapper: &mut Mapper, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (place, rule) in rules.iter().enumerate() {
        let at = path.index(place).child("expression");
        if rule.expression.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if !seen.insert(&rule.expression) {
            errors.push(Error::duplicate(&at, &rule.expression));
        } else {
            let compiled = compile(&rule.expression, Scope::User, Wants::Bool, &at, errors);
            mapper.user_rules.extend(compiled.map(|expression| Rule { expression, message: rule.message.clone() }));
        }
    }
}

/// `example.com/path`. Source: `IsDomainPrefixedPath`.
pub fn domain_prefixed_path(value: &str, path: &Path) -> Errors {
    if value.is_empty() {
        return vec![Error::required(path, "")];
    }
    let parts = value.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty());
    let Some((domain, rest)) = parts else {
        return vec![Error::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    };
    let wrong = names::dns1123_subdomain(domain);
    let mut errors: Errors = wrong.into_iter().map(|why| Error::invalid(path, domain, why)).collect();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(legal) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(Error::invalid(path, rest, why));
    }
    errors
}
