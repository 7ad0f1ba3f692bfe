use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, Zero};
use proptest::prelude::*;

use super::*;

fn yuan(text: &str) -> Money {
    text.parse().unwrap()
}

/// Prices by the names of their classes: `input 5, output 30`.
fn given(text: &str) -> Given {
    let mut given = Given::default();
    for price in text.split(", ").filter(|price| !price.is_empty()) {
        let (name, price) = price.split_once(' ').unwrap();
        let class = Class::ALL.into_iter().find(|class| class.name() == name).unwrap();
        given[class as usize] = Some(yuan(price));
    }
    given
}

fn list(base: &str, tiers: &[(u32, &str)], service_tiers: &[(&str, &str)]) -> PriceList {
    Draft {
        given: given(base),
        tiers: tiers.iter().map(|(above, prices)| (*above, given(prices))).collect(),
        service_tiers: service_tiers
            .iter()
            .map(|(name, factor)| (ServiceTier::from_stored(*name), factor.parse().unwrap()))
            .collect(),
        ..Draft::default()
    }
    .check()
    .unwrap()
}

const ONE_CALL: Work<'_> = Work { usage: NOTHING, calls: 1, service_tier: None };
const NOTHING: Usage = Usage {
    input_tokens: 0,
    output_tokens: 0,
    cached_input_tokens: 0,
    cache_write_tokens: 0,
    cache_write_1h_tokens: 0,
    audio_input_tokens: 0,
    reasoning_tokens: 0,
    audio_output_tokens: 0,
    images: 0,
};

fn work(usage: Usage) -> Work<'static> {
    Work { usage, ..ONE_CALL }
}

fn cost(list: &PriceList, usage: Usage) -> String {
    list.cost(work(usage), Factor::ONE).unwrap().to_string()
}

#[test]
fn all_tokens_of_a_call_cost_the_prices_of_its_tier() {
    let long = list("input 5, output 30", &[(272_000, "input 10, output 45")], &[]);
    assert_eq!(cost(&long, Usage::of_text(272_000, 1_000)), "1.39");
    assert_eq!(cost(&long, Usage::of_text(272_001, 1_000)), "2.76501");
    // The parts of the input count toward the bound.
    let cached = Usage { cached_input_tokens: 272_000, ..Usage::of_text(272_001, 0) };
    assert_eq!(cost(&long, cached), "2.72001");
    // The highest bound below the input applies, in whatever order they are given.
    let two = list("input 1, output 1", &[(200, "input 3"), (100, "input 2")], &[]);
    let of = |millions: u32| cost(&two, Usage::of_text(millions * 1_000_000, 0));
    assert_eq!(two.tiers().iter().map(|tier| tier.above_input_tokens).collect::<Vec<_>>(), [100, 200]);
    assert_eq!([of(0), of(1), of(4)], ["0", "3", "12"]);
    let at = |input: u32| cost(&two, Usage::of_text(input, 1_000_000));
    assert_eq!([at(100), at(101), at(200), at(201)], ["1.0001", "1.000202", "1.0004", "1.000603"]);
}

#[test]
fn a_part_of_the_input_or_the_output_costs_its_own_price() {
    let written = list("input 5, cache_write 6.25, output 25", &[], &[]);
    let usage = Usage { cache_write_tokens: 159_217, ..Usage::of_text(159_223, 2_745) };
    assert_eq!(cost(&written, usage), "1.063761");
    let cached = list("input 5, cached_input 0.5, output 25", &[], &[]);
    let usage = Usage { cached_input_tokens: 86_272, ..Usage::of_text(342 + 86_272, 44) };
    assert_eq!(cost(&cached, usage), "0.045946");
    let million = 1_000_000;
    let all = Usage {
        input_tokens: 5 * million,
        output_tokens: 3 * million,
        cached_input_tokens: million,
        cache_write_tokens: million,
        cache_write_1h_tokens: million,
        audio_input_tokens: million,
        reasoning_tokens: million,
        audio_output_tokens: million,
        images: 2,
    };
    let classes = "input 1, cached_input 2, cache_write 4, cache_write_1h 8, audio_input 16, output 32, reasoning 64, \
                   audio_output 128, request 256, image 512";
    assert_eq!(cost(&list(classes, &[], &[]), all), (255 + 256 + 2 * 512).to_string());
}

