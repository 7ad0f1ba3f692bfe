//! The deliveries on their way, each in a task.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::task::{JoinError, JoinSet};

use crate::biz::{
    values::{calendar::Calendar, error::StoreError, ids::WebhookId},
    webhooks::{
        Webhook,
        delivery::{Failure, Outcome, Post, Sender},
        queue::Delivery,
        secret::{SecretVault, SigningSecret, VaultError, signatures},
    },
};

/// A delivery that has ended.
pub(super) struct Ended {
    pub webhook: WebhookId,
    /// When the webhook was made; another one may have its id by now.
    pub made_at: DateTime<Utc>,
    pub delivery: Box<Delivery>,
    pub outcome: Outcome,
    pub began_at: DateTime<Utc>,
    pub took: Duration,
}

pub(super) struct Sends {
    tasks: JoinSet<Ended>,
    sender: Arc<dyn Sender>,
    vault: Arc<dyn SecretVault>,
    calendar: Arc<Calendar>,
}

impl Sends {
    pub(super) fn new(sender: Arc<dyn Sender>, vault: Arc<dyn SecretVault>, calendar: Arc<Calendar>) -> Self {
        Self { tasks: JoinSet::new(), sender, vault, calendar }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Signs and sends in a task of its own.
    pub(super) fn start(&mut self, webhook: &Webhook, delivery: Box<Delivery>) {
        let (began_at, began) = (self.calendar.now().utc, Instant::now());
        let (id, made_at, post) = (webhook.id.clone(), webhook.created_at, self.post(webhook, &delivery, began_at));
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let outcome = match post {
                Ok(post) => sender.send(post).await,
                Err(error) => {
                    tracing::error!(webhook = %id, %error, "secret of a webhook can't be opened");
                    Outcome::failed(Failure::Secret)
                }
            };
            Ended { webhook: id, made_at, delivery, outcome, began_at, took: began.elapsed() }
        });
    }

    fn post(&self, webhook: &Webhook, delivery: &Delivery, at: DateTime<Utc>) -> Result<Post, VaultError> {
        let valid = webhook.secrets.iter().filter(|secret| secret.is_valid(at));
        let secrets = valid.map(|secret| self.vault.open(&webhook.id, &secret.sealed));
        let secrets: Vec<SigningSecret> = secrets.collect::<Result<_, _>>()?;
        let (id, body) = (delivery.message.id, delivery.message.body());
        Ok(Post {
            url: webhook.url.clone(),
            id,
            at,
            signature: signatures(&secrets, &id.to_string(), at, &body),
            body,
            traceparent: delivery.message.traceparent.clone(),
        })
    }

    /// Waits for the next delivery that ends; for ever if none is on its way.
    ///
    /// # Errors
    /// A delivery panicked.
    pub(super) async fn next(&mut self) -> Result<Ended, StoreError> {
        match self.tasks.join_next().await {
            Some(ended) => ended.map_err(panicked),
            None => std::future::pending().await,
        }
    }

    /// A delivery that has ended already.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(super) fn try_next(&mut self) -> Result<Option<Ended>, StoreError> {
        self.tasks.try_join_next().transpose().map_err(panicked)
    }
}

fn panicked(error: JoinError) -> StoreError {
    StoreError::Failed(format!("a delivery ended abnormally: {error}"))
}
