//! The rpc that counts the tokens of a text or a chat.

use std::sync::Arc;

use super::{
    convert::int32,
    proto::{self, CountTokensReply, CountTokensRequest},
};
use crate::biz::{
    metering::tokens::{ChatMessage, Encoding, Input, TokenCounter},
    values::{error::Result, ids::ModelName, invalid::Invalid},
};

/// Counts tokens.
pub struct TokenService {
    tokens: Arc<TokenCounter>,
}

impl TokenService {
    pub fn new(tokens: Arc<TokenCounter>) -> Self {
        Self { tokens }
    }

    pub async fn count_tokens(&self, request: CountTokensRequest) -> Result<CountTokensReply> {
        let model = ModelName::parse_optional("model", &request.model)?;
        let encoding = Encoding::of(model.as_ref());
        let input = match (request.text, request.messages) {
            (Some(_), messages) if !messages.is_empty() => {
                return Err(Invalid::new("messages", "must be absent where text is given").into());
            }
            (Some(text), _) => Input::text("text", text)?,
            (None, messages) if messages.is_empty() => {
                return Err(Invalid::new("text", "is required where there are no messages").into());
            }
            (None, messages) => Input::chat(messages.into_iter().map(message).collect())?,
        };
        let tokens = self.tokens.count(encoding, input).await?;
        Ok(CountTokensReply { tokens: int32(tokens), encoding: encoding.name().into() })
    }
}

fn message(proto::ChatMessage { role, content, name }: proto::ChatMessage) -> ChatMessage {
    ChatMessage { role, content, name: Some(name).filter(|name| !name.is_empty()) }
}
