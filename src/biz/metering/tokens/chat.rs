//! The input of a count, its bounds, and the rule of a chat's overhead.

use super::Vocabulary;
use crate::biz::values::{error::Result, invalid::Invalid};

/// Longest input in bytes, all its strings together. The largest request
/// (`server.limits.body_bytes`) is often smaller.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Most messages of a chat.
pub const MAX_MESSAGES: usize = 10_000;

// The prompt format of chat models wraps each message in markers and ends with the start of the
// reply. Source: OpenAI's cookbook ("How to count tokens with tiktoken"). It measures three
// tokens per message, one more for a name, and three for the start of the reply. Role, content
// and name count as text.
const PER_MESSAGE: usize = 3;
const PER_NAME: usize = 1;
const REPLY_START: usize = 3;

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
}

/// A text or a chat to count, within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input(Parts);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Parts {
    Text(String),
    Chat(Vec<ChatMessage>),
}

impl Input {
    /// # Errors
    /// [`Invalid`] that names `field` if the text is longer than [`MAX_BYTES`].
    pub fn text(field: &'static str, text: String) -> Result<Self> {
        check_bytes(field, text.len())?;
        Ok(Self(Parts::Text(text)))
    }

    /// # Errors
    /// [`Invalid`] if there are more than [`MAX_MESSAGES`] messages, if they are longer than
    /// [`MAX_BYTES`], or if a message has no role.
    pub fn chat(messages: Vec<ChatMessage>) -> Result<Self> {
        if messages.len() > MAX_MESSAGES {
            return Err(Invalid::new("messages", format!("must be at most {MAX_MESSAGES} messages")).into());
        }
        if let Some(index) = messages.iter().position(|message| message.role.is_empty()) {
            return Err(Invalid::new(format!("messages[{index}].role"), "is required").into());
        }
        check_bytes("messages", messages.iter().map(ChatMessage::bytes).sum())?;
        Ok(Self(Parts::Chat(messages)))
    }

    pub fn bytes(&self) -> usize {
        match &self.0 {
            Parts::Text(text) => text.len(),
            Parts::Chat(messages) => messages.iter().map(ChatMessage::bytes).sum(),
        }
    }

    pub fn count(&self, vocabulary: &dyn Vocabulary) -> usize {
        match &self.0 {
            Parts::Text(text) => vocabulary.count(text),
            Parts::Chat(messages) => {
                messages.iter().map(|message| message.count(vocabulary)).sum::<usize>() + REPLY_START
            }
        }
    }
}

impl ChatMessage {
    fn bytes(&self) -> usize {
        self.role.len() + self.content.len() + self.name.as_ref().map_or(0, String::len)
    }

    fn count(&self, vocabulary: &dyn Vocabulary) -> usize {
        let name = self.name.as_ref().map_or(0, |name| vocabulary.count(name) + PER_NAME);
        PER_MESSAGE + vocabulary.count(&self.role) + vocabulary.count(&self.content) + name
    }
}

fn check_bytes(field: &str, bytes: usize) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(Invalid::new(field, format!("must be at most {MAX_BYTES} bytes")).into());
    }
    Ok(())
}
