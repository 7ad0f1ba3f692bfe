//! The questions to payment-service that callbacks without a proof cause. Anyone can send such a
//! callback, so each topic is asked about once in an interval, and nobody's orders take all places.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::biz::{
    limits::shares::{Share, Shares},
    values::{
        error::{Error, Result},
        ids::{OrderId, PaymentId, RefundId, UserId},
    },
};

/// Most questions at once.
const QUESTIONS: usize = 256;
/// Most questions at once about the orders of one user.
const QUESTIONS_OF_USER: usize = 2;
/// Shortest time between two questions about one topic.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most topics whose last question is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The key of a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The payment of an order.
    Order(OrderId),
    Payment(PaymentId),
    Refund(RefundId),
}

/// The last question about a topic.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    at: Instant,
    /// Whether payment-service does not know the topic. False while the question is under way.
    pub is_denied: bool,
}

/// Admits questions.
pub struct Questions {
    asked: Mutex<LruCache<Topic, Asked>>,
    all: Arc<Semaphore>,
    /// Orders that are not known have one share.
    of_user: Arc<Shares<Option<UserId>>>,
}

/// The permits of one question.
pub struct Question {
    _one_of_all: OwnedSemaphorePermit,
    _of_user: Share<Option<UserId>>,
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
    /// The last question about a topic, if it was asked a moment ago.
    pub fn last(&self, topic: &Topic, now: Instant) -> Option<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.peek(topic).filter(|asked| now.saturating_duration_since(asked.at) < INTERVAL).copied()
    }

    /// Notes that payment-service does not know a topic.
    pub fn note_denial(&self, topic: &Topic) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = asked.peek_mut(topic) {
            asked.is_denied = true;
        }
    }

    /// Admits a question about an order of a user, if it is known, at the time `now`.
    ///
    /// # Errors
    /// [`Error::Overloaded`]: payment-service was asked about the topic a moment ago, or too many
    /// questions are under way.
    pub fn admit(&self, topic: &Topic, user: Option<&UserId>, now: Instant) -> Result<Question> {
        let overloaded = || Error::Overloaded("too many callbacks wait for payment-service; send it again".into());
        let of_user = self.of_user.take(&user.cloned()).ok_or_else(overloaded)?;
        let one_of_all = self.all.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.peek(topic).is_some_and(|last| now.saturating_duration_since(last.at) < INTERVAL) {
            return Err(Error::Overloaded("payment-service was asked a moment ago; send the callback again".into()));
        }
        asked.put(topic.clone(), Asked { at: now, is_denied: false });
        Ok(Question { _one_of_all: one_of_all, _of_user: of_user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: &str) -> Topic {
        Topic::Order(OrderId::from_stored(id))
    }

    #[test]
    fn a_topic_is_asked_about_once_in_an_interval() {
        let (questions, now, user) = (Questions::default(), Instant::now(), UserId::from_stored("u"));
        let admit = |topic: &Topic, now| questions.admit(topic, Some(&user), now).map(drop);
        assert!(admit(&order("o-1"), now).is_ok());
        assert!(admit(&order("o-1"), now).is_err());
        assert!(admit(&order("o-2"), now).is_ok());
        assert!(admit(&Topic::Payment(PaymentId::from_stored("o-1")), now).is_ok());
        assert!(admit(&order("o-1"), now + INTERVAL).is_ok());
    }

    #[test]
    fn a_denial_is_remembered_until_the_next_question() {
        let (questions, now) = (Questions::default(), Instant::now());
        let topic = Topic::Payment(PaymentId::from_stored("p"));
        let denied = |now| questions.last(&topic, now).map(|asked| asked.is_denied);
        assert_eq!(denied(now), None);
        drop(questions.admit(&topic, None, now).unwrap());
        assert_eq!(denied(now), Some(false), "a question without an answer denies nothing");
        questions.note_denial(&topic);
        assert_eq!((denied(now), denied(now + INTERVAL)), (Some(true), None));
        drop(questions.admit(&topic, None, now + INTERVAL).unwrap());
        assert_eq!(denied(now + INTERVAL), Some(false));
    }

    #[test]
    fn slow_questions_about_one_user_leave_room_for_the_others() {
        let (questions, now) = (Questions::default(), Instant::now());
        let (user, other) = (UserId::from_stored("u"), UserId::from_stored("v"));
        let slow: Vec<_> = (0..QUESTIONS_OF_USER)
            .map(|number| questions.admit(&order(&format!("o-{number}")), Some(&user), now).unwrap())
            .collect();
        assert!(questions.admit(&order("o-x"), Some(&user), now).is_err());
        assert!(questions.admit(&order("o-y"), Some(&other), now).is_ok());
        assert!(questions.admit(&order("o-z"), None, now).is_ok());
        drop(slow);
        assert!(questions.admit(&order("o-x"), Some(&user), now).is_ok());
    }
}
