//! Where a text can be cut so that its parts count as much as the whole.
//!
//! Both encodings first cut text into pieces by a regular expression, left to right and
//! without looking back, and then each piece into tokens. So a place is safe where every
//! text has the end of a piece, and where what comes after it does not change the pieces
//! before it: those only look ahead over white space. The rules here hold for
//! o200k_base and cl100k_base alike, whose pieces are: letters with one character before
//! them, which is neither letter, digit nor line break, in o200k_base with a contraction
//! after them; up to three digits; punctuation with one space before it and line breaks,
//! in o200k_base slashes too, after it; white space.
//!
//! Letters are only those whose class is beyond doubt in every version of Unicode. Of all
//! other scripts nothing needs to be known, because they have spaces, or are cut where they have.

/// Whether every text can be cut between these two neighbours.
pub fn is_split(before: char, after: char) -> bool {
    if before.is_whitespace() {
        // It may belong to what comes after, and how much of it does depends on that.
        return false;
    }
    if after.is_whitespace() {
        // Punctuation takes the line breaks after it into its piece, and nothing takes other white space.
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
    /// Punctuation that begins no contraction and combines with nothing.
    Mark,
    Unsure,
}

fn class(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Digit,
        '\'' => Class::Unsure,
        '!'..='~' => Class::Mark,
        // Han, with extension A; hiragana; katakana; syllables of hangul.
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Class::Letter,
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{ac00}'..='\u{d7a3}' => Class::Letter,
        '、' | '。' | '「' | '」' | '『' | '』' | '《' | '》' | '【' | '】' => Class::Mark,
        '，' | '！' | '？' | '：' | '；' | '（' | '）' | '…' | '—' | '“' | '”' => Class::Mark,
        _ => Class::Unsure,
    }
}
