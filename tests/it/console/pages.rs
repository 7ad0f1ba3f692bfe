//! The content of the pages is that of REST.

use billing_service::service::proto::{DeductQuotaRequest, Usage};
use rstest::rstest;
use serde_json::Value;

use super::{history, open, visitor::Visitor};
use crate::harness::{Backend, MySql, Sqlite, charge};

/// An amount of REST as the pages write it, for amounts below a thousand.
pub fn money(amount: &Value) -> String {
    let text = amount.as_f64().unwrap().to_string();
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |text| ("\u{2212}", text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = if whole.len() == 4 { format!("{},{}", &whole[..1], &whole[1..]) } else { whole.to_owned() };
    format!("{sign}{whole}.{fraction:0<2}")
}

/// A count of REST as the pages write it, for counts below a million.
fn count(count: &Value) -> String {
    let digits = count.as_str().unwrap();
    match digits.len() {
        0..=3 => digits.to_owned(),
        length => format!("{},{}", &digits[..length - 3], &digits[length - 3..]),
    }
}

#[rstest]
#[tokio::test]
async fn the_overview_shows_the_account_as_rest_does(#[values(MySql, Sqlite)] on: Backend) {
    let service = open(on).await;
    history(&service, "u").await;
    let (_, account) = service.get("/api/v1/billing/account?user_id=u").await;
    let (_, month) = service.get("/api/v1/billing/stats/month?user_id=u").await;
    let page = Visitor::of(&service).get("/console").await;
    let text = page.text();
    // Large amounts have their last places in an element of their own.
    let joined = text.replace(' ', "");
    for amount in [&account["balance"], &account["held"], &month["total_cost"]] {
        assert!(joined.contains(&money(amount)), "{amount} is not in {text}");
    }
    for quota in account["quotas"].as_array().unwrap() {
        let [service, used, total] = ["service_name", "used_quota", "total_quota"].map(|name| {
            let value = &quota[name];
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        });
        let total = if total == "1000" { "1,000".to_owned() } else { total };
        let used_up = if used == total { " Used up" } else { "" };
        assert!(text.contains(&format!("{service}{used_up} {used} of {total} used")), "{quota} is not in {text}");
    }
    assert!(text.contains("Requests of today 0 of 500 used"), "{text}");
    assert!(text.contains("key &lt;1&gt;") && text.contains("Requests, this month 0 of 77 used"), "{text}");
    assert!(!text.contains("Low balance"));
    assert!(Visitor::of(&service).get("/console?user_id=poor").await.text().contains("Low balance"));
}

#[rstest]
#[tokio::test]
async fn the_usage_by_each_property_has_the_numbers_of_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = open(on).await;
    history(&service, "u").await;
    for by in ["service", "model", "api_key"] {
        let (_, reply) = service.get(&format!("/api/v1/billing/usage?user_id=u&group_by={by}")).await;
        let text = Visitor::of(&service).get(&format!("/console/usage?by={by}")).await.text();
        let groups = reply["groups"].as_array().unwrap();
        assert!(groups.len() > 1, "{reply}");
        for group in groups {
            let name = ["service_name", "model", "api_key_id"].into_iter().map(|name| group[name].as_str().unwrap());
            let name = name.collect::<String>().replace('<', "&lt;").replace('>', "&gt;");
            let name = if name.is_empty() { "none named".to_owned() } else { name };
            let numbers = ["calls", "total_units", "free_units", "input_tokens", "output_tokens"];
            let numbers = numbers.map(|name| count(&group[name]));
            let row = format!(
                "{name} {} {} {}",
                money(&group["total_cost"]),
                numbers.join(" "),
                money(&group["refunded_cost"])
            );
            assert!(text.contains(&row), "{row} is not in {text}");
        }
        // The chart has the same sum, over all its parts.
        let (_, month) = service.get("/api/v1/billing/stats/summary?user_id=u").await;
        assert!(text.contains(&format!("All days {}", money(&month["total_cost"]))), "{text}");
    }
    // The chart of the overview has the same table as that of this page.
    let visitor = Visitor::of(&service);
    let days = async |page: &str| {
        let shown = visitor.get(page).await;
        let table = shown.html.split("<caption class=\"unseen\">By day</caption>").nth(1).map(str::to_owned);
        table.unwrap_or_else(|| panic!("{page}: {}", shown.html)).split("</table>").next().unwrap().to_owned()
    };
    let table = days("/console/usage").await;
    assert_eq!((days("/console").await, table.matches("<tr>").count()), (table, 31));
}

#[rstest]
#[tokio::test]
async fn records_are_shown_filtered_and_paged_as_rest_does(#[values(MySql, Sqlite)] on: Backend) {
    let service = open(on).await;
    history(&service, "u").await;
    for call in 0..30 {
        service.deduct(crate::harness::charge("u", "payment", call + 1)).await;
    }
    let visitor = Visitor::of(&service);
    for (page, rest) in
        [("", ""), ("&service=llm", "&service_name=llm"), ("&type=2", "&type=2"), ("&model=tiny", "&model=tiny")]
    {
        let (_, reply) = service.get(&format!("/api/v1/billing/records?user_id=u&page_size=100{rest}")).await;
        let mut ids = Vec::new();
        let mut address = format!("/console/records?a=b{page}");
        loop {
            let shown = visitor.get(&address).await;
            ids.extend(shown.html.split("<tr>").skip(2).map(|row| {
                let cells: Vec<_> = row.split("<td").skip(1).map(|cell| cell.split_once('>').unwrap().1).collect();
                let text = |cell: &str| cell.split('<').next().unwrap().to_owned();
                let code = |cell: &str| cell.split("<code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
                (code(cells[9]), text(cells[3]), text(cells[5]), text(cells[1]))
            }));
            let older = shown.attributes("href").into_iter().find(|link| link.contains("after="));
            match older {
                Some(link) => address = link,
                None => break,
            }
        }
        let expected: Vec<_> = reply["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|record| {
                let text = |name: &str| record[name].as_str().unwrap().to_owned();
                (text("trace_id"), text("service_name"), record["count"].to_string(), money(&record["amount"]))
            })
            .collect();
        assert_eq!(ids, expected, "{page}");
    }
    let refused = visitor.get("/console/records?service=unheard").await;
    assert_eq!((refused.status, refused.text().contains("10008")), (400, true));
}

