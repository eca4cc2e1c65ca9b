//! Who may do what: the authorizers that the flags and files ask for.
//!
//! Source: `pkg/kubeapiserver/options/authorization.go`. Unlike upstream's, the default is Node and RBAC, as kubeadm sets it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_auth::authorization::config::{AuthorizerConfig, Configuration, ConnectionInfo, TYPES, WebhookConfig};
use wharf_auth::authorization::{BuiltIn, Configured};
use wharf_auth::follow::{Follow, LOOK_EVERY};
use wharf_auth::{Abac, Authorizer, NodeAuthorizer, Rbac, duration};

const WEBHOOK: &str = "Webhook";
const ABAC: &str = "ABAC";
const ALWAYS_ALLOW: &str = "AlwaysAllow";

#[derive(Args, Clone, Debug)]
pub struct AuthzArgs {
    /// Authorizers and the order in which they are asked: a file of kind AuthorizationConfiguration
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// Authorizers in the order in which they are asked, separated by commas (default Node,RBAC)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub authorization_mode: Option<Vec<String>>,
    /// The policies of mode ABAC: a file with one in each line, as JSON
    #[arg(long, value_name = "FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// A kubeconfig that names the server which is asked in mode Webhook
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of the SubjectAccessReviews that it is sent (default v1beta1)
    #[arg(long, value_name = "VERSION")]
    pub authorization_webhook_version: Option<String>,
    /// How long what it has allowed is kept (default 5m)
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long what it has not allowed is kept (default 30s)
    #[arg(long, value_name = "DURATION", value_parser = go_duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
}

/// `1m30s`
pub fn go_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("time: invalid duration {text:?}"))
}

/// What has been asked for, before anything is opened.
pub struct Asked {
    configuration: Configuration,
    file: Option<(PathBuf, String)>,
    policies: Option<Abac>,
}

impl Asked {
    pub fn read(args: &AuthzArgs) -> Result<Self> {
        let Some(path) = &args.authorization_config else {
            return Ok(Self { configuration: from_flags(args)?, file: None, policies: policies(args)? });
        };
        ensure!(
            args.authorization_mode.is_none() && !args.is_webhook_told() && args.authorization_policy_file.is_none(),
            "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
        );
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
        let configuration = Configuration::parse(&text).with_context(|| format!("load {name}"))?;
        Ok(Self { configuration, file: Some((path.clone(), text)), policies: None })
    }

    /// True where nobody is ever refused. Strangers are not let in then, as upstream.
    pub fn allows_everything(&self) -> bool {
        self.configuration.authorizers.iter().any(|authorizer| authorizer.kind == ALWAYS_ALLOW)
    }

    /// Opens the authorizers. What has to go on behind becomes a task.
    pub async fn open(
        self,
        node: Arc<NodeAuthorizer>,
        rbac: Arc<Rbac>,
        tasks: &mut JoinSet<()>,
        cancel: &CancellationToken,
    ) -> Result<Arc<Configured>> {
        let abac = self.policies.map(|policies| Arc::new(policies) as Arc<dyn Authorizer>);
        let built_in = BuiltIn { node, rbac, abac, clock: Arc::new(Timestamp::now) };
        let configured = Configured::open(built_in, &self.configuration).await;
        let configured = Arc::new(configured.context("invalid authorization configuration")?);
        if let Some((path, text)) = self.file {
            let (followed, until) = (configured.clone(), cancel.clone());
            tasks.spawn(async move {
                until.run_until_cancelled(followed.follow(path, text, LOOK_EVERY)).await;
            });
        }
        Ok(configured)
    }
}

impl AuthzArgs {
    fn is_webhook_told(&self) -> bool {
        self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some()
    }
}

fn from_flags(args: &AuthzArgs) -> Result<Configuration> {
    let default = || vec!["Node".to_owned(), "RBAC".to_owned()];
    let modes = args.authorization_mode.clone().unwrap_or_else(default);
    ensure!(!modes.is_empty(), "at least one authorization-mode must be passed");
    let mut authorizers = Vec::new();
    for (place, mode) in modes.iter().enumerate() {
        ensure!(TYPES.contains(&mode.as_str()), "authorization-mode {mode:?} is not a valid mode");
        ensure!(!modes[..place].contains(mode), "authorization-mode {modes:?} has mode specified more than once");
        let webhook = if mode == WEBHOOK { Some(webhook(args)?) } else { None };
        authorizers.push(AuthorizerConfig { kind: mode.clone(), name: mode.to_lowercase(), webhook });
    }
    ensure!(
        args.authorization_webhook_config_file.is_none() || modes.iter().any(|mode| mode == WEBHOOK),
        "cannot specify --authorization-webhook-config-file without mode Webhook"
    );
    Ok(Configuration { authorizers, ..Configuration::default() })
}

