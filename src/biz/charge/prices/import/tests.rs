use serde_json::json;

use super::*;
use crate::biz::charge::prices::json as price_json;

fn plain() -> Conversion {
    Conversion { rate: Decimal::ONE, factor: Decimal::ONE }
}

fn of(entry: Value) -> Result<Value, String> {
    let mut file = read(&json!({"m": entry}).to_string(), plain()).unwrap();
    match file.models.pop_first() {
        Some((_, prices)) => Ok(price_json::whole(&prices)),
        None => Err(file.skipped.pop().unwrap().1),
    }
}

#[test]
fn costs_of_a_token_become_prices_of_a_million() {
    let entry = json!({
        "input_cost_per_token": 1.25e-06,
        "cache_read_input_token_cost": 3.125e-07,
        "cache_creation_input_token_cost": "2e-6",
        "cache_creation_input_token_cost_above_1hr": 3e-06,
        "input_cost_per_audio_token": 7e-07,
        "output_cost_per_token": 1e-05,
        "output_cost_per_reasoning_token": 1.2e-05,
        "output_cost_per_audio_token": null,
        "input_cost_per_request": 0.005,
        "output_cost_per_image": 0.039,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "input_cost_per_token_batches": 6.25e-07,
        "output_cost_per_token_batches": 5e-06,
        "input_cost_per_token_priority": 2.5e-06,
        "max_input_tokens": 1048576,
        "max_output_tokens": 65535,
        "max_tokens": 65535,
        "litellm_provider": "x",
    });
    let expected = json!({
        "prices": {
            "input": "1.25", "cached_input": "0.3125", "cache_write": "2", "cache_write_1h": "3", "audio_input": "0.7",
            "output": "10", "reasoning": "12", "request": "0.005", "image": "0.039",
        },
        "tiers": [{
            "above_input_tokens": 200000,
            "prices": {
                "input": "2.5", "cached_input": "0.3125", "cache_write": "2", "cache_write_1h": "3",
                "audio_input": "0.7", "output": "15", "reasoning": "12", "request": "0.005", "image": "0.039",
            },
        }],
        "service_tiers": {"batch": "0.5", "priority": "2"},
        "max_tokens": 1114111,
    });
    assert_eq!(of(entry), Ok(expected));
}

#[test]
fn a_rate_and_a_markup_multiply_every_price() {
    let conversion = Conversion { rate: Decimal::new(71, 1), factor: Decimal::new(12, 1) };
    for (class, cost, price) in [
        (Class::Input, Decimal::new(3, 6), "25.56"),
        (Class::Image, Decimal::new(4, 2), "0.3408"),
        // Half a millionth goes up, and nothing above zero becomes zero.
        (Class::Image, Decimal::new(1, 9), "0.000001"),
        (Class::Image, Decimal::ZERO, "0"),
    ] {
        assert_eq!(conversion.price(class, cost), Some(price.parse().unwrap()), "{cost}");
    }
    assert_eq!(conversion.price(Class::Input, Decimal::from(1_000_000)), None);
}

#[test]
fn an_entry_without_usable_prices_is_skipped_with_the_reason() {
    for (entry, why) in [
        (json!({"mode": "chat"}), "has no price of tokens, calls or images"),
        (json!({"mode": "chat", "input_cost_per_second": 1}), "has no price of tokens, calls or images"),
        (json!({"mode": "chat", "input_cost_per_token": 1e-6}), "has no output_cost_per_token"),
        (json!({"output_cost_per_token": 1e-6}), "has no input_cost_per_token"),
        (json!({"input_cost_per_token": -1e-6, "output_cost_per_token": 0}), "input_cost_per_token is no cost: -1e-6"),
        (
            json!({"input_cost_per_token": "dear", "output_cost_per_token": 0}),
            "input_cost_per_token is no cost: \"dear\"",
        ),
        (
            json!({"mode": "image_generation", "input_cost_per_token": 5e-6, "output_cost_per_image_token": 4e-5}),
            "has output_cost_per_image_token, which has no class",
        ),
        (json!(7), "is no entry of a model"),
        (json!({"input_cost_per_token": 9e9, "output_cost_per_token": 0}), "the price of input is too large"),
    ] {
        assert_eq!(of(entry), Err(why.into()));
    }
    let embedding = of(json!({"mode": "embedding", "input_cost_per_token": 1e-7})).unwrap();
    assert_eq!(embedding["prices"], json!({"input": "0.1", "output": "0"}));
    let image = of(json!({"mode": "image_generation", "input_cost_per_image": 0.04})).unwrap();
    assert_eq!(image["prices"], json!({"input": "0", "output": "0", "image": "0.04"}));
    let zero = json!({"mode": "embedding", "input_cost_per_token": 1e-7, "output_cost_per_second": 0.0});
    assert_eq!(of(zero).unwrap()["prices"], json!({"input": "0.1", "output": "0"}));
    for bad in ["", "[]", "7"] {
        assert_eq!(read(bad, plain()).unwrap_err().field, "file");
    }
}