#[rstest]
#[tokio::test]
async fn the_files_are_those_of_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = open(on).await;
    history(&service, "u").await;
    for (page, rest) in [
        ("/console/records.csv?service=llm", "/api/v1/billing/records.csv?user_id=u&service_name=llm"),
        ("/console/statement.csv", "/api/v1/billing/statement.csv?user_id=u"),
    ] {
        let shown = Visitor::of(&service).get(page).await;
        let reply = service.http.get(format!("http://{}{rest}", service.app.http_addr)).send().await.unwrap();
        assert_eq!(shown.headers["content-type"], reply.headers()["content-type"]);
        assert_eq!(shown.headers["content-disposition"], reply.headers()["content-disposition"]);
        assert_eq!(shown.html, reply.text().await.unwrap());
        assert!(shown.html.lines().count() > 3, "{}", shown.html);
    }
}

#[rstest]
#[tokio::test]
async fn the_statement_of_a_month_has_the_lines_of_rest(#[values(MySql, Sqlite)] on: Backend) {
    let service = open(on).await;
    history(&service, "u").await;
    let (_, reply) = service.get("/api/v1/billing/statement?user_id=u").await;
    let month = reply["month"].as_str().unwrap();
    let text = Visitor::of(&service).get(&format!("/console/statement?month={month}")).await.text();
    assert!(text.contains(&format!("Opening balance {}", money(&reply["opening_balance"]))), "{text}");
    assert!(text.contains(&format!("Closing balance {}", money(&reply["closing_balance"]))), "{text}");
    let lines = reply["lines"].as_array().unwrap();
    assert!(lines.len() >= 5, "{reply}");
    for line in lines {
        let kind = if line["kind"] == "charge" { "Charges" } else { "Adjustments" };
        let names = ["service_name", "model"].map(|name| line[name].as_str().unwrap());
        let names = names.iter().filter(|name| !name.is_empty()).map(|name| format!(" \u{b7} {name}"));
        let counts =
            ["calls", "free_count", "paid_count", "input_tokens", "output_tokens"].map(|name| count(&line[name]));
        let counts = counts.iter().filter(|count| *count != "0").map(|count| format!(" {count}"));
        let row =
            format!("{kind}{} {}{}", names.collect::<String>(), money(&line["amount"]), counts.collect::<String>());
        assert!(text.contains(&row), "{row} is not in {text}");
    }
    let future = Visitor::of(&service).get("/console/statement?month=9999-01").await;
    assert_eq!(future.status, 400);
}

#[tokio::test]
async fn without_an_account_the_page_asks_for_one() {
    let service = crate::harness::Service::start_with(Sqlite, &[("console.enabled", "true")]).await;
    let visitor = Visitor::of(&service);
    let asked = visitor.get("/console").await;
    assert!(asked.text().contains("Which account?") && asked.html.contains("name=\"user_id\""), "{}", asked.html);
    let shown = visitor.get("/console?user_id=someone").await;
    assert!(shown.text().contains("Account someone"));
    let links: Vec<_> = shown
        .attributes("href")
        .into_iter()
        .filter(|link| link.starts_with("/console") && !link.contains("assets"))
        .collect();
    assert!(links.len() >= 6 && links.iter().all(|link| link.contains("user_id=someone")), "{links:?}");
}

#[tokio::test]
async fn the_console_is_off_unless_the_configuration_turns_it_on() {
    let service = crate::harness::Service::start(Sqlite).await;
    for page in super::PAGES {
        assert_eq!(Visitor::of(&service).get(page).await.status, 404, "{page}");
    }
}

#[rstest]
#[tokio::test]
async fn usage_by_units_is_ordered_by_units(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    super::history(&service, "u").await;
    // Many cheap units of one model, beside three dear ones of the other.
    let usage = Usage { input_tokens: 1, output_tokens: 1, ..Default::default() };
    let cheap = DeductQuotaRequest {
        trace_id: "cheap".into(),
        model: "tiny".into(),
        usage: Some(usage),
        ..charge("u", "llm", 50)
    };
    service.deduct(cheap).await;
    super::summed(&service, "u").await;
    let models = async |measure: &str| {
        let shown = Visitor::of(&service).get(&format!("/console/usage?by=model&measure={measure}")).await;
        let rows = shown.html.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap().to_owned();
        ["gpt-4.1", "tiny"].map(|model| rows.find(&format!(">{model}<")).unwrap_or_else(|| panic!("{model}: {rows}")))
    };
    let [dear, cheap] = models("cost").await;
    assert!(dear < cheap, "by cost");
    let [dear, cheap] = models("units").await;
    assert!(cheap < dear, "by units");
}
