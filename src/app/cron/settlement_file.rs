//! `cron --once match-settlements`: reads a settlement file of payment-service, and compares it with
//! the database.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek},
    path::Path,
};

use anyhow::{Context, bail};
use chrono::NaiveDate;

use super::{JobReport, counted::counted};
use crate::{
    biz::{
        recharge::matching::{Matched, SettlementLine, match_settlements},
        values::{
            calendar::{Calendar, SystemClock},
            ids::{OrderId, PaymentId},
            money::Money,
        },
    },
    config::Config,
    data::Store,
};

/// The name of the job, which is no [`super::Job`]: it takes a file, and writes nothing.
pub const MATCH_SETTLEMENTS: &str = "match-settlements";
/// Most lines of a file.
const MAX_LINES: usize = 1_000_000;
/// The columns of a file, in order.
const COLUMNS: usize = 5;

/// Compares a file with the database. The report has a line for each difference, and the sums.
///
/// # Errors
/// The file can't be read, a line is malformed, or the database is unavailable.
pub async fn match_settlement_file(config: &Config, store: &dyn Store, file: &Path) -> anyhow::Result<JobReport> {
    let input = File::open(file).with_context(|| format!("--file {}", file.display()))?;
    let lines = read(BufReader::new(input)).with_context(|| format!("--file {}", file.display()))?;
    let calendar = Calendar::new(config.billing.timezone, SystemClock);
    let mut report = Vec::new();
    let mut note = |difference: String| report.push(format!("{MATCH_SETTLEMENTS}: {difference}"));
    let matched = match_settlements(store, &calendar, &lines, &mut note).await?;
    report.push(sum(&matched));
    Ok(JobReport { lines: report, is_good: matched.is_good() })
}

fn sum(matched: &Matched) -> String {
    let Matched { lines, matched: same, missing_here, missing_there, differing, amount, fee, days } = matched;
    let days = days.map_or("no days".to_owned(), |days| format!("{} to {}", days.first, days.last));
    format!(
        "{MATCH_SETTLEMENTS}: {} of {days}: {same} matched, {missing_here} missing here, {missing_there} missing \
         in the file, {differing} different; amount {amount}, fee {fee}",
        counted(*lines, "line")
    )
}

/// Reads the lines: order id, payment id, amount, fee, date. The first line may be a header.
fn read(mut input: impl BufRead + Seek) -> anyhow::Result<Vec<SettlementLine>> {
    let starts = starts_of_lines(&mut input)?;
    input.rewind()?;
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(input);
    let mut lines = Vec::new();
    let mut record = csv::StringRecord::new();
    // Ends with the file.
    loop {
        let number = number_of(&starts, reader.position().byte());
        if !reader.read_record(&mut record).with_context(|| format!("line {number}"))? {
            return Ok(lines);
        }
        let field = |column: usize| record.get(column).unwrap_or_default();
        let is_header = lines.is_empty() && number_of(&starts, 0) == number && field(2).parse::<Money>().is_err();
        if is_header || record.iter().all(str::is_empty) {
            continue;
        }
        if record.len() < COLUMNS {
            bail!("line {number}: has {} columns; order id, payment id, amount, fee and date are needed", record.len());
        }
        if lines.len() >= MAX_LINES {
            bail!("has more than {MAX_LINES} lines; divide it by days");
        }
        lines.push(line(number, field).with_context(|| format!("line {number}"))?);
    }
}

/// The position and the number of each line that is not empty. The reader of CSV skips empty lines, and
/// counts none of them.
fn starts_of_lines(input: &mut impl BufRead) -> anyhow::Result<Vec<(u64, u64)>> {
    let (mut starts, mut text) = (Vec::new(), Vec::new());
    let mut position = 0;
    for number in 1.. {
        text.clear();
        let read = input.read_until(b'\n', &mut text)?;
        if read == 0 {
            break;
        }
        if starts.len() > MAX_LINES + 1 {
            bail!("has more than {MAX_LINES} lines; divide it by days");
        }
        if !text.trim_ascii().is_empty() {
            starts.push((position, number));
        }
        position += read as u64;
    }
    Ok(starts)
}

/// The number of the first line that begins at a position or behind it.
fn number_of(starts: &[(u64, u64)], position: u64) -> u64 {
    let index = starts.partition_point(|(start, _)| *start < position);
    starts.get(index).or(starts.last()).map_or(1, |(_, number)| *number)
}

fn line<'f>(number: u64, field: impl Fn(usize) -> &'f str) -> anyhow::Result<SettlementLine> {
    let amount = |column: usize, name: &str| field(column).parse::<Money>().with_context(|| name.to_owned());
    // A time behind the day is ignored.
    let day = field(4).get(..10).unwrap_or(field(4));
    Ok(SettlementLine {
        number,
        // A byte order mark may come before the first line.
        order: OrderId::parse("order id", field(0).trim_start_matches('\u{feff}'))?,
        payment: PaymentId::parse_optional("payment id", field(1))?,
        amount: amount(2, "amount")?,
        fee: if field(3).is_empty() { Money::ZERO } else { amount(3, "fee")? },
        day: day.parse::<NaiveDate>().with_context(|| format!("date {day:?} is no YYYY-MM-DD"))?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_file_is_read_with_or_without_a_header() {
        let body = "o-1,p-1,19.99,0.12,2026-11-05\r\n\r\no-2, ,-5,,2026-11-06 10:00:00\r\n";
        for text in [body.to_owned(), format!("\u{feff}order id,payment id,amount,fee,date\r\n{body}")] {
            let lines = read(Cursor::new(text.as_bytes())).unwrap();
            let shown: Vec<_> = lines
                .iter()
                .map(|line| format!("{} {:?} {} {} {}", line.order, line.payment, line.amount, line.fee, line.day))
                .collect();
            assert_eq!(shown, [r#"o-1 Some("p-1") 19.99 0.12 2026-11-05"#, "o-2 None -5 0 2026-11-06"]);
        }
    }

    #[test]
    fn lines_are_numbered_as_in_an_editor() {
        let numbers = |text: &str| -> Vec<u64> {
            read(Cursor::new(text.as_bytes())).unwrap().iter().map(|line| line.number).collect()
        };
        let text = "order,payment,amount,fee,date\n\no,p,1,0,2026-11-05\n\n \n\no,p,2,0,2026-11-05\no,p,3,0,2026-11-05";
        assert_eq!(numbers(text), [3, 7, 8]);
        assert_eq!(numbers(&text.replace('\n', "\r\n")), [3, 7, 8]);
        assert_eq!(numbers("\n\no,p,1,0,2026-11-05\n"), [3]);
        assert_eq!(numbers("o,p,1,0,2026-11-05,\"two\nlines\"\no,p,1,0,2026-11-05\n"), [1, 3]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        for (bad, why) in [
            ("o,p,1,0,2026-11-05\n\n\no,p,1\n", "line 4"),
            ("o,p,1,0,2026-11-05\no,p,1\n", "line 2"),
            ("o,p,1,0,2026-11-05\n,p,1,0,2026-11-05\n", "order id"),
            ("o,p,1,0,2026-11-05\no,p,x,0,2026-11-05\n", "amount"),
            ("o,p,1,x,2026-11-05\n", "fee"),
            ("o,p,1,0,05.11.2026\n", "date"),
        ] {
            let error = format!("{:#}", read(Cursor::new(bad.as_bytes())).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
