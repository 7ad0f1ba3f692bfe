//! Tokens of language models: which encoding a model has, what a text or a chat counts,
//! and a count that goes along with a stream. Vocabularies come through [`Vocabularies`].

mod chat;
mod counter;
mod encoding;
mod split;
mod stream;
mod vocabulary;

pub use self::{
    chat::{ChatMessage, Input, MAX_BYTES, MAX_MESSAGES},
    counter::{IN_PLACE_BYTES, MAX_ADMITTED, TokenCounter},
    encoding::Encoding,
    split::is_split,
    stream::{MAX_RUN_BYTES, StreamCounter},
    vocabulary::{Vocabularies, Vocabulary},
};
