//! Damage to bytes and texts.

use crate::harness::caller::Dice;

/// One of several values.
pub fn one_of<'t, T: ?Sized>(dice: &mut Dice, values: &[&'t T]) -> &'t T {
    values[dice.below(values.len())]
}

/// Whether an event happens that happens in so many of a hundred cases.
pub fn happens(dice: &mut Dice, percent: usize) -> bool {
    dice.below(100) < percent
}

/// Random bytes, `most` at the most.
pub fn noise(dice: &mut Dice, most: usize) -> Vec<u8> {
    (0..dice.below(most + 1)).map(|_| dice.below(256) as u8).collect()
}

/// Changes bytes in one to three places: flips, cuts, repeats, insertions.
pub fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(3) {
        let from = dice.below(bytes.len() + 1);
        let to = (from + dice.below(16)).min(bytes.len());
        match dice.below(6) {
            0 if from < bytes.len() => bytes[from] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(from..to)),
            2 => bytes.truncate(from),
            3 => {
                let again = bytes[from..to].to_vec();
                drop(bytes.splice(from..from, again));
            }
            4 => drop(bytes.splice(from..to, noise(dice, 16))),
            _ => {
                let token: &[u8] =
                    one_of(dice, &[b"\0", b"\"", b"}", b"[{", b"\xff\xfe", b"\\u", b",", b"1e", b"\r\n"]);
                drop(bytes.splice(from..from, token.iter().copied()));
            }
        }
    }
}
