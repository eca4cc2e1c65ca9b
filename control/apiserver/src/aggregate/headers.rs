//! A user in headers, as a front proxy tells another server whom it has let in.
//!
//! Source: `SetAuthProxyHeaders` in `k8s.io/client-go/transport/round_trippers.go`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use wharf_auth::User;

use crate::connect::forward::remove_prefixed;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// What a client says of itself is not what this server says of it.
pub fn remove(headers: &mut HeaderMap) {
    for name in [USER, UID, GROUP] {
        headers.remove(name);
    }
    remove_prefixed(headers, EXTRA);
}

pub fn of(user: &User) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    user.groups.iter().for_each(|group| add(GROUP, group));
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", escaped(key));
        values.iter().for_each(|value| add(&name, value));
    }
    headers
}

/// The key as part of a header's name: what may not stand there, and `%`, in hexadecimal.
fn escaped(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_in_headers() {
        let mut user = User::new("jane", &["dev"]);
        user.uid = "u".to_owned();
        user.extra.insert("example.org/scope".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let headers = of(&user);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-uid"), ["u"]);
        assert_eq!(all("x-remote-extra-example.org%2fscope"), ["a", "b"]);
    }

    #[test]
    fn what_the_client_claims_is_taken_away() {
        let mut headers = of(&User::new("root", &["system:masters"]));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        remove(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
