//! The rule by small named cases, a file for each of its files, and by random histories.

mod account;
mod adjust;
mod books;
mod charge;
mod closing;
mod commit;
mod delivered;
mod events;
mod expire;
mod histories;
mod in_memory;
mod keys;
mod order_refund;
mod pricing;
mod recharge;
mod recommit;
mod refund;
mod release;
mod reserve;
mod sanity;
mod served;
mod status;
mod stream;
mod unapplied;
mod writes;
