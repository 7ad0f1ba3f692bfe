//! The measured parts of a model call: its tokens by class, and its images.

use super::invalid::Invalid;

/// The parts of one model call. The classes of the input are disjoint parts of it, and so are those of
/// the output; the rest is plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Usage {
    /// All input, cached and written parts included.
    pub input_tokens: u32,
    /// All output.
    pub output_tokens: u32,
    /// The part of the input that came from the model's cache.
    pub cached_input_tokens: u32,
    /// The part of the input that was written to the model's cache, for its usual time.
    pub cache_write_tokens: u32,
    /// The part of the input that was written to the model's cache for an hour.
    pub cache_write_1h_tokens: u32,
    /// The audio in the input.
    pub audio_input_tokens: u32,
    /// The part of the output that no text shows.
    pub reasoning_tokens: u32,
    /// The audio in the output.
    pub audio_output_tokens: u32,
    pub images: u32,
}

impl Usage {
    /// A usage of plain text.
    pub fn of_text(input_tokens: u32, output_tokens: u32) -> Self {
        Self { input_tokens, output_tokens, ..Self::default() }
    }

    /// The sum of input and output tokens, which contains every part.
    pub fn tokens(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.output_tokens)
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.tokens() == 0 && self.images == 0
    }

    /// The input in no other class.
    ///
    /// # Errors
    /// [`Invalid`] names the part that is above its whole, or that the parts before it leave no room for.
    pub fn plain_input(&self) -> Result<u32, Invalid> {
        let parts = [
            ("usage.cached_input_tokens", self.cached_input_tokens),
            ("usage.cache_write_tokens", self.cache_write_tokens),
            ("usage.cache_write_1h_tokens", self.cache_write_1h_tokens),
            ("usage.audio_input_tokens", self.audio_input_tokens),
        ];
        rest(self.input_tokens, "input_tokens", &parts)
    }

    /// The output in no other class.
    ///
    /// # Errors
    /// As [`Self::plain_input`].
    pub fn plain_output(&self) -> Result<u32, Invalid> {
        let parts = [
            ("usage.reasoning_tokens", self.reasoning_tokens),
            ("usage.audio_output_tokens", self.audio_output_tokens),
        ];
        rest(self.output_tokens, "output_tokens", &parts)
    }

    /// This input with the output of another usage.
    pub fn with_output_of(self, other: Usage) -> Self {
        Self {
            output_tokens: other.output_tokens,
            reasoning_tokens: other.reasoning_tokens,
            audio_output_tokens: other.audio_output_tokens,
            images: other.images,
            ..self
        }
    }

    /// This usage with an output of `output_tokens`. If it is less than before, it is plain text.
    pub fn with_output_tokens(self, output_tokens: u32) -> Self {
        match output_tokens < self.output_tokens {
            true => self.with_output_of(Self { output_tokens, images: self.images, ..Self::default() }),
            false => Self { output_tokens, ..self },
        }
    }
}

fn rest(whole: u32, name: &str, parts: &[(&'static str, u32)]) -> Result<u32, Invalid> {
    parts.iter().try_fold(whole, |left, (field, part)| {
        left.checked_sub(*part).ok_or_else(|| {
            let together = if *part > whole { "" } else { ", together with the other parts of it" };
            Invalid::new(*field, format!("must be at most {name}{together}"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_above_its_whole_is_named() {
        let whole = Usage::of_text(10, 10);
        assert_eq!((whole.plain_input(), whole.plain_output()), (Ok(10), Ok(10)));
        let full = Usage {
            cached_input_tokens: 1,
            cache_write_tokens: 2,
            cache_write_1h_tokens: 3,
            audio_input_tokens: 4,
            reasoning_tokens: 5,
            audio_output_tokens: 5,
            ..whole
        };
        assert_eq!((full.plain_input(), full.plain_output()), (Ok(0), Ok(0)));
        let field = |usage: Usage| usage.plain_input().and(usage.plain_output()).unwrap_err().to_string();
        for (usage, said) in [
            (Usage { cached_input_tokens: 11, ..whole }, "usage.cached_input_tokens: must be at most input_tokens"),
            (Usage { cache_write_tokens: 11, ..whole }, "usage.cache_write_tokens: must be at most input_tokens"),
            (Usage { cache_write_1h_tokens: 11, ..whole }, "usage.cache_write_1h_tokens: must be at most input_tokens"),
            (Usage { audio_input_tokens: 11, ..whole }, "usage.audio_input_tokens: must be at most input_tokens"),
            (Usage { reasoning_tokens: 11, ..whole }, "usage.reasoning_tokens: must be at most output_tokens"),
            (Usage { audio_output_tokens: 11, ..whole }, "usage.audio_output_tokens: must be at most output_tokens"),
            (
                Usage { audio_input_tokens: 5, ..full },
                "usage.audio_input_tokens: must be at most input_tokens, together with the other parts of it",
            ),
            (
                Usage { audio_output_tokens: 6, ..full },
                "usage.audio_output_tokens: must be at most output_tokens, together with the other parts of it",
            ),
        ] {
            assert_eq!(field(usage), said);
        }
    }

    #[test]
    fn a_shorter_output_keeps_no_part_of_a_longer_one() {
        let usage = Usage { reasoning_tokens: 3, cached_input_tokens: 2, images: 1, ..Usage::of_text(5, 4) };
        assert_eq!(usage.with_output_tokens(9), Usage { output_tokens: 9, ..usage });
        let shorter = Usage { output_tokens: 2, reasoning_tokens: 0, ..usage };
        assert_eq!(usage.with_output_tokens(2), shorter);
        assert_eq!(
            Usage::of_text(7, 0).with_output_of(usage),
            Usage { input_tokens: 7, cached_input_tokens: 0, ..usage }
        );
    }
}
