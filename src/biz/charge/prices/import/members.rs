//! The members of an entry that are costs, by their names.

use crate::biz::charge::prices::Class;

/// A member of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    Cost(Cost),
    /// No cost, or one of a part of a call that no usage has, such as a second of video.
    Other,
}

/// A cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub class: Class,
    /// For calls with a larger input.
    pub above: Option<u32>,
    pub service_tier: Option<&'static str>,
    /// Whether it counts only where the class has no other cost.
    pub is_substitute: bool,
}

/// The costs of a class. The longest name that a member begins with counts.
const BASES: [(&str, Class, bool); 14] = [
    ("cache_creation_input_token_cost_above_1hr", Class::CacheWrite1h, false),
    ("cache_creation_input_token_cost", Class::CacheWrite, false),
    ("cache_read_input_token_cost", Class::CachedInput, false),
    ("input_cost_per_audio_token", Class::AudioInput, false),
    ("input_cost_per_request", Class::Request, false),
    ("input_cost_per_query", Class::Request, true),
    ("input_cost_per_token", Class::Input, false),
    ("input_cost_per_token_cache_hit", Class::CachedInput, true),
    ("input_cost_per_image", Class::Image, true),
    ("output_cost_per_audio_token", Class::AudioOutput, false),
    ("output_cost_per_reasoning_token", Class::Reasoning, false),
    ("output_cost_per_image", Class::Image, false),
    ("output_cost_per_token", Class::Output, false),
    ("cache_creation_input_audio_token_cost", Class::CacheWrite, true),
];

const SERVICE_TIERS: [(&str, &str); 5] = [
    ("_batches", "batch"),
    ("_flex", "flex"),
    ("_priority", "priority"),
    ("_balanced", "balanced"),
    ("_ultrafast", "ultrafast"),
];

/// Sorts a member by its name: a base, then the bound of a tier, then a service tier.
pub fn member(name: &str) -> Member {
    parse(name).map_or(Member::Other, Member::Cost)
}

fn parse(name: &str) -> Option<Cost> {
    let (rest, class, is_substitute) = BASES
        .into_iter()
        .filter_map(|(base, class, is_substitute)| Some((name.strip_prefix(base)?, class, is_substitute)))
        .min_by_key(|(rest, ..)| rest.len())?;
    let tier = SERVICE_TIERS.into_iter().find_map(|(suffix, tier)| Some((rest.strip_suffix(suffix)?, tier)));
    let (rest, service_tier) = tier.map_or((rest, None), |(rest, tier)| (rest, Some(tier)));
    let above = match rest {
        "" => None,
        bound => Some(bound_of(bound)?),
    };
    Some(Cost { class, above, service_tier, is_substitute })
}

/// The bound in `_above_200k_tokens` or `_above_200000_tokens`.
fn bound_of(text: &str) -> Option<u32> {
    let number = text.strip_prefix("_above_")?.strip_suffix("_tokens")?;
    let (digits, unit) = match number.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => (number, 1),
    };
    digits.parse::<u32>().ok()?.checked_mul(unit).filter(|bound| *bound > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_the_class_the_bound_and_the_service_tier() {
        for (name, class, above, service_tier) in [
            ("input_cost_per_token", Class::Input, None, None),
            ("output_cost_per_token", Class::Output, None, None),
            ("cache_read_input_token_cost", Class::CachedInput, None, None),
            ("cache_creation_input_token_cost", Class::CacheWrite, None, None),
            ("cache_creation_input_token_cost_above_1hr", Class::CacheWrite1h, None, None),
            ("cache_creation_input_token_cost_above_200k_tokens", Class::CacheWrite, Some(200_000), None),
            ("cache_creation_input_token_cost_above_1hr_above_200k_tokens", Class::CacheWrite1h, Some(200_000), None),
            ("input_cost_per_token_above_272k_tokens", Class::Input, Some(272_000), None),
            ("output_cost_per_token_above_272000_tokens", Class::Output, Some(272_000), None),
            ("input_cost_per_token_batches", Class::Input, None, Some("batch")),
            ("output_cost_per_token_flex", Class::Output, None, Some("flex")),
            ("cache_read_input_token_cost_priority", Class::CachedInput, None, Some("priority")),
            ("input_cost_per_token_above_200k_tokens_priority", Class::Input, Some(200_000), Some("priority")),
            ("output_cost_per_token_above_272k_tokens_flex", Class::Output, Some(272_000), Some("flex")),
            ("input_cost_per_token_above_128k_tokens_batches", Class::Input, Some(128_000), Some("batch")),
            ("input_cost_per_token_balanced", Class::Input, None, Some("balanced")),
            ("output_cost_per_token_ultrafast", Class::Output, None, Some("ultrafast")),
            ("output_cost_per_reasoning_token", Class::Reasoning, None, None),
            ("input_cost_per_audio_token", Class::AudioInput, None, None),
            ("output_cost_per_audio_token", Class::AudioOutput, None, None),
            ("output_cost_per_image", Class::Image, None, None),
            ("input_cost_per_request", Class::Request, None, None),
        ] {
            let expected = Cost { class, above, service_tier, is_substitute: false };
            assert_eq!(member(name), Member::Cost(expected), "{name}");
        }
        let hit = Cost { class: Class::CachedInput, above: None, service_tier: None, is_substitute: true };
        assert_eq!(member("input_cost_per_token_cache_hit"), Member::Cost(hit));
    }

    #[test]
    fn costs_that_no_usage_has_are_none() {
        for name in [
            "input_cost_per_second",
            "input_cost_per_image_token",
            "input_cost_per_token_above_x_tokens",
            "input_cost_per_token_above_0k_tokens",
            "output_cost_per_image_above_512_and_512_pixels",
            "search_context_cost_per_query",
            "max_tokens",
            "mode",
        ] {
            assert_eq!(member(name), Member::Other, "{name}");
        }
    }
}
