//! `data.database.source`. No error and no redacted text shows the password.

use billing_service::data::dsn::{self, Host, MAX_HOSTS};

const PASSWORD: &str = "pAsSw0rD";

/// The input is a source. The part before its first line break is also the rest of a password, and the part
/// behind it the rest of a source with that password.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    read(text);
    if let Ok(host) = text.parse::<Host>() {
        assert_eq!(host.to_string().parse(), Ok(host), "{text:?}");
    }
    let Some((password, rest)) = text.split_once('\n') else { return };
    // A slash ends the login of a source that has no database.
    if password.contains('/') && !rest.contains('/') || rest.contains(PASSWORD) {
        return;
    }
    for source in [
        format!("u:{PASSWORD}{password}@{rest}"),
        format!("mysql://u:{PASSWORD}@{rest}"),
        format!("u:{PASSWORD}{rest}"),
    ] {
        read(&source);
        let hosts = ["db:3307".parse().expect("a host")];
        for shown in [dsn::mysql_nodes(&source, &[]), dsn::mysql_nodes(&source, &hosts)] {
            let shown = shown.err().unwrap_or_else(|| dsn::redacted(&source));
            assert!(!shown.contains(PASSWORD), "{source:?} is shown as {shown:?}");
        }
        if let Err(shown) = dsn::sqlite(&source) {
            assert!(!shown.contains(PASSWORD), "{source:?} is shown as {shown:?}");
        }
    }
}

fn read(source: &str) {
    let _ = (dsn::sqlite(source), dsn::tls(source), dsn::redacted(source));
    if let Ok(nodes) = dsn::mysql_nodes(source, &[]) {
        assert!((1..=MAX_HOSTS).contains(&nodes.len()), "{source:?}");
    }
}
