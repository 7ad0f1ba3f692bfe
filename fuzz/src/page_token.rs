//! Page tokens of lists. An accepted token is the token of an entry: the list gives it out again.

use billing_service::{biz::values::paging::PageStart, service::reports::paging::Page};

/// Bytes before the token: page number and page size.
const NUMBERS: usize = 8;

/// The input is a page number, a page size and the token.
pub fn run(data: &[u8]) {
    let Some((numbers, token)) = data.split_at_checked(NUMBERS) else { return };
    let (number, size) = numbers.split_at(NUMBERS / 2);
    let int = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let Ok(token) = std::str::from_utf8(token) else { return };
    let Ok(page) = Page::parse(int(number), int(size), token) else { return };
    assert!((1..=100).contains(&page.size));
    let PageStart::After(cursor) = page.start else {
        assert!(token.is_empty(), "{token:?} was taken for no token");
        return;
    };
    let entries = [&cursor, &cursor];
    let one = Page::parse(0, 1, "").expect("the first page");
    let (_, given_out) = one.cut(&entries, |entry| (entry.created_at, &entry.id));
    let again = Page::parse(0, 1, &given_out).expect("a token that was given out");
    assert_eq!(again.start, PageStart::After(cursor.clone()), "{token:?}");
}
