//! `run`: what is set up around the operator, in the order of start and of end.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{Failure, Metrics, RunSettings, Shutdown, admin::AdminServer, telemetry};

/// Serves until told to stop.
pub(crate) fn run(settings: RunSettings) -> Result<(), Failure> {
    telemetry::install(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    runtime.block_on(operate(settings))
}

async fn operate(settings: RunSettings) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals().context("listening for signals")?;
    if !settings.ignored.is_empty() {
        tracing::warn!(flags = settings.ignored.join(" "), "these flags of the Python operator have no effect here");
    }
    let metrics = Arc::new(Metrics::new());
    let admin = match &settings.admin {
        Some(endpoint) => Some(AdminServer::bind(endpoint).await?),
        None => None,
    };
    let _ = (shutdown, metrics, admin);
    Err(anyhow::anyhow!("`run` is not part of this build").into())
}
