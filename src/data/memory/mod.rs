//! Traits of `crate::biz` implemented in the memory of this process, bounded.

mod cache;

pub use self::cache::MemoryCache;
