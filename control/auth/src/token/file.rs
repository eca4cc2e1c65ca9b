//! Tokens that a file lists: `token,user,uid,"group1,group2"` on each line.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/token/tokenfile`. Read once; they never expire.

use std::collections::HashMap;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::shared;
use crate::{AuthenticateError, Tokens, User, Whose};

/// Why a file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct FileError(String);

#[derive(Debug)]
pub struct FileTokens {
    /// By the hash of the token, so that how long a look takes tells nothing of it.
    users: HashMap<[u8; 32], User>,
    audiences: Vec<String>,
}

impl FileTokens {
    /// Reads a file's text. The tokens are for `audiences`, those of the API server.
    pub fn parse(text: &str, audiences: Vec<String>) -> Result<Self, FileError> {
        let mut users = HashMap::new();
        for (place, record) in records(text)?.into_iter().enumerate() {
            let [token, name, uid, rest @ ..] = record.as_slice() else {
                return Err(FileError(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {}",
                    record.len()
                )));
            };
            if token.is_empty() {
                tracing::warn!(record = place + 1, "an empty token in the token file is passed over");
                continue;
            }
            let groups = rest.first().map_or("", String::as_str).split(',').filter(|group| !group.is_empty());
            let groups = groups.map(str::to_owned).collect();
            let user = User { name: name.clone(), uid: uid.clone(), groups, ..User::default() }.authenticated();
            if users.insert(Sha256::digest(token).into(), user).is_some() {
                tracing::warn!(record = place + 1, "a token stands in the token file twice: the later line counts");
            }
        }
        Ok(Self { users, audiences })
    }
}

#[async_trait]
impl Tokens for FileTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.users.get(&hash).cloned().zip(shared(&self.audiences, audiences));
        Ok(known.map(|(user, audiences)| Whose::new(user, audiences)))
    }
}

/// The records of RFC 4180: fields between commas, with quotes around those that hold some.
fn records(text: &str) -> Result<Vec<Vec<String>>, FileError> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut line) = (false, 1);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => return Err(FileError(format!("parse error on line {line}: bare \" in non-quoted field"))),
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                line += 1;
                if !record.is_empty() || !field.is_empty() {
                    record.push(std::mem::take(&mut field));
                    records.push(std::mem::take(&mut record));
                }
            }
            letter => field.push(letter),
        }
    }
    if quoted {
        return Err(FileError(format!("parse error on line {line}: extraneous or missing \" in quoted-field")));
    }
    if !record.is_empty() || !field.is_empty() {
        record.push(field);
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is `user uid groups` of the token `t`, `none`, or why the file is refused.
    async fn check(text: &str, audiences: &[&str], expected: &str) {
        let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let got = match FileTokens::parse(text, vec!["api".to_owned()]) {
            Err(error) => error.to_string(),
            Ok(tokens) => match tokens.authenticate_token("t", &audiences).await.expect("no error") {
                Some(Whose { user, .. }) => format!("{} {} {}", user.name, user.uid, user.groups.join("|")),
                None => "none".to_owned(),
            },
        };
        assert_eq!(got, expected, "{text:?}");
    }

    #[tokio::test]
    async fn a_line_is_a_user() {
        check("t,jane,7,\"dev,ops\"\n", &[], "jane 7 dev|ops|system:authenticated").await;
        check("x,bob,1\r\nt,\"ja\"\"ne\",7,dev", &[], "ja\"ne 7 dev|system:authenticated").await;
        check("t,first,1\n\nt,second,2\n,nobody,3\n", &[], "second 2 system:authenticated").await;
        check("x,jane,7", &[], "none").await;
    }

    #[tokio::test]
    async fn tokens_of_a_file_are_for_the_api_server() {
        check("t,jane,7", &["api", "vault"], "jane 7 system:authenticated").await;
        check("t,jane,7", &["vault"], "none").await;
    }

    #[tokio::test]
    async fn what_is_no_list_is_refused() {
        check("t,jane", &[], "token file must have at least 3 columns (token, user name, user uid), found 2").await;
        check("t,\"jane", &[], "parse error on line 1: extraneous or missing \" in quoted-field").await;
        check("t,ja\"ne,7", &[], "parse error on line 1: bare \" in non-quoted field").await;
    }
}
