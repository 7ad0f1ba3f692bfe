//! The bodies of the fuzz targets on the corpus of the repository. `fuzz/` is a crate of its own, so that no build
//! of the service compiles libFuzzer; these tests keep the bodies and their corpus valid.

use std::{fs, panic::catch_unwind, path::Path};

use rstest::rstest;

use crate::{
    harness::caller::Dice,
    malformed::{damage::damage, setting},
};

#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/csv_field.rs"]
mod csv_field;
#[path = "../../fuzz/src/go_dsn.rs"]
mod go_dsn;
#[path = "../../fuzz/src/grpc_frames.rs"]
mod grpc_frames;
#[path = "../../fuzz/src/json_body.rs"]
mod json_body;
#[path = "../../fuzz/src/jwt.rs"]
mod jwt;
#[path = "../../fuzz/src/page_token.rs"]
mod page_token;
#[path = "../../fuzz/src/signature.rs"]
mod signature;

const TARGETS: [&str; 8] =
    ["config", "csv_field", "go_dsn", "grpc_frames", "json_body", "jwt", "page_token", "signature"];
/// Damaged inputs of each target, unless BILLING_DAMAGED names another number. They are the same in each run, unless
/// BILLING_MALFORMED_SEED differs. libFuzzer finds more: it knows the branches that an input takes.
const DAMAGED: usize = 500;
/// Most bytes of the corpus of a target: it is in the repository.
const MAX_CORPUS: usize = 64 * 1024;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

#[rstest]
#[case("config", config::run)]
#[case("csv_field", csv_field::run)]
#[case("go_dsn", go_dsn::run)]
#[case("grpc_frames", grpc_frames::run)]
#[case("json_body", json_body::run)]
#[case("jwt", jwt::run)]
#[case("page_token", page_token::run)]
#[case("signature", signature::run)]
fn the_corpus_of_a_fuzz_target_breaks_no_promise_damaged_or_not(#[case] target: &str, #[case] run: fn(&[u8])) {
    assert!(TARGETS.contains(&target));
    let inputs = fs::read_dir(root().join("corpus").join(target)).unwrap();
    let mut inputs: Vec<Vec<u8>> = inputs.map(|input| fs::read(input.unwrap().path()).unwrap()).collect();
    // The order of a folder differs between machines.
    inputs.sort();
    assert!(inputs.len() > 2, "the corpus has moved");
    assert!(inputs.iter().map(Vec::len).sum::<usize>() <= MAX_CORPUS, "keep the corpus of {target} small");
    let keeps_promises = |input: &[u8]| {
        let broken = catch_unwind(|| run(input)).is_err();
        assert!(!broken, "{target}: {}", input.escape_ascii());
    };
    inputs.iter().for_each(|input| keeps_promises(input));
    let mut dice = Dice(setting("BILLING_MALFORMED_SEED", 1) as u64);
    for _ in 0..setting("BILLING_DAMAGED", DAMAGED) {
        let mut input = inputs[dice.below(inputs.len())].clone();
        damage(&mut dice, &mut input);
        keeps_promises(&input);
    }
}

#[test]
fn every_fuzz_target_is_run_here() {
    let targets = fs::read_dir(root().join("fuzz_targets")).unwrap();
    for target in targets {
        let file = target.unwrap().file_name().into_string().unwrap();
        let name = file.trim_end_matches(".rs");
        assert!(TARGETS.contains(&name), "{name} is not in tests/it/fuzz_targets.rs");
    }
}
