//! Which requests are recorded, and where.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use wharf_apiserver::audit::{Auditor, Limits, Log, Policy, Webhook, webhook};

#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// The audit policy (audit.k8s.io/v1); without one nothing is recorded
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where the audit log goes; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old audit logs stay; 0 is for ever
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// Old audit logs that stay; 0 is all of them
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub audit_log_maxbackup: u32,
    /// Size at which an audit log is put aside; 0 is never
    #[arg(long, value_name = "MiB", default_value_t = 0)]
    pub audit_log_maxsize: u32,
    /// A kubeconfig that names the server which takes audit events
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Leave bodies out of events that are too large for the webhook
    #[arg(long)]
    pub audit_webhook_truncate_enabled: bool,
}

/// The auditor, and what sends its events on, if it sends any.
pub async fn open(args: &AuditArgs) -> Result<Option<(Arc<Auditor>, Option<webhook::Sender>)>> {
    let Some(path) = &args.audit_policy_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let policy = Policy::read(&text).with_context(|| format!("read {}", path.display()))?;
    let limits =
        Limits { age_days: args.audit_log_maxage, backups: args.audit_log_maxbackup, size_mib: args.audit_log_maxsize };
    let log = match &args.audit_log_path {
        Some(path) => Some(Log::open(path, limits).with_context(|| format!("open {}", path.display()))?),
        None => None,
    };
    let (webhook, sender) = match &args.audit_webhook_config_file {
        Some(path) => {
            let (webhook, sender) = Webhook::open(path).await?;
            (Some(webhook), Some(sender))
        }
        None => (None, None),
    };
    let auditor = Auditor::new(policy, log, webhook, args.audit_webhook_truncate_enabled);
    Ok(Some((Arc::new(auditor), sender)))
}
