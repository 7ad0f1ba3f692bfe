//! Values that every rule uses: amounts, times, ids, pages and errors. Nothing here depends on
//! another part of `biz`.

pub mod calendar;
pub mod currency;
pub mod error;
pub mod ids;
pub mod money;
pub mod paging;
