//! The memory of request bodies: all requests of the process share one number of bytes. A request
//! that needs more than is left is refused, and the received part is dropped.

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

/// Bytes of each request that are not counted, so that large bodies of one caller refuse no small request of
/// another. The number of requests bounds them.
const UNCOUNTED: usize = 4 * 1024;

/// The bytes of one request.
pub struct HeldBytes {
    memory: BodyMemory,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    /// For the bytes beyond [`UNCOUNTED`].
    permit: Option<OwnedSemaphorePermit>,
}

impl HeldBytes {
    /// Adds the bytes of a further part; `false` if too few are left.
    pub fn add(&self, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all = held.bytes.saturating_add(bytes);
        let more = all.saturating_sub(UNCOUNTED) - held.bytes.saturating_sub(UNCOUNTED);
        if more > 0 {
            let Some(more) = self.take(more) else { return false };
            match &mut held.permit {
                Some(permit) => permit.merge(more),
                None => held.permit = Some(more),
            }
        }
        held.bytes = all;
        true
    }

    /// As [`Self::add`], after the earlier parts were used up.
    pub fn replace(&self, bytes: usize) -> bool {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Held::default();
        self.add(bytes)
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
        assert!(one.add(UNCOUNTED + 4) && one.add(4));
        assert!(!other.add(UNCOUNTED + 3));
        assert!(other.add(UNCOUNTED + 2));
        assert!(one.replace(UNCOUNTED + 1));
        assert!(other.add(7));
        drop((one, other));
        assert!(memory.of_request().add(UNCOUNTED + 10));
    }

    #[test]
    fn small_requests_pass_when_the_memory_is_used_up() {
        let memory = BodyMemory::new(10);
        let large = memory.of_request();
        assert!(large.add(UNCOUNTED + 10));
        let small = memory.of_request();
        assert!(small.add(UNCOUNTED - 1) && small.add(1));
        assert!(!small.add(1));
    }
}
