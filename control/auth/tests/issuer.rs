//! Tokens of a real issuer: discovery and keys over TLS, and what a configuration makes of claims.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_auth::jwt::config::Configuration;
use wharf_auth::jwt::{ALGORITHMS, JwtTokens};
use wharf_auth::{Follow, Tokens, User};

mod support;

use support::{Hands, Reply, START, Server, ok};

enum Key {
    Ec(&'static str, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    fn ec(crv: &'static str, how: &'static EcdsaSigningAlgorithm) -> Self {
        Key::Ec(crv, EcdsaKeyPair::generate(how).expect("a key"))
    }

    fn es256() -> Self {
        Self::ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn public(&self, id: &str) -> Value {
        match self {
            Key::Ec(crv, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "kid": id, "crv": crv, "x": encode(x), "y": encode(y)})
            }
            Key::Rsa(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                let bytes = |number: &[u8]| encode(number);
                json!({"kty": "RSA", "kid": id, "use": "sig",
                    "n": bytes(n.big_endian_without_leading_zero()), "e": bytes(e.big_endian_without_leading_zero())})
            }
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match self {
            Key::Ec(_, pair) => pair.sign(&random, signed.as_bytes()).expect("a signature").as_ref().to_vec(),
            Key::Rsa(pair) => {
                let how: &'static dyn RsaEncoding = match header["alg"].as_str() {
                    Some("PS256") => &RSA_PSS_SHA256,
                    Some("PS384") => &RSA_PSS_SHA384,
                    Some("RS512") => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, signed.as_bytes(), &mut signature).expect("a signature");
                signature
            }
        };
        format!("{signed}.{}", encode(signature))
    }
}

/// An issuer whose published keys can change.
struct Issuer {
    server: Server,
    keys: Arc<Mutex<Value>>,
    hands: Hands,
}

impl Issuer {
    async fn new(keys: Value) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let (published, own) = (keys.clone(), Arc::new(Mutex::new(String::new())));
        let url = own.clone();
        let server = Server::new(move |seen| match seen.path.as_str() {
            "/.well-known/openid-configuration" => {
                let url = url.lock().clone();
                ok(json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
            }
            "/keys" if published.lock().is_null() => Reply::Code(503, "not now".to_owned()),
            "/keys" => ok(json!({"keys": *published.lock()})),
            _ => Reply::Code(404, String::new()),
        })
        .await;
        own.lock().clone_from(&server.url);
        Self { server, keys, hands: Hands::default() }
    }

    /// The authenticators of a configuration with one issuer, this one; `more` is merged into it.
    fn tokens(&self, more: Value) -> JwtTokens {
        self.try_tokens(more).expect("a good configuration")
    }

    fn try_tokens(&self, more: Value) -> Result<JwtTokens, String> {
        let mut jwt = json!({
            "issuer": {"url": self.server.url, "audiences": ["me"], "certificateAuthority": self.server.ca},
            "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
        });
        merge(&mut jwt, more);
        let text =
            json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt]});
        let configuration = Configuration::parse(&text.to_string()).map_err(|error| error.to_string())?;
        let algorithms = ALGORITHMS.iter().map(|name| (*name).to_owned()).collect();
        let tokens =
            JwtTokens::new(vec!["https://own".to_owned()], vec!["api".to_owned()], algorithms, self.hands.clock());
        tokens.configure(&configuration).map_err(|error| error.to_string())?;
        Ok(tokens)
    }

    /// Claims that count, with `more` merged into them.
    fn claims(&self, more: Value) -> Value {
        let mut claims = json!({"iss": self.server.url, "aud": "me", "sub": "jane", "exp": START + 600});
        merge(&mut claims, more);
        claims
    }
}

fn merge(into: &mut Value, more: Value) {
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        match (into.get_mut(&name), value) {
            (Some(held @ Value::Object(_)), Value::Object(more)) => merge(held, Value::Object(more)),
            (_, value) => into[name] = value,
        }
    }
}

fn shown(user: &User) -> String {
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key}={}", values.join("|"))).collect();
    format!("{} [{}] {} {}", user.name, user.groups.join(","), user.uid, extra.join(" ")).trim_end().to_owned()
}

