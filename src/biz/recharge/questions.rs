//! The questions to payment-service that callbacks without a proof cause. Anyone can send such a
//! callback, so an order is asked about once in an interval, and nobody's orders take all places.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::biz::{
    limits::shares::{Share, Shares},
    settlement::order::Order,
    values::{
        error::{Error, Result},
        ids::{OrderId, UserId},
    },
};

/// Most questions at once.
const QUESTIONS: usize = 256;
/// Most questions at once about the orders of one user.
const QUESTIONS_OF_USER: usize = 2;
/// Shortest time between two questions about one order.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most orders whose last question is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Admits questions.
pub struct Questions {
    asked: Mutex<LruCache<OrderId, Instant>>,
    all: Arc<Semaphore>,
    of_user: Arc<Shares<UserId>>,
}

/// The permits of one question.
pub struct Question {
    _one_of_all: OwnedSemaphorePermit,
    _of_user: Share<UserId>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            asked: Mutex::new(LruCache::new(REMEMBERED)),
            all: Arc::new(Semaphore::new(QUESTIONS)),
            of_user: Shares::new(QUESTIONS_OF_USER),
        }
    }
}

impl Questions {
    /// Admits a question about an order at the time `now`.
    ///
    /// # Errors
    /// [`Error::Overloaded`]: payment-service was asked about the order a moment ago, or too many
    /// questions are under way.
    pub fn admit(&self, order: &Order, now: Instant) -> Result<Question> {
        let overloaded = || Error::Overloaded("too many callbacks wait for payment-service; send it again".into());
        let of_user = self.of_user.take(&order.user).ok_or_else(overloaded)?;
        let one_of_all = self.all.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.peek(&order.id).is_some_and(|last| now.saturating_duration_since(*last) < INTERVAL) {
            return Err(Error::Overloaded("payment-service was asked a moment ago; send the callback again".into()));
        }
        asked.put(order.id.clone(), now);
        Ok(Question { _one_of_all: one_of_all, _of_user: of_user })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::biz::{settlement::order::OrderStatus, values::money::Money};

    fn order(id: &str, user: &str) -> Order {
        Order {
            id: OrderId::from_stored(id),
            user: UserId::from_stored(user),
            amount: Money::from_micros(1),
            method: None,
            status: OrderStatus::Pending,
            payment: None,
            payment_url: None,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            idempotency_key: None,
        }
    }

    #[test]
    fn an_order_is_asked_about_once_in_an_interval() {
        let (questions, now) = (Questions::default(), Instant::now());
        drop(questions.admit(&order("o-1", "u"), now).unwrap());
        assert!(questions.admit(&order("o-1", "u"), now).is_err());
        assert!(questions.admit(&order("o-2", "u"), now).is_ok());
        assert!(questions.admit(&order("o-1", "u"), now + INTERVAL).is_ok());
    }

    #[test]
    fn slow_questions_about_one_user_leave_room_for_the_others() {
        let (questions, now) = (Questions::default(), Instant::now());
        let slow: Vec<_> = (0..QUESTIONS_OF_USER)
            .map(|number| questions.admit(&order(&format!("o-{number}"), "u"), now).unwrap())
            .collect();
        assert!(questions.admit(&order("o-x", "u"), now).is_err());
        assert!(questions.admit(&order("o-y", "v"), now).is_ok());
        drop(slow);
        assert!(questions.admit(&order("o-x", "u"), now).is_ok());
    }
}
