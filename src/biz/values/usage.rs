//! Token counts of a model call.

/// Tokens of one model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// The part of the input that came from the model's cache.
    pub cached_input_tokens: u32,
}

impl Usage {
    /// The sum of input and output tokens.
    pub fn tokens(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.output_tokens)
    }
}
