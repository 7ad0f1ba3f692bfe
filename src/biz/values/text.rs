//! Texts for people, which must show as what they are in lists, logs and exports.

/// The first and the last character of each range of deceptive characters.
pub const DECEPTIVE: [(char, char); 8] = [
    // Controls.
    ('\0', '\u{1F}'),
    ('\u{7F}', '\u{9F}'),
    // Marks, embeddings, overrides and isolates of the bidirectional algorithm (UAX 9).
    ('\u{061C}', '\u{061C}'),
    ('\u{200E}', '\u{200F}'),
    ('\u{202A}', '\u{202E}'),
    ('\u{2066}', '\u{2069}'),
    // The separators of lines and paragraphs.
    ('\u{2028}', '\u{2028}'),
    ('\u{2029}', '\u{2029}'),
];

/// Whether a character is a control, breaks a line, or changes the direction of the text. Such a
/// character can show a text in another order, or one line as two.
pub fn is_deceptive(letter: char) -> bool {
    DECEPTIVE.iter().any(|(first, last)| (*first..=*last).contains(&letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_every_script_are_plain_and_marks_are_not() {
        for plain in "aé中й שלום مرحبا 👍🏽 \u{200d}\u{a0}-_'\"\u{2060}".chars() {
            assert!(!is_deceptive(plain), "{plain:?}");
        }
        let deceptive = (0..=0x1f).chain(0x7f..=0x9f).chain([0x61c, 0x200e, 0x200f, 0x2028, 0x2029]);
        for code in deceptive.chain(0x202a..=0x202e).chain(0x2066..=0x2069) {
            assert!(is_deceptive(char::from_u32(code).unwrap()), "{code:x}");
        }
    }
}
