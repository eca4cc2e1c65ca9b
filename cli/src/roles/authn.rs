//! Who is let in, and under which name: the authenticators that the flags and files ask for.
//!
//! Source: `pkg/kubeapiserver/options/authentication.go` and `pkg/kubeapiserver/authenticator/config.go`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::follow::{Follow, LOOK_EVERY};
use wharf_auth::jwt::config::{ClaimRule, Configuration, JwtAuthenticator, PrefixedClaim};
use wharf_auth::jwt::{ALGORITHMS, JwtTokens};
use wharf_auth::token::{CachedTokens, FileTokens, ISSUER, SUCCESS_TTL, TokenMetrics};
use wharf_auth::webhook::{self, WebhookTokens};
use wharf_auth::{Anonymous, Authenticator, Bearer, RequestHeader, TokenUnion, Tokens, Union, X509};

use crate::roles::authz::go_duration;

#[derive(Args, Clone, Debug)]
pub struct AuthnArgs {
    /// Whether requests without credentials are let in as system:anonymous (default true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Issuers of tokens and what their claims mean: a file of kind AuthenticationConfiguration
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Tokens of users: a file of lines `token,user,uid,"group1,group2"`
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// A kubeconfig that names the server which is asked about tokens
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of the TokenReviews that it is sent
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// How long its answers are kept
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = go_duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    #[command(flatten)]
    pub oidc: OidcArgs,
}

#[derive(Args, Clone, Debug)]
pub struct OidcArgs {
    /// The URL of one issuer of tokens; --authentication-config says more
    #[arg(long, value_name = "URL")]
    pub oidc_issuer_url: Option<String>,
    /// Whom the issuer's tokens must be for
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// The authority of the issuer's certificate; the system's are trusted without
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// What stands before the name; `-` is nothing (default: the issuer and `#`, unless the claim is email)
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that holds the user's groups
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What stands before the groups
    #[arg(long, value_name = "PREFIX")]
    pub oidc_groups_prefix: Option<String>,
    /// Algorithms that signatures may have, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// A claim and the value that it must have; may be given several times
    #[arg(long, value_name = "CLAIM=VALUE")]
    pub oidc_required_claim: Vec<String>,
}

/// What authenticates, and what a `TokenReview` asks.
pub struct Authentication {
    pub requests: Arc<dyn Authenticator>,
    pub tokens: Arc<dyn Tokens>,
}

