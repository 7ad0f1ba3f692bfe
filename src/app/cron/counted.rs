//! Numbers of things in the lines of a report.

use std::fmt::Display;

/// `1 user`, or `2 users`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    agreeing(number, thing, &format!("{thing}s"))
}

/// The number with the words for one thing, or for none or several.
pub(super) fn agreeing<N: Display + PartialEq + From<u8>>(number: N, one: &str, several: &str) -> String {
    let words = if number == N::from(1) { one } else { several };
    format!("{number} {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular_and_none_is_plural() {
        assert_eq!([0_u64, 1, 2].map(|users| counted(users, "user")), ["0 users", "1 user", "2 users"]);
        assert_eq!(
            [1, 11].map(|left: usize| agreeing(left, "retry waits", "retries wait")),
            ["1 retry waits", "11 retries wait"]
        );
    }
}