/// Costs that were computed by hand.
#[test]
fn calls_at_bounds_with_parts_and_factors_cost_their_exact_sum() {
    let two = list("input 5, output 30", &[(100, "input 2"), (1_000, "output 45")], &[]);
    let long = list("input 5, cached_input 0.5, output 30", &[(272_000, "input 10, output 45")], &[]);
    let written = list("input 5, cached_input 0.5, cache_write 6.25, cache_write_1h 10, output 25", &[], &[]);
    let batched = list("input 1.25, output 10", &[], &[("batch", "0.5")]);
    // The model of docs/api.md with two tiers.
    let wide = list(
        "input 15, cached_input 1.5, cache_write 18.75, cache_write_1h 30, output 60",
        &[
            (128_000, "input 20, cached_input 2, cache_write 25, cache_write_1h 40, output 80"),
            (272_000, "input 30, cached_input 3, cache_write 37.5, cache_write_1h 60, output 90"),
        ],
        &[("default", "1"), ("batch", "0.5")],
    );
    let text = Usage::of_text;
    let parts = |input, cached_input_tokens, cache_write_tokens, output| Usage {
        cached_input_tokens,
        cache_write_tokens,
        ..text(input, output)
    };
    let of_all = Usage { cache_write_1h_tokens: 100, ..parts(10 + 1_000 + 200 + 100, 1_000, 200, 7) };
    for (list, usage, calls, tier, multiplier, right) in [
        (&two, text(1_000, 10), 1, "", "1", "0.0023"),
        // The higher tier has no input price, so that of the base counts and not that of the lower tier.
        (&two, text(1_001, 10), 1, "", "1", "0.005455"),
        (&long, parts(272_001, 272_000, 0, 0), 1, "", "1", "2.72001"),
        (&written, of_all, 1, "", "1", "0.002975"),
        (&batched, text(3, 1), 1, "batch", "1.2", "0.000008"),
        (&long, text(300_000, 0), 3, "", "1", "3"),
        (&long, text(100_000, 0), 1, "", "1", "0.5"),
        (&wide, parts(128_000, 100_000, 20_000, 1_000), 1, "default", "1", "0.705"),
        (&wide, parts(200_000, 150_000, 20_000, 1_000), 1, "", "1", "1.48"),
        (&wide, parts(300_000, 250_000, 20_000, 1_000), 1, "", "1", "2.49"),
        (&wide, parts(300_000, 250_000, 20_000, 1_000), 1, "batch", "1", "1.245"),
    ] {
        let tier = ServiceTier::parse_optional("service_tier", tier).unwrap();
        let work = Work { usage, calls, service_tier: tier.as_ref() };
        let cost = list.cost(work, multiplier.parse().unwrap()).unwrap();
        assert_eq!(cost.to_string(), right, "{list} {usage:?}");
    }
    let tiny = list("input 0.01, output 1", &[], &[]);
    for (multiplier, cost, amounts) in [("1", 1, &[("input", 0), (ROUNDING, 1)][..]), ("0", 0, &[("input", 0)])] {
        let (work, multiplier) = (work(text(1, 0)), multiplier.parse().unwrap());
        assert_eq!(tiny.cost(work, multiplier), Ok(Money::from_micros(cost)));
        let lines = tiny.lines(work, multiplier).unwrap();
        assert_eq!(lines.iter().map(|line| (line.class, line.amount.micros())).collect::<Vec<_>>(), amounts);
    }
}

