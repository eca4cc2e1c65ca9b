//! Continue tokens: where the next page of a list starts, and in which revision.
//!
//! Source: `k8s.io/apiserver/pkg/storage/continue.go`, whose format this is; clients must not look inside.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use wharf_store::Revision;
use wharf_types::ApiError;
use wharf_types::meta::ListMeta;

const VERSION: &str = "meta.k8s.io/v1";
/// Longest token that is looked at, in bytes; keys are far shorter.
const TOKEN_MAX: usize = 4096;

/// The revision of a token that does not ask for a consistent list.
const INCONSISTENT: i64 = -1;

#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// None: go on with whatever is there now.
    pub revision: Option<Revision>,
    /// The last key that was returned.
    pub after: String,
}

impl Token {
    pub fn encode(&self, prefix: &str) -> String {
        let start = format!("{}\0", self.after.strip_prefix(prefix).unwrap_or(&self.after));
        // Revisions count commits, and 2^63 of them is out of reach.
        let rv = self.revision.map_or(INCONSISTENT, |revision| revision.0 as i64);
        let wire = Wire { v: VERSION.to_owned(), rv, start };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).expect("a token serialises to JSON"))
    }

    pub fn decode(text: &str, prefix: &str) -> Result<Self, ApiError> {
        let bad =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        if text.len() > TOKEN_MAX {
            return Err(bad("it is too long".to_owned()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(error.to_string()))?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if wire.v != VERSION {
            return Err(bad(format!("server does not recognize this encoded version {:?}", wire.v)));
        }
        if wire.rv == 0 {
            return Err(bad(format!("incorrect encoded start resourceVersion (version {VERSION})")));
        }
        let Some(last) = wire.start.strip_suffix('\0').filter(|last| !last.is_empty() && !last.contains("..")) else {
            return Err(bad(format!("encoded start key empty or malformed (version {VERSION})")));
        };
        Ok(Self { revision: u64::try_from(wire.rv).ok().map(Revision), after: format!("{prefix}{last}") })
    }
}

/// 410 with a token to go on with, inconsistently.
pub fn expired(token: &Token, prefix: &str) -> ApiError {
    let rest = Token { revision: None, after: token.after.clone() };
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.list_meta = Some(Box::new(ListMeta { continue_: Some(rest.encode(prefix)), ..ListMeta::default() }));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/registry/pods/";

    #[test]
    fn a_token_comes_back_as_it_went() {
        for revision in [Some(Revision(7)), None] {
            let token = Token { revision, after: "/registry/pods/default/web".to_owned() };
            assert_eq!(Token::decode(&token.encode(PREFIX), PREFIX), Ok(token));
        }
    }

    #[test]
    fn a_made_up_token_is_refused() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for text in [
            "%%%".to_owned(),
            encode("{}"),
            encode(r#"{"v":"v9","rv":1,"start":"a\u0000"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a\u0000"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a\u0000"}"#),
            "a".repeat(TOKEN_MAX + 1),
        ] {
            let error = Token::decode(&text, PREFIX).unwrap_err();
            assert!(error.message.starts_with("invalid continue token: "), "{}", error.message);
        }
    }
}
