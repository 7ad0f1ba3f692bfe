//! Fields of the CSV export: a reader gets the texts back that were written.

use billing_service::service::exports::csv_of;

/// Fields of a line.
const FIELDS: usize = 3;

/// The input is one text for each field, with an unprintable separator between them.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let fields: Vec<&str> = text.split('\u{1f}').collect();
    let lines: Vec<[&str; FIELDS]> = fields.as_chunks().0.to_vec();
    let csv = csv_of(lines.iter().copied()).expect("every text can be written");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&*csv);
    let read: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("the export is CSV");
    assert_eq!(read.len(), lines.len(), "{text:?}");
    for (read, written) in read.iter().zip(&lines) {
        assert_eq!(read.iter().collect::<Vec<_>>(), written, "{text:?}");
    }
}
