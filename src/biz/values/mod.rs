//! Values that every rule uses: amounts, times, ids, token counts, pages and errors. Nothing here
//! depends on another part of `biz`.

pub mod account_status;
pub mod cache_key;
pub mod calendar;
pub mod class;
pub mod currency;
pub mod error;
pub mod factor;
pub mod ids;
pub mod invalid;
pub mod limit;
pub mod money;
pub mod paging;
pub mod preview;
pub mod spans;
pub mod text;
pub mod usage;