#[test]
fn service_tiers_without_a_common_factor_take_the_largest() {
    let entry = json!({"m": {
        "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6,
        "input_cost_per_token_priority": 4e-6, "output_cost_per_token_priority": 12e-6,
        "input_cost_per_token_flex": 1e-6,
        "output_cost_per_token_above_200k_tokens_flex": 1e-6,
    }});
    let file = read(&entry.to_string(), plain()).unwrap();
    let prices = file.models.values().next().unwrap();
    let tiers: Vec<_> = prices.service_tiers().iter().map(|(name, factor)| format!("{name} {factor}")).collect();
    assert_eq!(tiers, ["flex 0.5", "priority 2"]);
    assert_eq!(
        file.notes,
        [
            "m: the costs of flex have no common factor; the largest one, 0.5, is used",
            "m: the costs of priority have no common factor; the largest one, 2, is used"
        ]
    );
    assert!(file.ignored.is_empty());
}

#[test]
fn service_tiers_count_above_every_bound_of_the_input() {
    let entry = json!({"m": {
        "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6,
        "input_cost_per_token_above_272k_tokens": 4e-6, "output_cost_per_token_above_272k_tokens": 12e-6,
        "cache_read_input_token_cost": 2e-7, "cache_read_input_token_cost_above_272k_tokens": 4e-7,
        // Twice the costs everywhere, also of a class that follows the input.
        "input_cost_per_token_priority": 4e-6, "output_cost_per_token_priority": 16e-6,
        "input_cost_per_token_above_272k_tokens_priority": 8e-6,
        "output_cost_per_token_above_272k_tokens_priority": 24e-6,
        "cache_read_input_token_cost_above_272k_tokens_priority": 8e-7,
        "cache_creation_input_token_cost_above_272k_tokens_priority": 8e-6,
        // Half of the costs, but not above the bound.
        "input_cost_per_token_flex": 1e-6, "output_cost_per_token_above_272k_tokens_flex": 9e-6,
        "input_cost_per_token_ultrafast": 12e-6, "output_cost_per_token_ultrafast": 48e-6,
        "input_cost_per_token_above_272k_tokens_balanced": 5e-6,
        // Costs of nothing, and costs that only exist in a service tier.
        "input_cost_per_request_batches": 0.0, "output_cost_per_image_flex": 0.5,
        "input_cost_per_request_priority": null,
    }});
    let file = read(&entry.to_string(), plain()).unwrap();
    let prices = file.models.values().next().unwrap();
    let tiers: Vec<_> = prices.service_tiers().iter().map(|(name, factor)| format!("{name} {factor}")).collect();
    assert_eq!(tiers, ["balanced 1.25", "flex 0.75", "priority 2", "ultrafast 6"]);
    assert_eq!(
        file.notes,
        [
            "m: the costs of flex for image have no base cost and are left out",
            "m: the costs of flex have no common factor; the largest one, 0.75, is used"
        ]
    );
    assert!(file.ignored.is_empty());
}

#[test]
fn costs_without_a_class_are_noted_by_model() {
    let tokens = json!({
        "mode": "image_generation",
        "input_cost_per_token": 5e-6,
        "output_cost_per_token": 0,
        "output_cost_per_image_token": 4e-5,
        "input_cost_per_second": 0,
        "input_cost_per_character": null,
    });
    let file = read(&json!({"m": tokens}).to_string(), plain()).unwrap();
    assert_eq!(file.models.len(), 1);
    assert_eq!(file.notes, ["m: these costs have no class and are left out: output_cost_per_image_token"]);
}

/// Fifty invented models in the published shape. Every member is a cost or is named as ignored.
#[test]
fn a_list_of_the_published_shape_is_read() {
    let text = include_str!("../../../../../tests/fixtures/model_prices.json");
    let file = read(text, plain()).unwrap();
    assert_eq!((file.models.len(), file.skipped.len()), (46, 4), "{:?}", file.skipped);
    let Value::Object(entries) = serde_json::from_str(text).unwrap() else { panic!() };
    assert_eq!(entries.len(), 51, "with the sample");
    for (name, entry) in &entries {
        for member in entry.as_object().unwrap().keys().filter(|_| name != SAMPLE) {
            let is_read = matches!(members::member(member), Member::Cost(_)) || USED.contains(&member.as_str());
            let is_named = is_read != file.ignored.contains_key(member);
            assert!(is_named, "{name} {member}");
        }
    }
    let of = |name: &str| price_json::whole(&file.models[&ModelName::from_stored(name)]);
    let tiers = |name: &str| of(name)["tiers"].clone();
    assert_eq!(of("aurora-large-long")["service_tiers"], json!({"priority": "2", "batch": "0.5"}));
    let of_1h = [
        &of("aurora-large-long")["prices"]["cache_write_1h"],
        &tiers("aurora-large-long")[0]["prices"]["cache_write_1h"],
    ];
    assert_eq!(of_1h, [&json!("2.5"), &json!("5")]);
    assert_eq!(tiers("borealis-large-long")[0]["above_input_tokens"], 272_000);
    assert_eq!(tiers("cascade-large-long")[0]["above_input_tokens"], 128_000);
    assert_eq!(tiers("cascade-large-long").as_array().unwrap().len(), 2);
    assert_eq!(of("borealis-large-long")["service_tiers"], json!({"balanced": "0.8", "flex": "0.5", "ultrafast": "4"}));
    let notes = file.notes.iter().filter(|note| !note.contains("-thinker"));
    assert_eq!(
        notes.collect::<Vec<_>>(),
        [
            "aurora-voice: these costs have no class and are left out: input_cost_per_image_token, output_cost_per_image_token"
        ]
    );
}
