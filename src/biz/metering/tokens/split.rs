//! The positions at which a text can be cut so that its parts have as many tokens as the whole.
//!
//! Both encodings first cut text into pieces by a regular expression, from left to right and
//! without looking back, and then cut each piece into tokens. A cut is safe if a piece ends there
//! in every text, and if the text after it does not change the pieces before it. Pieces look
//! ahead only over white space.
//!
//! The rules here hold for o200k_base and for cl100k_base. Their pieces are:
//! - letters, with one optional character before them that is no letter, digit or line break; in
//!   o200k_base also with a contraction after them;
//! - up to three digits;
//! - punctuation, with one optional space before it, and with line breaks after it; in o200k_base
//!   also with slashes after it;
//! - white space.
//!
//! Only characters whose class is the same in every version of Unicode count as letters. Other
//! scripts need no rule: their texts are cut at spaces.

/// Whether every text can be cut between these two adjacent characters.
pub fn is_split(before: char, after: char) -> bool {
    if before.is_whitespace() {
        // White space may belong to the next piece, and how much of it depends on that piece.
        return false;
    }
    if after.is_whitespace() {
        // Line breaks belong to the piece of the punctuation before them. No other piece takes the
        // white space after it.
        return !matches!(after, '\r' | '\n') || matches!(class(before), Class::Letter | Class::Digit);
    }
    matches!(
        (class(before), class(after)),
        (Class::Letter, Class::Digit | Class::Mark) | (Class::Digit, Class::Letter | Class::Mark)
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    /// Punctuation that starts no contraction and combines with no other character.
    Mark,
    Unsure,
}

fn class(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Digit,
        '\'' => Class::Unsure,
        '!'..='~' => Class::Mark,
        // Han with extension A, hiragana, katakana, and hangul syllables.
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Class::Letter,
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{ac00}'..='\u{d7a3}' => Class::Letter,
        '、' | '。' | '「' | '」' | '『' | '』' | '《' | '》' | '【' | '】' => Class::Mark,
        '，' | '！' | '？' | '：' | '；' | '（' | '）' | '…' | '—' | '“' | '”' => Class::Mark,
        _ => Class::Unsure,
    }
}
