//! Which values are sealed in the store, and what keeps them readable while the server runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use rand::RngCore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::encryption::{Encrypted, ReloadMetrics, Surroundings};
use wharf_apiserver::health::Check;
use wharf_auth::follow::{Follow, LOOK_EVERY};
use wharf_registry::Table;
use wharf_store::RedbStore;
use wharf_store::sealed::Random;

use crate::process;

/// How long a start waits for a KMS plugin that is not there yet; it goes on without what only the plugin opens.
const KMS_LIMIT: Duration = Duration::from_secs(3);

#[derive(Args, Clone, Debug)]
pub struct EncryptionArgs {
    /// Which resources are encrypted in the store, and how: a file of kind EncryptionConfiguration
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Look at that file once a minute, and do as it says from then on
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub encryption_provider_config_automatic_reload: bool,
}

/// The store as the configuration asks for it to be sealed, and the text of that; none where there is no such file.
pub async fn open(
    store: Arc<RedbStore>,
    args: &EncryptionArgs,
    table: Arc<Table>,
) -> Result<Option<(Arc<Encrypted>, String)>> {
    let Some(path) = &args.encryption_provider_config else {
        ensure!(
            !args.encryption_provider_config_automatic_reload,
            "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
        );
        return Ok(None);
    };
    let name = path.display();
    let yaml = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    let random: Random = Arc::new(|buffer: &mut [u8]| rand::rng().fill_bytes(buffer));
    let around = Surroundings { random, clock: Arc::new(Timestamp::now) };
    let metrics = ReloadMetrics::new(&process::hostname()?);
    let encrypted =
        Encrypted::open(store, &yaml, table, around, metrics).with_context(|| format!("{name} is refused"))?;
    encrypted.prime(KMS_LIMIT).await;
    Ok(Some((encrypted, yaml)))
}

/// What encryption needs while the server runs: its plugins are asked, what could not be opened is tried again, and the file is followed.
pub fn tend(
    encrypted: Arc<Encrypted>,
    text: String,
    args: &EncryptionArgs,
    api: &Arc<ApiServer>,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) {
    encrypted.ask_plugins();
    let reloads = args.encryption_provider_config_automatic_reload;
    if reloads {
        let asked = encrypted.clone();
        api.health.add(Check::new("kms-providers", move || asked.health()).without_livez());
    } else {
        for (place, plugin) in encrypted.plugins().iter().cloned().enumerate() {
            api.health.add(Check::new(format!("kms-provider-{place}"), move || plugin.health()).without_livez());
        }
    }
    let (healing, server, until) = (encrypted.clone(), api.clone(), cancel.clone());
    tasks.spawn(async move { healing.heal(server, until).await });
    if let Some(path) = args.encryption_provider_config.clone().filter(|_| reloads) {
        let until = cancel.clone();
        tasks.spawn(async move {
            until.run_until_cancelled(encrypted.follow(path, text, LOOK_EVERY)).await;
        });
    }
}
