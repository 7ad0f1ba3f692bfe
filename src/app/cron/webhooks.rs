//! The job that delivers events to webhooks, for deployments in which no server does, and by hand.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    JobReport, Runner,
    counted::{agreeing, counted},
};
use crate::{
    app::webhooks::{deliverer, vault},
    biz::{
        events::reader::FeedReader,
        jobs::deliver_webhooks::{Delivered, Until},
        values::error::StoreError,
        webhooks::store::{Figures, figures},
    },
};

/// Longest run while events keep coming. The next run goes on.
const LONGEST_RUN: Duration = Duration::from_secs(20 * 60);

impl Runner {
    /// Delivers until nothing can be sent at the moment.
    pub(super) async fn deliver_webhooks(
        &self,
        owner: &str,
        interrupt: &CancellationToken,
    ) -> anyhow::Result<JobReport> {
        let calendar = Arc::new(self.config.calendar(self.clock.clone()));
        let feed = Arc::new(FeedReader::new(self.store.clone()));
        let Some(deliverer) = deliverer(&self.config, (self.store.clone(), feed), calendar, self.metrics.as_deref())?
        else {
            let line = "deliver-webhooks: billing.webhooks.key_file is not configured; nothing is delivered".into();
            return Ok(JobReport { lines: vec![line], is_good: true });
        };
        let stop = interrupt.child_token();
        let timer = {
            let stop = stop.clone();
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep(LONGEST_RUN).await;
                stop.cancel();
            }))
        };
        let delivered = deliverer.run(owner, Until::Idle, &stop).await?;
        drop(timer);
        let Delivered { accepted, failed, waiting, is_lost } = delivered;
        anyhow::ensure!(!is_lost, "the lease of the run is lost");
        let (failed, waiting) = (counted(failed, "attempt"), agreeing(waiting, "retry waits", "retries wait"));
        let sums = format!("{accepted} accepted, {failed} failed, {waiting}");
        Ok(JobReport { lines: vec![format!("deliver-webhooks: {sums}")], is_good: true })
    }

    pub(super) async fn preview_webhooks(&self) -> anyhow::Result<JobReport> {
        let backlog = self.webhook_backlog().await?;
        let mut lines = vec![format!("deliver-webhooks: {backlog}")];
        if let Some(vault) = vault(&self.config)? {
            let webhooks = self.store.webhooks().await?.webhooks;
            // A secret whose time is over signs nothing, and may be of a key that is gone for good.
            let now = self.config.calendar(self.clock.clone()).now().utc;
            let secrets = webhooks.iter().flat_map(|webhook| {
                let valid = webhook.secrets.iter().filter(|secret| secret.is_valid(now));
                valid.map(|secret| (&webhook.id, secret))
            });
            let again: Vec<_> = secrets.map(|(id, secret)| vault.sealed_again(id, &secret.sealed)).collect();
            let old = again.iter().filter(|again| matches!(again, Ok(Some(_)))).count();
            let lost = again.iter().filter(|again| again.is_err()).count();
            let old = agreeing(old, "secret is sealed", "secrets are sealed");
            lines.push(format!("deliver-webhooks: {old} by an old key, {lost} by an unknown one"));
        }
        Ok(JobReport { lines, is_good: true })
    }

    /// The backlog of the webhooks, in words.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    pub async fn webhook_backlog(&self) -> Result<String, StoreError> {
        let webhooks = self.store.webhooks().await?;
        let Figures { failed, backlog, retries, failed_users, .. } = figures(&*self.store, &webhooks).await?;
        let retries = agreeing(retries, "retry waits", "retries wait");
        let (users, webhooks) = (counted(failed_users, "user"), counted(failed, "webhook"));
        Ok(format!("backlog {backlog}, {retries}, {users} failed, {webhooks} failed"))
    }
}