/// `expected` is the user, `none`, or what the refusal contains.
async fn check(tokens: &JwtTokens, token: &str, expected: &str) {
    let got = match tokens.authenticate_token(token, &[]).await {
        Ok(Some(known)) => shown(&known.user),
        Ok(None) => "none".to_owned(),
        Err(error) => error.0,
    };
    let fits = got == expected || got.starts_with("oidc:") && got.contains(expected);
    assert!(fits, "{got:?} is not {expected:?}");
}

const JANE: &str = "jane [system:authenticated]";

#[tokio::test]
async fn a_token_of_the_issuer_is_a_user_and_anothers_is_not() {
    let key = Key::es256();
    let issuer = Issuer::new(json!([key.public("one")])).await;
    let tokens = issuer.tokens(json!({}));
    let header = json!({"alg": "ES256", "kid": "one"});
    let sign = |more: Value| key.sign(&header, &issuer.claims(more));
    check(&tokens, &sign(json!({})), JANE).await;
    check(&tokens, &sign(json!({"aud": ["you", "me"]})), JANE).await;
    check(&tokens, &sign(json!({"aud": "you"})), "oidc: expected audience \"me\" got [\"you\"]").await;
    check(&tokens, &sign(json!({"iss": "https://elsewhere"})), "none").await;
    check(&tokens, "abc", "none").await;
    // It is the API server's audiences that count for a review.
    let token = sign(json!({}));
    let known = tokens.authenticate_token(&token, &["api".to_owned(), "x".to_owned()]).await.expect("known");
    assert_eq!(known.expect("known").audiences, ["api"]);
    assert_eq!(tokens.authenticate_token(&token, &["vault".to_owned()]).await.expect("no error"), None);
}

#[tokio::test]
async fn a_token_has_its_time() {
    let key = Key::es256();
    let issuer = Issuer::new(json!([key.public("one")])).await;
    let tokens = issuer.tokens(json!({}));
    let sign = |more: Value| key.sign(&json!({"alg": "ES256"}), &issuer.claims(more));
    let token = sign(json!({"nbf": START + 60}));
    check(&tokens, &token, JANE).await;
    check(&tokens, &sign(json!({"nbf": START + 61})), "before the nbf (not before) time: 2030-03-17 17:47:41").await;
    issuer.hands.forward(600);
    check(&tokens, &token, JANE).await;
    issuer.hands.forward(1);
    check(&tokens, &token, "oidc: token is expired (Token Expiry: 2030-03-17 17:56:40 +0000 UTC)").await;
    check(&tokens, &sign(json!({"exp": null})), "oidc: token is expired (Token Expiry: 0001-01-01").await;
}

