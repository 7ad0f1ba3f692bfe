//! The price book: the price of a million tokens of each model, and the start of each price.

mod book;
mod live;

pub use self::{
    book::{PriceBook, PriceVersion, TokenPrices},
    live::{PAGE, PriceStore, Prices, StoredVersion},
};
