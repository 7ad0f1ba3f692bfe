//! The classes in which a call is priced, and the parts of a call by class.

use super::{invalid::Invalid, usage::Usage};

/// A class of tokens, of calls or of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Input,
    CachedInput,
    CacheWrite,
    CacheWrite1h,
    AudioInput,
    Output,
    Reasoning,
    AudioOutput,
    Request,
    Image,
}

/// The number of classes.
pub const CLASSES: usize = 10;

impl Class {
    /// In the order of the price lines. A class without a price follows the class that it falls back to.
    pub const ALL: [Class; CLASSES] = [
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::AudioInput,
        Self::Output,
        Self::Reasoning,
        Self::AudioOutput,
        Self::Request,
        Self::Image,
    ];

    /// The name in configurations, tables and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite1h => "cache_write_1h",
            Self::AudioInput => "audio_input",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::AudioOutput => "audio_output",
            Self::Request => "request",
            Self::Image => "image",
        }
    }

    /// The class whose price applies if this one has none. `None` if it is then free.
    pub fn fallback(self) -> Option<Class> {
        match self {
            Self::Input | Self::Output | Self::Request | Self::Image => None,
            Self::CachedInput | Self::CacheWrite | Self::AudioInput => Some(Self::Input),
            Self::CacheWrite1h => Some(Self::CacheWrite),
            Self::Reasoning | Self::AudioOutput => Some(Self::Output),
        }
    }

    /// Whether its price is for a million. Otherwise it is for one.
    pub fn is_per_million(self) -> bool {
        !matches!(self, Self::Request | Self::Image)
    }
}

/// A number for each class, in the order of [`Class::ALL`].
pub type ByClass<T> = [T; CLASSES];

/// The parts of `calls` calls with a `usage` in all.
///
/// # Errors
/// [`Invalid`] names a part of the usage that is above its whole.
pub fn parts(usage: &Usage, calls: u32) -> Result<ByClass<u32>, Invalid> {
    Ok([
        usage.plain_input()?,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.audio_input_tokens,
        usage.plain_output()?,
        usage.reasoning_tokens,
        usage.audio_output_tokens,
        calls,
        usage.images,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_stands_at_its_place_and_follows_one_before_it() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
            assert!(class.fallback().is_none_or(|fallback| fallback < class), "{class:?}");
        }
    }
}
