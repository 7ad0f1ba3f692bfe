//! The results as a text table.

use crate::report::Row;

const HEADINGS: [&str; 18] = [
    "scenario", "callers", "users", "rate/s", "min", "max", "p50 ms", "p99 ms", "p99.9 ms", "server", "db", "redis",
    "client", "RSS MiB", "peak", "x base", "x empty", "x one",
];

/// One line per row, followed by the calls of open loops and the errors.
pub fn render(rows: &[Row]) -> String {
    let mut cells = vec![HEADINGS.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(line));
    let mut text = align(&cells);
    text.push_str(
        "server, db, redis, client: CPU microseconds per item; x base, x empty, x one: rate relative to \
         baseline, empty rpc and one server\n",
    );
    for row in rows {
        if let Some(open) = &row.open_loop {
            text.push_str(&format!(
                "{}: {:.0} calls/s due, {} in total: {} accepted, {} refused, {} not sent (too many open)\n",
                row.name,
                open.rate,
                open.due,
                open.accepted,
                row.errors.values().sum::<u64>(),
                open.missed
            ));
        }
        for (error, count) in &row.errors {
            text.push_str(&format!("{}: {count} times {error}\n", row.name));
        }
    }
    text
}

fn line(row: &Row) -> Vec<String> {
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let cpu = &row.cpu_per_item;
    vec![
        row.name.clone(),
        row.callers.map_or_else(|| "open".to_owned(), |callers| callers.to_string()),
        row.users.to_string(),
        format!("{:.0}", row.rate.median),
        format!("{:.0}", row.rate.min),
        format!("{:.0}", row.rate.max),
        format!("{:.2}", row.latency.p50),
        format!("{:.2}", row.latency.p99),
        format!("{:.2}", row.latency.p999),
        format!("{:.1}", cpu.server),
        format!("{:.1}", cpu.database),
        format!("{:.1}", cpu.redis),
        format!("{:.1}", cpu.client),
        format!("{:.0}", row.memory.resident),
        format!("{:.0}", row.memory.peak),
        ratio(row.to_baseline),
        ratio(row.to_empty),
        ratio(row.to_one_server),
    ]
}

/// Aligns the first column to the left, and the others to the right.
fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            text.push_str(&if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") });
        }
        text.push('\n');
    }
    text
}
