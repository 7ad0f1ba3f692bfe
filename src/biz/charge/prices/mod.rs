//! The price book: what a million tokens of each model cost, and from when on.

mod book;
mod live;

pub use self::{
    book::{PriceBook, PriceVersion, TokenPrices},
    live::{MAX_STORED, PriceStore, Prices, StoredVersion},
};