#[tokio::test]
async fn all_of_upstreams_algorithms_count_and_no_others() {
    let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let keys = [
        (Key::es256(), vec!["ES256"]),
        (Key::ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING), vec!["ES384"]),
        (Key::ec("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING), vec!["ES512"]),
        (Key::Rsa(rsa()), vec!["RS256", "RS512", "PS256", "PS384"]),
    ];
    let published: Vec<Value> =
        keys.iter().enumerate().map(|(place, (key, _))| key.public(&place.to_string())).collect();
    let issuer = Issuer::new(json!(published)).await;
    let tokens = issuer.tokens(json!({}));
    for (place, (key, algorithms)) in keys.iter().enumerate() {
        for alg in algorithms {
            let token = key.sign(&json!({"alg": alg, "kid": place.to_string()}), &issuer.claims(json!({})));
            check(&tokens, &token, JANE).await;
        }
    }
    let key = &keys[0].0;
    for alg in ["none", "HS256", "es256", "EdDSA"] {
        let token = key.sign(&json!({"alg": alg}), &issuer.claims(json!({})));
        check(&tokens, &token, "oidc: id token signed with unsupported algorithm").await;
    }
    // The name of an algorithm that the key cannot have, and a signature that was tampered with.
    check(&tokens, &key.sign(&json!({"alg": "RS256"}), &issuer.claims(json!({}))), "failed to verify").await;
    let token = key.sign(&json!({"alg": "ES256"}), &issuer.claims(json!({})));
    let (_, signature) = token.rsplit_once('.').expect("a token");
    let forged = key.sign(&json!({"alg": "ES256"}), &issuer.claims(json!({"sub": "admin"})));
    let (forged, _) = forged.rsplit_once('.').expect("a token");
    check(&tokens, &format!("{forged}.{signature}"), "failed to verify").await;
}

#[tokio::test]
async fn an_issuer_that_was_down_is_asked_again_and_a_new_key_is_found() {
    let (old, new) = (Key::es256(), Key::es256());
    let issuer = Issuer::new(Value::Null).await;
    let tokens = issuer.tokens(json!({}));
    let sign = |key: &Key, id: &str| key.sign(&json!({"alg": "ES256", "kid": id}), &issuer.claims(json!({})));
    let token = sign(&old, "old");
    check(&tokens, &token, "authenticator not initialized").await;
    *issuer.keys.lock() = json!([old.public("old")]);
    check(&tokens, &token, "authenticator not initialized").await;
    assert_eq!(issuer.server.asked("/keys"), 1, "it has a pause");
    issuer.hands.forward(10);
    check(&tokens, &token, JANE).await;

    *issuer.keys.lock() = json!([new.public("new")]);
    issuer.hands.forward(5);
    check(&tokens, &token, JANE).await;
    assert_eq!(issuer.server.asked("/keys"), 2, "a known key asks nothing");
    check(&tokens, &sign(&new, "new"), JANE).await;
    assert_eq!(issuer.server.asked("/keys"), 3);
    // Made-up keys do not wear the issuer out.
    for id in 0..20 {
        check(&tokens, &sign(&old, &id.to_string()), "failed to verify").await;
    }
    assert_eq!(issuer.server.asked("/keys"), 3);
    check(&tokens, &sign(&new, "new"), JANE).await;
    assert_eq!(issuer.server.asked("/.well-known/openid-configuration"), 1 + 1, "what led to no keys is read again");
}

#[tokio::test]
async fn an_issuer_is_who_its_certificate_and_its_document_say() {
    let key = Key::es256();
    let (issuer, other) = (Issuer::new(json!([key.public("one")])).await, Issuer::new(json!([])).await);
    let token = key.sign(&json!({"alg": "ES256"}), &issuer.claims(json!({})));
    let stranger = issuer.tokens(json!({"issuer": {"certificateAuthority": other.server.ca}}));
    check(&stranger, &token, "authenticator not initialized").await;
    assert_eq!(issuer.server.asked("/keys"), 0);
    // The document is found elsewhere, and must name the issuer all the same.
    let elsewhere = issuer.tokens(json!({"issuer": {
        "discoveryURL": format!("{}/.well-known/openid-configuration", other.server.url),
        "certificateAuthority": format!("{}{}", issuer.server.ca, other.server.ca),
    }}));
    check(&elsewhere, &token, "authenticator not initialized").await;
    assert_eq!(other.server.asked("/.well-known/openid-configuration"), 1);
    assert_eq!(other.server.asked("/keys"), 0);
}

#[tokio::test]
async fn claims_become_names_groups_and_more() {
    let key = Key::es256();
    let issuer = Issuer::new(json!([key.public("one")])).await;
    let sign = |more: Value| key.sign(&json!({"alg": "ES256"}), &issuer.claims(more));
    let by_name = issuer.tokens(json!({"claimMappings": {
        "username": {"claim": "email", "prefix": "o:"},
        "groups": {"claim": "roles", "prefix": "g:"},
        "uid": {"claim": "id"},
    }}));
    let jane = json!({"email": "j@x", "email_verified": true, "roles": ["a", "b"], "id": "7"});
    check(&by_name, &sign(jane), "o:j@x [g:a,g:b,system:authenticated] 7").await;
    check(&by_name, &sign(json!({"email": "j@x", "roles": "a", "id": ""})), "o:j@x [g:a,system:authenticated]").await;
    check(&by_name, &sign(json!({"email": "j@x", "email_verified": false, "id": ""})), "email not verified").await;
    check(&by_name, &sign(json!({})), "oidc: parse username claims \"email\": claim not present").await;
    check(&by_name, &sign(json!({"email": "j@x"})), "oidc: parse uid claim \"id\": claim not present").await;

    let by_rule = issuer.tokens(json!({
        "claimMappings": {
            "username": {"claim": "", "prefix": null, "expression": "'x:' + claims.sub"},
            "groups": {"expression": "claims.roles.split(',')"},
            "uid": {"expression": "claims.?id.orValue('')"},
            "extra": [
                {"key": "example.org/teams", "valueExpression": "claims.teams.filter(t, t != 'c')"},
                {"key": "example.org/none", "valueExpression": "''"},
            ],
        },
        "claimValidationRules": [
            {"claim": "hd", "requiredValue": "example.org"},
            {"expression": "claims.exp - 86400 < 1900000000", "message": "too long"},
        ],
        "userValidationRules": [
            {"expression": "!user.username.startsWith('x:system:')", "message": "reserved"},
            {"expression": "user.groups.all(g, g != 'root')", "message": "no root"},
        ],
    }));
    let good = json!({"roles": "a,b", "teams": ["c", "d"], "hd": "example.org"});
    let with = |more: Value| {
        let mut claims = good.clone();
        merge(&mut claims, more);
        sign(claims)
    };
    check(&by_rule, &with(json!({})), "x:jane [a,b,system:authenticated]  example.org/teams=d").await;
    check(&by_rule, &with(json!({"hd": "x"})), "required claim hd value does not match. Got = x, want = example.org")
        .await;
    check(&by_rule, &with(json!({"hd": null})), "required claim hd value does not match. Got = , want = example.org")
        .await;
    let long = "oidc: error evaluating claim validation expression: validation expression 'claims.exp - 86400 < 1900000000' failed: too long";
    check(&by_rule, &with(json!({"exp": START + 90_000})), long).await;
    check(
        &by_rule,
        &with(json!({"sub": "system:x"})),
        "rule: validation expression '!user.username.startsWith('x:system:')' failed: reserved",
    )
    .await;
    check(&by_rule, &with(json!({"roles": "root"})), "failed: no root").await;
    check(
        &by_rule,
        &with(json!({"roles": 5})),
        "oidc: error evaluating group claim expression: expression 'claims.roles.split(',')' resulted in error",
    )
    .await;
    let costly = issuer.tokens(json!({"claimMappings": {"username": {"claim": "", "prefix": null,
        "expression": "claims.l.all(a, claims.l.all(b, claims.l.all(c, a + b + c >= 0))) ? 'a' : 'b'"}}}));
    let list: Vec<u32> = (0..120).collect();
    check(&costly, &sign(json!({"l": list})), "operation cancelled: actual cost limit exceeded").await;
}

#[tokio::test]
async fn groups_may_be_with_somebody_else() {
    let (key, theirs) = (Key::es256(), Key::es256());
    let (issuer, other) =
        (Issuer::new(json!([key.public("one")])).await, Issuer::new(json!([theirs.public("t")])).await);
    let sent = theirs.sign(&json!({"alg": "ES256"}), &other.claims(json!({"groups": ["far"]})));
    let endpoint = Server::new(move |seen| match seen.headers.get("authorization") {
        Some(value) if value == "Bearer key" => ok(&sent),
        _ => Reply::Code(401, String::new()),
    })
    .await;
    let authorities = format!("{}{}{}", issuer.server.ca, other.server.ca, endpoint.ca);
    let tokens = issuer.tokens(json!({
        "issuer": {"certificateAuthority": authorities},
        "claimMappings": {"groups": {"claim": "groups", "prefix": "g:"}},
    }));
    let sign = |access: &str| {
        let sources = json!({"src": {"endpoint": format!("{}/groups", endpoint.url), "access_token": access}});
        let more = json!({"_claim_names": {"groups": "src"}, "_claim_sources": sources});
        key.sign(&json!({"alg": "ES256"}), &issuer.claims(more))
    };
    check(&tokens, &sign("key"), "jane [g:far,system:authenticated]").await;
    check(
        &tokens,
        &sign("wrong"),
        "oidc: could not expand distributed claims: while getting distributed claim \"groups\"",
    )
    .await;
    let own = key
        .sign(&json!({"alg": "ES256"}), &issuer.claims(json!({"groups": ["near"], "_claim_names": {"groups": "src"}})));
    check(&tokens, &own, "jane [g:near,system:authenticated]").await;
}

#[tokio::test]
async fn a_changed_file_counts_once_its_issuers_answer() {
    let key = Key::es256();
    let issuer = Issuer::new(json!([key.public("one")])).await;
    let tokens = Arc::new(issuer.tokens(json!({})));
    let (path, token) =
        (issuer.server.directory.path().join("config"), key.sign(&json!({"alg": "ES256"}), &issuer.claims(json!({}))));
    let write = |jwt: &Value| {
        let text =
            json!({"apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration", "jwt": jwt});
        std::fs::write(&path, text.to_string()).expect("write");
    };
    write(&json!([]));
    let first = std::fs::read_to_string(&path).expect("read");
    let (follower, every) = (tokens.clone(), std::time::Duration::from_millis(20));
    let following = tokio::spawn({
        let path = path.clone();
        async move { follower.follow(path, first, every).await }
    });
    check(&tokens, &token, JANE).await;
    // What is wrong is passed over; what is right replaces what was.
    write(&json!([{"issuer": {"url": "http://x"}}]));
    write(&json!([{
        "issuer": {"url": issuer.server.url, "audiences": ["me"], "certificateAuthority": issuer.server.ca},
        "claimMappings": {"username": {"claim": "sub", "prefix": "new:"}},
    }]));
    let renamed = async {
        loop {
            let known = tokens.authenticate_token(&token, &[]).await.expect("no error").expect("known");
            match known.user.name.as_str() {
                "new:jane" => break,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), renamed).await.expect("the new file counts");
    following.abort();
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_in_upstreams_words() {
    let issuer = Issuer::new(json!([])).await;
    let refused = |more: Value, expected: &str| {
        let got = issuer.try_tokens(more).err().unwrap_or_default();
        assert!(got.contains(expected), "{got:?} does not contain {expected:?}");
    };
    let issuer_of = |more: Value| json!({"issuer": more});
    refused(issuer_of(json!({"url": ""})), "jwt[0].issuer.url: Required value");
    refused(
        issuer_of(json!({"url": "http://a:b@x?q#f"})),
        "[jwt[0].issuer.url: Invalid value: \"http://a:b@x?q#f\": URL scheme must be https, jwt[0].issuer.url: Invalid value: \"http://a:b@x?q#f\": URL must not contain a username or password, ",
    );
    refused(issuer_of(json!({"url": "https://own"})), "URL must not overlap with disallowed issuers: [https://own]");
    refused(
        issuer_of(json!({"discoveryURL": format!("{}/", issuer.server.url)})),
        "discoveryURL must be different from URL",
    );
    refused(
        issuer_of(json!({"audiences": []})),
        "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
    );
    refused(
        issuer_of(json!({"audiences": ["a", "a"]})),
        "[jwt[0].issuer.audiences[1]: Duplicate value: \"a\", jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences]",
    );
    refused(
        issuer_of(json!({"certificateAuthority": "x"})),
        "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA certificates",
    );
    let mapped = |mappings: Value| json!({"claimMappings": mappings});
    refused(
        mapped(json!({"username": {"prefix": null}})),
        "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
    );
    refused(mapped(json!({"username": {"expression": "claims.sub"}})), "claim and expression can't both be set");
    refused(
        mapped(json!({"username": {"claim": "", "prefix": null, "expression": "claims.email"}})),
        "claims.email_verified must be used in claimMappings.username.expression",
    );
    refused(
        mapped(
            json!({"extra": [{"key": "Foo", "valueExpression": "'a'"}, {"key": "x.k8s.io/a", "valueExpression": "'a'"}]}),
        ),
        "[jwt[0].claimMappings.extra[0].key: Invalid value: \"Foo\": must be a domain-prefixed path (such as \"acme.io/foo\"), jwt[0].claimMappings.extra[0].key: Invalid value: \"Foo\": must be lowercase, jwt[0].claimMappings.extra[1].key: Invalid value: \"x.k8s.io/a\": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use]",
    );
    let rules = |rules: Value| json!({"claimValidationRules": rules});
    refused(
        rules(json!([{"expression": "claims.a"}])),
        "jwt[0].claimValidationRules[0].expression: Invalid value: \"claims.a\": must evaluate to bool",
    );
    refused(rules(json!([{"expression": "user.name == 'a'"}])), "compilation failed: ");
    refused(
        rules(json!([{"message": "m"}])),
        "jwt[0].claimValidationRules[0]: Required value: claim or expression is required",
    );
    refused(
        json!({"userValidationRules": [{"expression": ""}]}),
        "jwt[0].userValidationRules[0].expression: Required value",
    );
    refused(json!({"surprise": 1}), "strict decoding error: jwt[0]: unknown field `surprise`");
}
