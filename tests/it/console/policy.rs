//! Every page loads nothing from elsewhere, executes nothing of its own text, and is small.

use super::{PAGES, history, open, visitor::Visitor};
use crate::harness::Sqlite;

/// Most bytes of a page.
const MAX_PAGE: usize = 100_000;

#[tokio::test]
async fn every_page_has_a_strict_policy_and_nothing_from_elsewhere() {
    let service = open(Sqlite).await;
    history(&service, "u").await;
    let visitor = Visitor::of(&service);
    let mut pages: Vec<String> = PAGES.map(str::to_owned).to_vec();
    pages.extend(
        ["/console/usage?by=api_key", "/console/top-ups/none", "/console/records?service=x"].map(str::to_owned),
    );
    for path in pages {
        let page = visitor.get(&path).await;
        let policy = page.header("content-security-policy");
        assert_eq!(
            policy,
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; \
             frame-ancestors 'none'; base-uri 'none'",
            "{path}"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(page.header(name), value, "{path}");
        }
        assert!(page.html.len() < MAX_PAGE, "{path} has {} bytes", page.html.len());
        for inline in
            [" style=", "<style", " onclick=", "javascript:", "<script>", "http://", "https://", "@import", "url("]
        {
            assert!(!page.html.contains(inline), "{path} has {inline}");
        }
        for address in ["href", "src", "action"].iter().flat_map(|name| page.attributes(name)) {
            assert!(address.starts_with("/console") || address.starts_with('#'), "{path} leads to {address}");
        }
    }
}

#[tokio::test]
async fn files_of_the_console_are_kept_for_ever_under_their_hash() {
    let service = open(Sqlite).await;
    let visitor = Visitor::of(&service);
    let page = visitor.get("/console").await;
    let files: Vec<String> = [page.attributes("href"), page.attributes("src")].concat();
    let files: Vec<_> = files.into_iter().filter(|path| path.contains("/assets/")).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for path in files {
        let file = Visitor::of(&service).get(&path).await;
        assert_eq!((file.status, file.header("cache-control")), (200, "public, max-age=31536000, immutable"), "{path}");
        assert!(!file.headers.contains_key("set-cookie") && !file.html.contains("http://www.w3.org/1999"), "{path}");
        let other = path.replace("-", "-0");
        assert_eq!(visitor.get(&other).await.status, 404, "{other}");
    }
}

#[tokio::test]
async fn a_page_of_many_models_and_records_stays_small() {
    let service = open(Sqlite).await;
    for call in 0..60 {
        let mut request = crate::harness::charge("u", "passport", 100_000);
        request.trace_id = format!("{call:0>128}");
        request.api_key_id = format!("{call:k>128}");
        service.adjust("u", 10_000.0).await;
        service.deduct(request).await;
    }
    super::summed(&service, "u").await;
    let usage = Visitor::of(&service).get("/console/usage?by=api_key").await;
    // A head, 50 keys and the others; then the days.
    let rows = usage.html.split("<table").nth(1).unwrap().split("</table>").next().unwrap().matches("<tr>").count();
    assert_eq!(rows, 52, "{}", usage.text());
    assert!(usage.text().contains("Others 9,999.70 10 1,000,000 "), "{}", usage.text());
    for path in ["/console", "/console/usage?by=api_key", "/console/records"] {
        let page = Visitor::of(&service).get(path).await;
        assert!(page.status == 200 && page.html.len() < MAX_PAGE, "{path} has {} bytes", page.html.len());
    }
    let charge = format!("/console/charge?user_id=u&trace_id={:0>128}", 59);
    for path in ["/console/audit-events", "/console/prices", "/console/jobs", "/console/health", &charge] {
        let page = Visitor::of_operators(&service).get(path).await;
        assert!(page.status == 200 && page.html.len() < MAX_PAGE, "{path} has {} bytes", page.html.len());
    }
}
