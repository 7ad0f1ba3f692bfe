//! The prices of models: the classes of a call, the rule that prices it, and the versions of every
//! model.

mod alias;
mod book;
pub mod import;
pub mod json;
mod list;
mod live;
mod versions;

pub use self::{
    alias::Alias,
    book::{Found, Listed, PlanPrices, PriceBook, PriceVersion},
    list::{Draft, Given, MAX_ALIASES, MAX_SERVICE_TIERS, MAX_TIERS, PriceLine, PriceList, Rates, Work, rounding},
    live::{PAGE, PriceStore, Prices, Stamp, StoredVersion, blocking},
    versions::{Change, NewVersion, VersionKey, VersionStore},
};
pub use crate::biz::values::{
    class::{CLASSES, Class},
    factor::Factor,
};
