//! Tokens of language models: the encoding of each model, the count of a text or a chat, and the
//! running count of a stream. [`Vocabularies`] provides the vocabularies.

mod chat;
mod counter;
mod encoding;
mod split;
mod stream;
mod vocabulary;

pub use self::{
    chat::{ChatMessage, Input, MAX_BYTES, MAX_MESSAGES},
    counter::{IN_PLACE_BYTES, MAX_ADMITTED, Patience, TokenCounter},
    encoding::Encoding,
    split::is_split,
    stream::{MAX_RUN_BYTES, StreamCounter},
    vocabulary::{Vocabularies, Vocabulary},
};