#[test]
fn a_class_without_a_price_follows_another_one() {
    let million = 1_000_000;
    let part = |change: fn(&mut Usage)| {
        let mut usage = Usage::of_text(million, million);
        change(&mut usage);
        usage
    };
    let parts: [fn(&mut Usage); 6] = [
        |usage| usage.cached_input_tokens = usage.input_tokens,
        |usage| usage.cache_write_tokens = usage.input_tokens,
        |usage| usage.cache_write_1h_tokens = usage.input_tokens,
        |usage| usage.audio_input_tokens = usage.input_tokens,
        |usage| usage.reasoning_tokens = usage.output_tokens,
        |usage| usage.audio_output_tokens = usage.output_tokens,
    ];
    let of = |list: PriceList| parts.map(|change| cost(&list, part(change)));
    assert_eq!(of(list("input 1, output 10", &[], &[])), ["11"; 6]);
    let written = list("input 1, cache_write 3, output 10", &[], &[]);
    assert_eq!(of(written), ["11", "13", "13", "11", "11", "11"]);
    // In a tier, a class follows the classes of the tier.
    let tiered = list("input 1, cached_input 0.5, output 10", &[(1, "input 2")], &[]);
    assert_eq!(of(tiered), ["12"; 6]);
    let images = list("input 1, output 1", &[(1, "input 2")], &[]);
    assert_eq!(cost(&images, Usage { images: 7, ..NOTHING }), "0");
    let called = list("input 1, output 1, request 0.5, image 2", &[(1, "image 3")], &[]);
    assert_eq!(cost(&called, Usage { images: 7, ..NOTHING }), "14.5");
    assert_eq!(cost(&called, Usage { images: 7, ..Usage::of_text(million, 0) }), "22.5");
}

