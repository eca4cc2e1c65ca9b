//! From claims to a user. Pure.
//!
//! Source: `plugin/pkg/authenticator/token/oidc` (`AuthenticateToken` and what it calls), with its messages.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use wharf_machinery::cel::Value;

use super::config::ClaimMappings;
use super::expression::Expression;
use crate::{AuthenticateError, User};

pub type Claims = Map<String, Json>;

/// A condition, and what is said where it does not hold.
#[derive(Debug)]
pub struct Rule {
    pub expression: Expression,
    pub message: String,
}

/// The compiled half of a configuration; what is told by the name of a claim stands in [`ClaimMappings`].
#[derive(Debug, Default)]
pub struct Mapper {
    pub required: Vec<(String, String)>,
    pub claim_rules: Vec<Rule>,
    pub username: Option<Expression>,
    pub groups: Option<Expression>,
    pub uid: Option<Expression>,
    pub extra: Vec<(String, Expression)>,
    pub user_rules: Vec<Rule>,
}

fn wrong(why: String) -> AuthenticateError {
    AuthenticateError(format!("oidc: {why}"))
}

fn refuse<T>(why: String) -> Result<T, AuthenticateError> {
    Err(wrong(why))
}

impl Mapper {
    /// The user whom the claims of a verified token describe.
    pub fn user(&self, mappings: &ClaimMappings, claims: Claims) -> Result<User, AuthenticateError> {
        let claims = Json::Object(claims);
        let name = self.name(mappings, &claims)?;
        let groups = self.groups(mappings, &claims)?;
        let uid = self.uid(mappings, &claims)?;
        let mut extra = BTreeMap::new();
        for (key, expression) in &self.extra {
            let value = expression
                .evaluate(&claims)
                .map_err(|why| wrong(format!("error evaluating extra claim expression: {why}")))?;
            let values = strings(&value)
                .map_err(|why| wrong(format!("error evaluating extra claim expression: {}: {why}", expression.text)))?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        for (claim, value) in &self.required {
            required(&claims, claim, value)?;
        }
        judge(&self.claim_rules, &claims)
            .map_err(|why| wrong(format!("error evaluating claim validation expression: {why}")))?;
        let user = User { name, uid, groups, extra };
        if !self.user_rules.is_empty() {
            let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            judge(&self.user_rules, &shown)
                .map_err(|why| wrong(format!("error evaluating user info validation rule: {why}")))?;
        }
        Ok(user.authenticated())
    }

    fn name(&self, mappings: &ClaimMappings, claims: &Json) -> Result<String, AuthenticateError> {
        if let Some(expression) = &self.username {
            let fail = |why: String| wrong(format!("error evaluating username claim expression: {why}"));
            let value = expression.evaluate(claims).map_err(fail)?;
            let Some(name) = value.as_str() else {
                return Err(fail("username claim expression must return a string".to_owned()));
            };
            if name.is_empty() {
                return refuse("empty username via CEL expression is not allowed".to_owned());
            }
            return Ok(name.to_owned());
        }
        let mapping = &mappings.username;
        let name = text(claims, &mapping.claim)
            .map_err(|why| wrong(format!("parse username claims {:?}: {why}", mapping.claim)))?;
        // An address that somebody merely claims is no name.
        if mapping.claim == "email" {
            match claims.get("email_verified") {
                None | Some(Json::Bool(true)) => {}
                Some(Json::Bool(false)) => return refuse("email not verified".to_owned()),
                Some(other) => {
                    let why = format!("json: cannot unmarshal {} into Go value of type bool", go_type(other));
                    return refuse(format!("parse 'email_verified' claim: {why}"));
                }
            }
        }
        Ok(format!("{}{name}", mapping.prefix.as_deref().unwrap_or_default()))
    }

    fn groups(&self, mappings: &ClaimMappings, claims: &Json) -> Result<Vec<String>, AuthenticateError> {
        let mapping = &mappings.groups;
        if let Some(held) = claims.get(&mapping.claim).filter(|_| !mapping.claim.is_empty()) {
            let prefix = mapping.prefix.as_deref().unwrap_or_default();
            let groups =
                one_or_more(held).map_err(|why| wrong(format!("parse groups claim {:?}: {why}", mapping.claim)))?;
            return Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect());
        }
        let Some(expression) = &self.groups else { return Ok(Vec::new()) };
        let groups = expression.evaluate(claims).and_then(|value| strings(&value));
        groups.map_err(|why| wrong(format!("error evaluating group claim expression: {why}")))
    }

    fn uid(&self, mappings: &ClaimMappings, claims: &Json) -> Result<String, AuthenticateError> {
        let claim = &mappings.uid.claim;
        if !claim.is_empty() {
            return text(claims, claim).map_err(|why| wrong(format!("parse uid claim {claim:?}: {why}")));
        }
        let Some(expression) = &self.uid else { return Ok(String::new()) };
        let fail = |why: String| wrong(format!("error evaluating uid claim expression: {why}"));
        match expression.evaluate(claims).map_err(fail)?.as_str() {
            Some(uid) => Ok(uid.to_owned()),
            None => Err(fail("uid claim expression must return a string".to_owned())),
        }
    }
}

fn required(claims: &Json, claim: &str, wanted: &str) -> Result<(), AuthenticateError> {
    if claims.get(claim).is_none() {
        return refuse(format!("required claim {claim} not present in ID token"));
    }
    let got = text(claims, claim).map_err(|why| wrong(format!("parse claim {claim}: {why}")))?;
    if got != wanted {
        return refuse(format!("required claim {claim} value does not match. Got = {got}, want = {wanted}"));
    }
    Ok(())
}

/// Why a rule does not hold.
fn judge(rules: &[Rule], subject: &Json) -> Result<(), String> {
    for Rule { expression, message } in rules {
        match expression.evaluate(subject)?.as_bool() {
            Some(true) => {}
            Some(false) => return Err(format!("validation expression '{}' failed: {message}", expression.text)),
            None => return Err("validation expression must return a boolean".to_owned()),
        }
    }
    Ok(())
}

/// A string, some strings, or nothing. What is empty is not there.
fn strings(value: &Value<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let all = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.to_string()],
        other => {
            let elements = other.elements().ok_or_else(wrong)?;
            let text = |element: &Value<'_>| element.as_str().map(str::to_owned).ok_or_else(wrong);
            elements.iter().map(text).collect::<Result<_, _>>()?
        }
    };
    Ok(all.into_iter().filter(|text: &String| !text.is_empty()).collect())
}

/// A claim that is a string; Go reads null as the empty one.
fn text(claims: &Json, claim: &str) -> Result<String, String> {
    match claims.get(claim) {
        None => Err("claim not present".to_owned()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(Json::Null) => Ok(String::new()),
        Some(other) => Err(format!("json: cannot unmarshal {} into Go value of type string", go_type(other))),
    }
}

/// Some name one group by a string.
fn one_or_more(held: &Json) -> Result<Vec<String>, String> {
    match held {
        Json::String(one) => Ok(vec![one.clone()]),
        Json::Null => Ok(Vec::new()),
        Json::Array(all) => {
            let one = |held: &Json| held.as_str().map(str::to_owned).ok_or(());
            let wrong = |()| "json: cannot unmarshal array into Go value of type string".to_owned();
            all.iter().map(one).collect::<Result<_, _>>().map_err(wrong)
        }
        other => Err(format!("json: cannot unmarshal {} into Go value of type string", go_type(other))),
    }
}

fn go_type(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