fn policies(args: &AuthzArgs) -> Result<Option<Abac>> {
    let asked = args.authorization_mode.iter().flatten().any(|mode| mode == ABAC);
    let Some(path) = &args.authorization_policy_file else {
        ensure!(!asked, "authorization-mode ABAC's authorization policy file not passed");
        return Ok(None);
    };
    ensure!(asked, "cannot specify --authorization-policy-file without mode ABAC");
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    Ok(Some(Abac::parse(&text).with_context(|| format!("error reading policy file {name}"))?))
}

fn webhook(args: &AuthzArgs) -> Result<WebhookConfig> {
    let file = args.authorization_webhook_config_file.as_ref();
    let file = file.context("authorization-mode Webhook's authorization config file not passed")?;
    let file = std::path::absolute(file).with_context(|| format!("find {}", file.display()))?;
    let shown = |time: Option<Duration>| time.filter(|time| !time.is_zero()).map(duration::shown).unwrap_or_default();
    // A time of nothing keeps nothing.
    let kept = |time: Option<Duration>| Some(time.is_none_or(|time| !time.is_zero()));
    let (authorized, unauthorized) =
        (args.authorization_webhook_cache_authorized_ttl, args.authorization_webhook_cache_unauthorized_ttl);
    Ok(WebhookConfig {
        authorized_ttl: shown(authorized),
        cache_authorized_requests: kept(authorized),
        unauthorized_ttl: shown(unauthorized),
        cache_unauthorized_requests: kept(unauthorized),
        timeout: "30s".to_owned(),
        subject_access_review_version: args.authorization_webhook_version.clone().unwrap_or("v1beta1".to_owned()),
        failure_policy: "NoOpinion".to_owned(),
        connection_info: ConnectionInfo {
            kind: "KubeConfigFile".to_owned(),
            kube_config_file: Some(file.to_string_lossy().into_owned()),
        },
        ..WebhookConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AuthzArgs,
    }

    /// The authorizers of a command line, with what is told of their webhooks, or why it is refused.
    #[track_caller]
    fn check(flags: &[&str], expected: &str) {
        let line = Line::parse_from(["wharf"].iter().chain(flags));
        let got = match Asked::read(&line.args) {
            Err(error) => error.to_string(),
            Ok(asked) => {
                let shown = asked.configuration.authorizers.iter().map(|one| match &one.webhook {
                    None => one.kind.clone(),
                    Some(hook) => format!(
                        "{}({} {:?} {:?} {:?})",
                        one.kind,
                        hook.subject_access_review_version,
                        hook.authorized_ttl,
                        hook.unauthorized_ttl,
                        hook.cache_unauthorized_requests
                    ),
                });
                shown.collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(got, expected, "{flags:?}");
    }

    #[test]
    fn flags_are_an_order_of_authorizers() {
        check(&[], "Node RBAC");
        check(&["--authorization-mode=RBAC,Node"], "RBAC Node");
        let file = "--authorization-webhook-config-file=/a";
        check(&["--authorization-mode=Webhook", file], "Webhook(v1beta1 \"\" \"\" Some(true))");
        check(
            &[
                "--authorization-mode=Webhook,RBAC",
                file,
                "--authorization-webhook-version=v1",
                "--authorization-webhook-cache-authorized-ttl=90s",
                "--authorization-webhook-cache-unauthorized-ttl=0",
            ],
            "Webhook(v1 \"1m30s\" \"\" Some(false)) RBAC",
        );
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_in_upstreams_words() {
        check(&["--authorization-mode=X"], "authorization-mode \"X\" is not a valid mode");
        check(
            &["--authorization-mode=RBAC,RBAC"],
            "authorization-mode [\"RBAC\", \"RBAC\"] has mode specified more than once",
        );
        check(&["--authorization-mode=Webhook"], "authorization-mode Webhook's authorization config file not passed");
        check(&["--authorization-mode=ABAC"], "authorization-mode ABAC's authorization policy file not passed");
        check(&["--authorization-policy-file=/a"], "cannot specify --authorization-policy-file without mode ABAC");
        check(
            &["--authorization-webhook-config-file=/a"],
            "cannot specify --authorization-webhook-config-file without mode Webhook",
        );
        check(
            &["--authorization-config=/a", "--authorization-mode=RBAC"],
            "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined",
        );
    }
}