#[test]
fn a_service_tier_and_a_plan_multiply_the_cost() {
    let free = list("input 0, output 0", &[], &[]);
    let dear = list("input 15, cached_input 4, output 60", &[], &[("batch", "0.5"), ("priority", "2")]);
    let usage = Usage::of_text(3_000, 1_000);
    let of = |list: &PriceList, tier: &str, multiplier: &str| {
        let tier = ServiceTier::parse_optional("service_tier", tier).unwrap();
        let work = Work { service_tier: tier.as_ref(), ..work(usage) };
        list.cost(work, multiplier.parse().unwrap()).map(|cost| cost.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(cost(&list("input 3, output 12", &[], &[]), usage), "0.021");
    for (tier, multiplier, right) in [
        ("", "1", "0.105"),
        ("batch", "1", "0.0525"),
        ("batch", "1.2", "0.063"),
        ("priority", "1", "0.21"),
        ("", "0", "0"),
        ("", "0.000001", "0.000001"),
    ] {
        assert_eq!(of(&dear, tier, multiplier).unwrap(), right, "{tier} {multiplier}");
    }
    assert_eq!(of(&free, "", "1.2").unwrap(), "0");
    let refused = "service_tier: \"flex\" is none of this model (batch, priority)";
    assert_eq!(of(&dear, "flex", "1").unwrap_err(), refused);
    assert_eq!(of(&free, "batch", "1").unwrap_err(), "service_tier: \"batch\" is none of this model (none)");
}

#[test]
fn the_sum_is_rounded_once_and_halves_go_up() {
    // Three times 0.4 millionths. Each alone would be rounded to zero.
    let three = list("input 0.4, cached_input 0.4, output 0.4", &[], &[]);
    assert_eq!(cost(&three, Usage { cached_input_tokens: 1, ..Usage::of_text(2, 1) }), "0.000001");
    assert_eq!(cost(&list("input 0.5, output 0", &[], &[]), Usage::of_text(1, 0)), "0.000001");
    assert_eq!(cost(&list("input 0, output 1.499999", &[], &[]), Usage::of_text(0, 1)), "0.000001");
    assert_eq!(cost(&list("input 0, output 1.5", &[], &[]), Usage::of_text(0, 1)), "0.000002");
    // A cost above zero is at least a millionth.
    assert_eq!(cost(&list("input 0.000001, output 0", &[], &[]), Usage::of_text(1, 0)), "0.000001");
    assert_eq!(cost(&list("input 0, output 1", &[], &[]), Usage::of_text(9, 0)), "0");
}

#[test]
fn a_cost_beyond_the_largest_amount_is_an_error() {
    let dear = list("input 999999999.999999, output 999999999.999999, image 999999999.999999", &[], &[]);
    let of = |usage, factor: Factor| dear.cost(work(usage), factor);
    assert_eq!(of(Usage::of_text(1_000_000, 0), Factor::ONE), Ok(Money::MAX));
    for usage in
        [Usage::of_text(1_000_000, 1), Usage::of_text(u32::MAX, u32::MAX), Usage { images: u32::MAX, ..NOTHING }]
    {
        for factor in [Factor::ONE, Factor::MAX] {
            assert_eq!(of(usage, factor).unwrap_err().field, "usage");
        }
        assert_eq!(of(usage, "0".parse().unwrap()), Ok(Money::ZERO));
    }
    let tiny = "0.000001".parse().unwrap();
    assert_eq!(of(Usage { images: 1_000_000, ..NOTHING }, tiny), Ok(Money::MAX));
}

#[test]
fn prices_that_make_no_sense_are_refused_by_name() {
    let refused = |draft: Draft| draft.check().unwrap_err().field;
    let good = || Draft { given: given("input 1, output 1"), ..Draft::default() };
    assert!(good().check().unwrap().is_flat());
    assert_eq!(refused(Draft { given: given("input 1"), ..good() }), "output");
    assert_eq!(refused(Draft { given: given("output 1"), ..good() }), "input");
    assert_eq!(refused(Draft { given: given("input 1, output 1, image -1"), ..good() }), "image");
    assert_eq!(refused(Draft { tiers: vec![(0, given("input 1"))], ..good() }), "tiers");
    assert_eq!(refused(Draft { tiers: vec![(5, given("")), (5, given(""))], ..good() }), "tiers");
    assert_eq!(refused(Draft { tiers: vec![(5, given("image -1"))], ..good() }), "image");
    assert_eq!(refused(Draft { tiers: (1..=17).map(|above| (above, given(""))).collect(), ..good() }), "tiers");
    let alias = |number| Alias::parse(&format!("a{number}")).unwrap();
    assert_eq!(refused(Draft { aliases: (0..65).map(alias).collect(), ..good() }), "aliases");
}

#[test]
fn lines_say_the_class_the_price_and_the_factor() {
    let prices = list(
        "input 5, cache_write 6.25, output 25, request 0.01, image 0.1",
        &[(200_000, "input 10, output 45")],
        &[("batch", "0.5")],
    );
    let batch = ServiceTier::from_stored("batch");
    let usage = Usage { cache_write_tokens: 3, images: 2, ..Usage::of_text(4, 2) };
    let work = Work { usage, calls: 1, service_tier: Some(&batch) };
    let lines = |work, multiplier: &str| {
        let multiplier = multiplier.parse().unwrap();
        let lines = prices.lines(work, multiplier).unwrap();
        assert_eq!(lines.iter().map(|line| line.amount).sum::<Money>(), prices.cost(work, multiplier).unwrap());
        let text = |line: &PriceLine| {
            format!("{} {} x {} x {} = {}", line.class, line.units, line.price, line.factor, line.amount)
        };
        lines.iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(work, "1.2"),
        [
            "input 1 x 5 x 0.6 = 0.000003",
            "cache_write 3 x 6.25 x 0.6 = 0.000011",
            "output 2 x 25 x 0.6 = 0.00003",
            "request 1 x 0.01 x 0.6 = 0.006",
            "image 2 x 0.1 x 0.6 = 0.12",
        ]
    );
    let tiered = Work { usage: Usage::of_text(200_001, 1), ..ONE_CALL };
    assert_eq!(
        lines(tiered, "1"),
        ["input 200001 x 10 x 1 = 2.00001", "output 1 x 45 x 1 = 0.000045", "request 1 x 0.01 x 1 = 0.01"]
    );
    // Two halves of a millionth are one.
    let halves = list("input 0.5, cached_input 0.5, output 1", &[], &[]);
    let usage = Usage { cached_input_tokens: 1, ..Usage::of_text(2, 0) };
    let lines = halves.lines(self::work(usage), Factor::ONE).unwrap();
    assert_eq!(lines.iter().map(|line| line.amount.micros()).collect::<Vec<_>>(), [1, 1, -1]);
    assert_eq!(lines[2].class, ROUNDING);
}

/// A price: often none, small, or the largest one.
fn price() -> impl Strategy<Value = Option<Money>> {
    prop_oneof![
        2 => Just(None),
        6 => (0i64..100_000_000).prop_map(|micros| Some(Money::from_micros(micros))),
        1 => (0i64..10).prop_map(|micros| Some(Money::from_micros(micros))),
        1 => Just(Some(Money::MAX)),
    ]
}

fn prices() -> impl Strategy<Value = Given> {
    proptest::array::uniform10(price())
}

fn draft() -> impl Strategy<Value = Draft> {
    let required = (0i64..100_000_000, 0i64..100_000_000);
    let tiers = proptest::collection::btree_map(1u32..3_000, prices(), 0..4);
    let factors = proptest::collection::btree_map("batch|flex|priority", 0u32..3_000_000, 0..3);
    (prices(), required, tiers, factors).prop_map(|(mut given, (input, output), tiers, factors)| {
        given[Class::Input as usize] = Some(Money::from_micros(input));
        given[Class::Output as usize] = Some(Money::from_micros(output));
        let factor = |millionths: u32| Money::from_micros(millionths.into()).to_string().parse().unwrap();
        Draft {
            given,
            tiers: tiers.into_iter().collect(),
            service_tiers: factors
                .into_iter()
                .map(|(name, millionths)| (ServiceTier::from_stored(name), factor(millionths)))
                .collect(),
            ..Draft::default()
        }
    })
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let part = || prop_oneof![3 => 0u32..1_000, 1 => 0u32..1_000_000];
    (proptest::array::uniform5(part()), proptest::array::uniform3(part()), 0u32..5).prop_map(
        |(input, output, images)| Usage {
            input_tokens: input.iter().sum(),
            cached_input_tokens: input[1],
            cache_write_tokens: input[2],
            cache_write_1h_tokens: input[3],
            audio_input_tokens: input[4],
            output_tokens: output.iter().sum(),
            reasoning_tokens: output[1],
            audio_output_tokens: output[2],
            images,
        },
    )
}

/// The cost by the words of the rule, with rationals of any size. `None` for a service tier that the
/// model does not have.
fn reference(draft: &Draft, usage: &Usage, calls: u32, tier: Option<&str>, multiplier: u32) -> Option<BigRational> {
    let ratio = |numerator: i64, denominator: i64| BigRational::new(BigInt::from(numerator), BigInt::from(denominator));
    let applied = draft.tiers.iter().filter(|(above, _)| usage.input_tokens > *above).max_by_key(|(above, _)| *above);
    let base = |class: &str| draft.given[Class::ALL.iter().position(|known| known.name() == class).unwrap()];
    let own = |class: &str| match applied {
        None => base(class),
        Some((_, given)) => {
            let in_tier = given[Class::ALL.iter().position(|known| known.name() == class).unwrap()];
            let of_base = if ["input", "output", "request", "image"].contains(&class) { base(class) } else { None };
            in_tier.or(of_base)
        }
    };
    let arrows = [
        ("input", ""),
        ("cached_input", "input"),
        ("cache_write", "input"),
        ("cache_write_1h", "cache_write"),
        ("audio_input", "input"),
        ("output", ""),
        ("reasoning", "output"),
        ("audio_output", "output"),
        ("request", ""),
        ("image", ""),
    ];
    let price = |class: &str| {
        let mut class = class;
        loop {
            if let Some(price) = own(class) {
                return ratio(price.micros(), 1_000_000);
            }
            let (_, next) = arrows.iter().find(|(name, _)| *name == class).unwrap();
            if next.is_empty() {
                return BigRational::zero();
            }
            class = next;
        }
    };
    let special_input = [
        ("cached_input", usage.cached_input_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("cache_write_1h", usage.cache_write_1h_tokens),
        ("audio_input", usage.audio_input_tokens),
    ];
    let special_output = [("reasoning", usage.reasoning_tokens), ("audio_output", usage.audio_output_tokens)];
    let mut per_million = BigRational::zero();
    for (whole, name, special) in
        [(usage.input_tokens, "input", &special_input[..]), (usage.output_tokens, "output", &special_output[..])]
    {
        let mut rest = i64::from(whole);
        for (class, tokens) in special {
            per_million += price(class) * ratio((*tokens).into(), 1);
            rest -= i64::from(*tokens);
        }
        per_million += price(name) * ratio(rest, 1);
    }
    let plain = price("request") * ratio(calls.into(), 1) + price("image") * ratio(usage.images.into(), 1);
    let factor = match tier {
        None => ratio(1, 1),
        Some(name) => {
            let known = draft.service_tiers.iter().find(|(known, _)| known.as_str() == name);
            ratio(known?.1.millionths().into(), 1_000_000)
        }
    };
    Some((per_million / ratio(1_000_000, 1) + plain) * factor * ratio(multiplier.into(), 1_000_000))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_call_costs_the_nearest_millionth_of_the_exact_sum(
        draft in draft(),
        usage in any_usage(),
        calls in 1u32..4,
        tier in prop_oneof![3 => Just(None), 2 => "batch|flex|priority".prop_map(Some)],
        multiplier in prop_oneof![2 => Just(1_000_000u32), 1 => 0u32..3_000_000, 1 => 0u32..10],
    ) {
        let list = draft.clone().check().unwrap();
        let named = tier.as_deref().map(ServiceTier::from_stored);
        let work = Work { usage, calls, service_tier: named.as_ref() };
        let factor: Factor = Money::from_micros(multiplier.into()).to_string().parse().unwrap();
        let cost = list.cost(work, factor);
        let Some(exact) = reference(&draft, &usage, calls, tier.as_deref(), multiplier) else {
            prop_assert_eq!(cost.unwrap_err().field, "service_tier");
            return Ok(());
        };
        let million = BigRational::from_integer(BigInt::from(1_000_000));
        let half = BigRational::new(BigInt::from(1), BigInt::from(2));
        let nearest = (&exact * &million + half).floor().to_integer();
        let least = BigInt::from(u8::from(exact.is_positive()));
        let expected = nearest.max(least);
        match cost {
            Ok(cost) => {
                prop_assert_eq!(BigInt::from(cost.micros()), expected);
                let lines = list.lines(work, factor).unwrap();
                prop_assert_eq!(lines.iter().map(|line| line.amount).sum::<Money>(), cost);
                let narrowed = list.narrowed(work);
                prop_assert_eq!(narrowed.cost(work, factor), Ok(cost));
                let shown = |lines: Vec<PriceLine>| {
                    lines.into_iter().map(|line| (line.class, line.units, line.price, line.amount)).collect::<Vec<_>>()
                };
                prop_assert_eq!(shown(narrowed.lines(work, factor).unwrap()), shown(lines));
            }
            Err(refused) => {
                prop_assert_eq!(refused.field, "usage");
                prop_assert!(expected > BigInt::from(Money::MAX.micros()));
            }
        }
    }
}