/// Puts the authenticators together, in upstream's order. `of_cluster` are tokens that the cluster itself gives out. What has to go
/// on behind becomes a task. Where `strangers` must stay out, they do, whatever is asked for.
pub async fn open(
    args: &AuthnArgs,
    of_cluster: Vec<Arc<dyn Tokens>>,
    metrics: TokenMetrics,
    strangers: bool,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) -> Result<Authentication> {
    let audiences = vec![ISSUER.to_owned()];
    let mut tokens: Vec<Arc<dyn Tokens>> = Vec::new();
    if let Some(path) = &args.token_auth_file {
        let tokens_of_file = FileTokens::parse(&read(path)?, audiences.clone());
        tokens.push(Arc::new(tokens_of_file.with_context(|| format!("read {}", path.display()))?));
    }
    tokens.extend(of_cluster);
    let (configuration, file, algorithms) = configuration(args)?;
    if let Some(configuration) = &configuration {
        let jwt = JwtTokens::new(audiences.clone(), audiences, algorithms, Arc::new(Timestamp::now));
        let what = || "invalid authentication configuration".to_owned();
        jwt.configure(configuration).with_context(what)?;
        let jwt = Arc::new(jwt);
        if let Some((path, text)) = file {
            let (jwt, until) = (jwt.clone(), cancel.clone());
            tasks.spawn(async move {
                until.run_until_cancelled(jwt.follow(path, text, LOOK_EVERY)).await;
            });
        }
        tokens.push(jwt);
    }
    if let Some(path) = &args.authentication_token_webhook_config_file {
        let client = webhook::Client::open(path, webhook::TIMEOUT, webhook::PAUSE).await;
        let client = client.with_context(|| format!("use {}", path.display()))?;
        let asked = WebhookTokens::new(client, &args.authentication_token_webhook_version, vec![ISSUER.to_owned()]);
        let ttl = args.authentication_token_webhook_cache_ttl;
        tokens.push(Arc::new(CachedTokens::new(Arc::new(asked), (ttl, ttl), Arc::new(Timestamp::now))));
    }
    let all = Arc::new(TokenUnion::new(tokens));
    let kept = CachedTokens::new(all, (SUCCESS_TTL, Duration::ZERO), Arc::new(Timestamp::now));
    let tokens = Arc::new(kept.counting(metrics));
    let chain: Vec<Arc<dyn Authenticator>> = vec![
        Arc::new(RequestHeader),
        Arc::new(X509::new(Arc::new(Timestamp::now))),
        Arc::new(Bearer::new(tokens.clone())),
    ];
    let mut anonymous = anonymous(args.anonymous_auth, configuration.as_ref())?;
    if !strangers && anonymous.take().is_some() {
        tracing::warn!("AnonymousAuth is not allowed with the AlwaysAllow authorizer: it is off");
    }
    Ok(Authentication { requests: Arc::new(Union::new(chain, anonymous)), tokens })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

type File = (PathBuf, String);

/// The configuration, the file that it is from, and the algorithms that signatures may have.
fn configuration(args: &AuthnArgs) -> Result<(Option<Configuration>, Option<File>, Vec<String>)> {
    let oidc = &args.oidc;
    let all = || ALGORITHMS.iter().map(|name| (*name).to_owned()).collect();
    let Some(path) = &args.authentication_config else {
        for name in &oidc.oidc_signing_algs {
            ensure!(ALGORITHMS.contains(&name.as_str()), "oidc: unsupported signing alg: {name:?}");
        }
        return Ok((from_flags(oidc)?, None, oidc.oidc_signing_algs.clone()));
    };
    if oidc.is_used() {
        bail!("authentication-config file and oidc-* flags are mutually exclusive");
    }
    let text = read(path)?;
    let name = path.display();
    let configuration = Configuration::parse(&text).with_context(|| format!("load {name}"))?;
    Ok((Some(configuration), Some((path.clone(), text)), all()))
}

impl OidcArgs {
    /// True where a flag is given beside those that have a default.
    fn is_used(&self) -> bool {
        self.oidc_issuer_url.is_some()
            || self.oidc_client_id.is_some()
            || self.oidc_ca_file.is_some()
            || self.oidc_username_prefix.is_some()
            || self.oidc_groups_claim.is_some()
            || self.oidc_groups_prefix.is_some()
            || !self.oidc_required_claim.is_empty()
    }
}

/// What the `--oidc-*` flags say, as a configuration.
fn from_flags(args: &OidcArgs) -> Result<Option<Configuration>> {
    let (Some(url), Some(client)) = (&args.oidc_issuer_url, &args.oidc_client_id) else {
        ensure!(
            !args.is_used(),
            "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
        );
        return Ok(None);
    };
    let claim = &args.oidc_username_claim;
    let prefix = match args.oidc_username_prefix.as_deref().unwrap_or_default() {
        "" if claim != "email" => format!("{url}#"),
        "-" => String::new(),
        prefix => prefix.to_owned(),
    };
    let mut jwt = JwtAuthenticator::default();
    jwt.issuer.url = url.clone();
    jwt.issuer.audiences = vec![client.clone()];
    if let Some(path) = &args.oidc_ca_file {
        jwt.issuer.certificate_authority = read(path)?;
    }
    let mapped = |claim: &str, prefix: String| PrefixedClaim {
        claim: claim.to_owned(),
        prefix: Some(prefix),
        ..PrefixedClaim::default()
    };
    jwt.claim_mappings.username = mapped(claim, prefix);
    if let Some(groups) = args.oidc_groups_claim.as_deref().filter(|claim| !claim.is_empty()) {
        jwt.claim_mappings.groups = mapped(groups, args.oidc_groups_prefix.clone().unwrap_or_default());
    }
    for pair in &args.oidc_required_claim {
        let (claim, value) = pair.split_once('=').with_context(|| format!("{pair:?} is no CLAIM=VALUE"))?;
        let rule = ClaimRule { claim: claim.to_owned(), required_value: value.to_owned(), ..ClaimRule::default() };
        jwt.claim_validation_rules.push(rule);
    }
    Ok(Some(Configuration { jwt: vec![jwt], ..Configuration::default() }))
}

/// Who may come without credentials, as the flag or the file says; not both.
fn anonymous(flag: Option<bool>, configuration: Option<&Configuration>) -> Result<Option<Anonymous>> {
    let Some(told) = configuration.and_then(|configuration| configuration.anonymous.as_ref()) else {
        return Ok(flag.unwrap_or(true).then(Anonymous::default));
    };
    ensure!(
        flag.is_none(),
        "--anonymous-auth flag cannot be set when the field \"anonymous\" is in the file of --authentication-config"
    );
    let paths = told.conditions.iter().map(|condition| condition.path.clone()).collect();
    Ok(told.enabled.then_some(Anonymous { paths }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AuthnArgs,
    }

    /// What a command line says of its issuer, or why it is refused.
    #[track_caller]
    fn check(flags: &[&str], expected: &str) {
        let line = Line::parse_from(["wharf"].iter().chain(flags));
        let got = match configuration(&line.args) {
            Err(error) => error.to_string(),
            Ok((None, _, _)) => "none".to_owned(),
            Ok((Some(configuration), _, algorithms)) => {
                let jwt = &configuration.jwt[0];
                let (name, groups) = (&jwt.claim_mappings.username, &jwt.claim_mappings.groups);
                let rules: Vec<String> = jwt
                    .claim_validation_rules
                    .iter()
                    .map(|rule| format!("{}={}", rule.claim, rule.required_value))
                    .collect();
                format!(
                    "{:?}{} {:?}{} [{}] {}",
                    name.prefix.as_deref().unwrap_or_default(),
                    name.claim,
                    groups.prefix.as_deref().unwrap_or_default(),
                    groups.claim,
                    rules.join(","),
                    algorithms.join(",")
                )
            }
        };
        assert_eq!(got, expected, "{flags:?}");
    }

    #[test]
    fn oidc_flags_are_one_issuer() {
        check(&[], "none");
        let with = |more: &[&'static str]| [&["--oidc-issuer-url=https://i", "--oidc-client-id=c"], more].concat();
        check(&with(&[]), "\"https://i#\"sub \"\" [] RS256");
        check(&with(&["--oidc-username-claim=email"]), "\"\"email \"\" [] RS256");
        check(&with(&["--oidc-username-prefix=-"]), "\"\"sub \"\" [] RS256");
        check(
            &with(&[
                "--oidc-username-prefix=o:",
                "--oidc-groups-claim=g",
                "--oidc-groups-prefix=g:",
                "--oidc-required-claim=a=b",
                "--oidc-signing-algs=ES256,RS256",
            ]),
            "\"o:\"sub \"g:\"g [a=b] ES256,RS256",
        );
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused_in_upstreams_words() {
        let together = "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set";
        check(&["--oidc-issuer-url=https://i"], together);
        check(&["--oidc-groups-claim=g"], together);
        check(&["--oidc-signing-algs=none"], "oidc: unsupported signing alg: \"none\"");
        check(
            &["--authentication-config=/a", "--oidc-client-id=c"],
            "authentication-config file and oidc-* flags are mutually exclusive",
        );
    }

    #[test]
    fn strangers_come_in_as_the_flag_or_the_file_says() {
        let file = |enabled: bool| Configuration {
            anonymous: Some(wharf_auth::jwt::config::AnonymousConfig { enabled, conditions: Vec::new() }),
            ..Configuration::default()
        };
        assert_eq!(anonymous(None, None).ok(), Some(Some(Anonymous::default())));
        assert_eq!(anonymous(Some(false), None).ok(), Some(None));
        assert_eq!(anonymous(None, Some(&file(false))).ok(), Some(None));
        assert_eq!(anonymous(None, Some(&file(true))).ok(), Some(Some(Anonymous::default())));
        assert!(anonymous(Some(true), Some(&file(true))).is_err());
        let line = |flag| Line::parse_from(["wharf", flag]).args.anonymous_auth;
        assert_eq!((line("--anonymous-auth=false"), line("--anonymous-auth")), (Some(false), Some(true)));
    }
}
