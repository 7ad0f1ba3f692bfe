//! The memory of request bodies: all requests of the process share one number of bytes. A request
//! that needs more than is left is refused, and what it had sent is dropped.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes of all bodies in memory.
#[derive(Clone)]
pub struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// The bytes of one request, which are free again when this is dropped.
    pub fn of_request(&self) -> HeldBytes {
        HeldBytes { memory: self.clone(), held: Mutex::default() }
    }
}

/// The bytes of one request.
pub struct HeldBytes {
    memory: BodyMemory,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl HeldBytes {
    /// Adds the bytes of a further part; `false` if too few are left.
    pub fn add(&self, bytes: usize) -> bool {
        let Some(more) = self.take(bytes) else { return false };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }

    /// As [`Self::add`], after the earlier parts were used up.
    pub fn replace(&self, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
        *held = self.take(bytes);
        held.is_some()
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.memory.0.clone().try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_memory_and_give_it_back() {
        let memory = BodyMemory::new(10);
        let (one, other) = (memory.of_request(), memory.of_request());
        assert!(one.add(4) && one.add(4));
        assert!(!other.add(3));
        assert!(other.add(2));
        assert!(one.replace(1));
        assert!(other.add(7));
        drop((one, other));
        assert!(memory.of_request().add(10));
    }
}
