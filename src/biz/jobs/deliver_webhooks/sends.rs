//! The deliveries on their way, each in a task.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::task::{JoinError, JoinSet};

use super::Deliverer;
use crate::biz::{
    values::{calendar::Calendar, error::StoreError, ids::WebhookId},
    webhooks::{
        MAX_WEBHOOKS, Webhook,
        delivery::{Failure, Outcome, Post, Sender},
        queue::Delivery,
        secret::{SealedSecret, SecretVault, SigningSecret, VaultError, signatures},
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
    /// Webhooks with a replaced secret that does not open. Each is logged once.
    warned: BTreeSet<WebhookId>,
}

impl Sends {
    pub(super) fn new(sender: Arc<dyn Sender>, vault: Arc<dyn SecretVault>, calendar: Arc<Calendar>) -> Self {
        Self { tasks: JoinSet::new(), sender, vault, calendar, warned: BTreeSet::new() }
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

    fn post(&mut self, webhook: &Webhook, delivery: &Delivery, at: DateTime<Utc>) -> Result<Post, VaultError> {
        let mut valid = webhook.secrets.iter().filter(|secret| secret.is_valid(at));
        let current = valid.next().map(|secret| self.vault.open(&webhook.id, &secret.sealed)).transpose()?;
        // A replaced secret may be sealed by a key that is lost. The receiver verifies by the current one then.
        let mut is_lost = false;
        let replaced = valid.filter_map(|secret| {
            let opened = self.vault.open(&webhook.id, &secret.sealed);
            is_lost |= opened.is_err();
            opened.ok()
        });
        let secrets: Vec<SigningSecret> = current.into_iter().chain(replaced).collect();
        if is_lost && self.warned.len() < MAX_WEBHOOKS && self.warned.insert(webhook.id.clone()) {
            tracing::warn!(webhook = %webhook.id, "replaced secret of a webhook can't be opened; it signs nothing");
        }
        let (id, body) = (delivery.message.id, delivery.message.body());
        Ok(Post {
            url: webhook.url.clone(),
            id,
            at,
            signature: signatures(&secrets, &id.to_string(), at, &body),
            body,
            trace: delivery.message.trace.clone(),
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

impl Deliverer {
    /// Seals the secrets again that were sealed by an earlier key.
    pub(super) async fn seal_again(&self, webhooks: &[Webhook]) {
        let mut sealed = 0;
        for webhook in webhooks {
            let Some(secrets) = sealed_again(&*self.vault, webhook) else { continue };
            match self.store.seal_again(webhook, &secrets).await {
                Ok(is_changed) => sealed += usize::from(is_changed),
                // Secrets of an earlier key still open.
                Err(error @ StoreError::Unavailable(_)) => {
                    tracing::warn!(%error, "secrets of webhooks not sealed again; trying again");
                    break;
                }
                // It says nothing about the other webhooks.
                Err(error) => {
                    tracing::warn!(webhook = %webhook.id, %error, "secrets of a webhook not sealed again; trying again");
                }
            }
        }
        if sealed > 0 {
            tracing::info!(webhooks = sealed, "secrets of webhooks sealed again by billing.webhooks.key");
        }
    }
}

/// The secrets of a webhook by the key of now, if one of them was sealed by an earlier key. Those that no key opens stay.
fn sealed_again(vault: &dyn SecretVault, webhook: &Webhook) -> Option<Vec<SealedSecret>> {
    let mut secrets = webhook.secrets.clone();
    let mut is_changed = false;
    for secret in &mut secrets {
        if let Ok(Some(sealed)) = vault.sealed_again(&webhook.id, &secret.sealed) {
            (secret.sealed, is_changed) = (sealed, true);
        }
    }
    is_changed.then_some(secrets)
}

fn panicked(error: JoinError) -> StoreError {
    StoreError::Failed(format!("a delivery ended abnormally: {error}"))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::biz::{
        jobs::deliver_webhooks::tests::Fake,
        webhooks::{
            delivery::{Message, Resend},
            queue::{Queue, Step},
        },
    };

    /// The signatures of a delivery by a vault that opens the secrets `own-...`.
    fn signed(secrets: &[&str]) -> Result<usize, VaultError> {
        let at = DateTime::UNIX_EPOCH;
        let sealed = |(index, sealed): (usize, &&str)| SealedSecret {
            sealed: (*sealed).to_owned(),
            until: (index > 0).then(|| at + TimeDelta::hours(1)),
        };
        let webhook = Webhook { secrets: secrets.iter().enumerate().map(sealed).collect(), ..Webhook::example() };
        let fake = Arc::new(Fake::default());
        let mut sends = Sends::new(fake.clone(), fake.clone(), Fake::calendar());
        let mut queue = Queue::new(webhook.clone(), Vec::new());
        let message = Message { id: Uuid::nil(), kind: "t".into(), at, data: "{}".into(), trace: None };
        queue.add_resends([Resend { id: Uuid::nil(), webhook: webhook.id.clone(), message }].iter());
        let Step::Send(delivery) = queue.next(at) else { panic!() };
        Ok(sends.post(&webhook, &delivery, at)?.signature.split(' ').count())
    }

    #[tokio::test]
    async fn a_webhook_whose_secrets_cannot_be_written_hinders_no_other() {
        let webhook = |id: &str, sealed: &str| Webhook {
            id: WebhookId::from_stored(id),
            secrets: vec![SealedSecret { sealed: sealed.into(), until: None }],
            ..Webhook::example()
        };
        let webhooks = [webhook("busy", "old-1"), webhook("new", "own-2"), webhook("old", "old-3")];
        let fake = Arc::new(Fake::default());
        fake.deliverer().seal_again(&webhooks).await;
        assert_eq!(*fake.sealed.lock().unwrap(), [("old".to_owned(), "own-3".to_owned())]);
    }

    #[test]
    fn a_replaced_secret_of_a_lost_key_does_not_hinder_the_current_one() {
        assert_eq!(signed(&["own-new", "own-old"]).unwrap(), 2);
        assert_eq!(signed(&["own-new", "lost", "own-old"]).unwrap(), 2);
        assert!(signed(&["lost", "own-old"]).is_err(), "the receiver knows the current one by now");
    }
}
