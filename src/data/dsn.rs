//! Parses `data.database.source`: a URL, or the form of the Go driver in existing
//! configurations, `user:password@tcp(host:port)/database?parameters`. In the latter form commas
//! separate several hosts. `data.database.hosts` overrides them.

use std::{fmt, str::FromStr};

use sqlx::{
    mysql::{MySqlConnectOptions, MySqlSslMode},
    sqlite::SqliteConnectOptions,
};

/// Most hosts of one database.
pub const MAX_HOSTS: usize = 16;

/// The address of a database server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: u16,
}

impl FromStr for Host {
    type Err = &'static str;

    /// Parses `host`, `host:port` or `[address]:port`. The text may contain a password by mistake, so
    /// the error does not show it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PORT: &str = "3306";
        let (name, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((name, ""))) => (name, PORT),
            Some(Some((name, rest))) => (name, rest.strip_prefix(':').ok_or("has an address that is not closed")?),
            Some(None) => return Err("has an address that is not closed"),
            None => match text.rsplit_once(':').unwrap_or((text, PORT)) {
                (name, _) if name.contains(':') => return Err("has more than one colon; write [address]:port"),
                split => split,
            },
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is no number up to 65535")?;
        let is_part = |letter: char| letter.is_alphanumeric() || "-_.:%".contains(letter);
        if name.is_empty() || !name.chars().all(is_part) {
            return Err("has a host that is no name and no address");
        }
        Ok(Self { name: name.to_owned(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// A valid source with `***` in place of its password. User and host stay.
pub fn redacted(source: &str) -> String {
    let (scheme, rest) = match source.split_once("://") {
        Some((scheme, rest)) if is_url(source) => (format!("{scheme}://"), rest),
        _ => (String::new(), source),
    };
    // The same separators as in `parse`: a URL ends its login before the path, and the other form
    // after the last @ before the last slash.
    let end = if scheme.is_empty() { rest.rfind('/') } else { rest.find(['/', '?', '#']) }.unwrap_or(rest.len());
    let (server, database) = rest.split_at(end);
    match server.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?, host))) {
        Some(((user, password), host)) if !password.is_empty() => format!("{scheme}{user}:***@{host}{database}"),
        _ => source.to_owned(),
    }
}

fn is_url(source: &str) -> bool {
    source.starts_with("mysql://") || source.starts_with("mariadb://")
}

/// TLS with a verified certificate, as `tls=` of a MySQL source asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// By an authority of the system.
    System,
    /// By a configured authority.
    Custom,
}

/// The verified TLS of a MySQL source; `None` without `tls=`, and for values that verify nothing.
pub fn tls(source: &str) -> Option<Tls> {
    // The parameters of the Go form follow the database, whose name follows the last slash.
    let rest = if is_url(source) { Some(source) } else { source.rsplit_once('/').map(|(_, database)| database) };
    let (_, parameters) = rest?.split_once('?')?;
    match parameters.split('&').filter_map(|parameter| parameter.strip_prefix("tls=")).next_back()? {
        "custom" => Some(Tls::Custom),
        value if TRUE.contains(&value) => Some(Tls::System),
        _ => None,
    }
}

/// The words of the Go driver for a switch.
const TRUE: [&str; 4] = ["true", "True", "TRUE", "1"];
const FALSE: [&str; 4] = ["false", "False", "FALSE", "0"];

/// Connect options of a MySQL source. Of several hosts, those of the first.
///
/// # Errors
/// The defect of `source`, without its password.
pub fn mysql(source: &str) -> Result<MySqlConnectOptions, String> {
    let (options, hosts) = parse(source)?;
    Ok(match hosts.first() {
        Some(host) => options.host(&host.name).port(host.port),
        None => options,
    })
}

/// Connect options of each host, by preference. `hosts` override those of `source`.
///
/// # Errors
/// As [`mysql`].
pub fn mysql_nodes(source: &str, hosts: &[Host]) -> Result<Vec<MySqlConnectOptions>, String> {
    let (options, listed) = parse(source)?;
    if !hosts.is_empty() && options.get_socket().is_some() {
        return Err("names a socket, but data.database.hosts names hosts; name one of the two".into());
    }
    let hosts = if hosts.is_empty() { &listed } else { hosts };
    if hosts.is_empty() {
        return Ok(vec![options]);
    }
    Ok(hosts.iter().map(|host| options.clone().host(&host.name).port(host.port)).collect())
}

/// Connect options and the hosts for them; no hosts if the options name the server.
fn parse(source: &str) -> Result<(MySqlConnectOptions, Vec<Host>), String> {
    if is_url(source) {
        let mut options =
            MySqlConnectOptions::from_str(source).map_err(|error| format!("is not a MySQL URL: {error}"))?;
        // The driver knows ssl-mode alone. Without this, tls=true would verify nothing.
        let parameters = source.split_once('?').map_or("", |(_, parameters)| parameters).split('&');
        for parameter in parameters.filter(|parameter| parameter.starts_with("tls=")) {
            options = with_parameter(options, parameter)?;
        }
        return Ok((options, Vec::new()));
    }
    // The password may contain the separators, so the last ones count.
    let (address, database) =
        source.rsplit_once('/').ok_or("must be user:password@tcp(host:port)/database or a mysql:// URL")?;
    let (credentials, address) = address.rsplit_once('@').unwrap_or(("", address));
    let (user, password) = match credentials.split_once(':') {
        // As in the Go driver, an empty password means no password.
        Some((user, password)) => (user, Some(password).filter(|password| !password.is_empty())),
        None => (credentials, None),
    };
    let (database, parameters) = database.split_once('?').unwrap_or((database, ""));
    if database.is_empty() {
        return Err("names no database; add /DATABASE".into());
    }

    let mut options = MySqlConnectOptions::new().database(database);
    if !user.is_empty() {
        options = options.username(user);
    }
    if let Some(password) = password {
        options = options.password(password);
    }
    let hosts;
    (options, hosts) = at_address(options, address)?;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        options = with_parameter(options, parameter)?;
    }
    Ok((options, hosts))
}

/// A malformed address may contain the password, so the errors show nothing of it.
fn at_address(options: MySqlConnectOptions, address: &str) -> Result<(MySqlConnectOptions, Vec<Host>), String> {
    let (network, location) = match address.split_once('(') {
        Some((network, rest)) => (network, rest.strip_suffix(')').ok_or("has an unclosed parenthesis")?),
        None => (address, ""),
    };
    match (network, location) {
        ("" | "tcp", "") => Ok((options.host("127.0.0.1").port(3306), Vec::new())),
        ("tcp", location) => {
            let hosts: Vec<Host> = location.split(',').map(|host| host.trim().parse()).collect::<Result<_, _>>()?;
            if hosts.len() > MAX_HOSTS {
                return Err(format!("names more than {MAX_HOSTS} hosts"));
            }
            Ok((options, hosts))
        }
        ("unix", path) if !path.is_empty() => Ok((options.socket(path), Vec::new())),
        _ => {
            Err("has no address such as tcp(host:port) or unix(/path) behind the @; a password stands before the @"
                .into())
        }
    }
}

/// A parameter of the Go driver. Parameters that only configure that driver are accepted and
/// ignored: this service always stores UTC, decodes times, and bounds every wait.
/// `legacy_zone` reads `loc` and `time_zone`, which set the zone of the legacy service's times.
fn with_parameter(options: MySqlConnectOptions, parameter: &str) -> Result<MySqlConnectOptions, String> {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    match name {
        // The Go driver uses the first of a list; the connections here always use utf8mb4.
        "charset" if value.split(',').all(|set| matches!(set, "utf8mb4" | "utf8")) => Ok(options),
        "charset" => Err(format!("has charset {value:?}; use utf8mb4")),
        "tls" => match value {
            _ if FALSE.contains(&value) => Ok(options.ssl_mode(MySqlSslMode::Disabled)),
            _ if TRUE.contains(&value) => Ok(options.ssl_mode(MySqlSslMode::VerifyIdentity)),
            "custom" => Ok(options.ssl_mode(MySqlSslMode::VerifyIdentity)),
            _ if value.eq_ignore_ascii_case("skip-verify") => Ok(options.ssl_mode(MySqlSslMode::Required)),
            _ if value.eq_ignore_ascii_case("preferred") => Ok(options.ssl_mode(MySqlSslMode::Preferred)),
            _ => Err(format!("has tls {value:?}; use true, false, skip-verify, preferred or custom")),
        },
        "parseTime"
        | "loc"
        | "collation"
        | "timeout"
        | "readTimeout"
        | "writeTimeout"
        | "maxAllowedPacket"
        | "interpolateParams"
        | "clientFoundRows"
        | "columnsWithAlias"
        | "checkConnLiveness"
        | "allowNativePasswords"
        | "allowOldPasswords"
        | "rejectReadOnly"
        | "multiStatements"
        | "time_zone" => Ok(options),
        _ => Err(format!("has an unknown parameter {name:?}; remove it")),
    }
}

/// Whether a source is of MySQL, even if it is malformed. Otherwise the error about a missing file
/// of that name would show the password.
fn is_mysql(source: &str) -> bool {
    let is_address = |(before, _): (&str, &str)| {
        before.contains([':', '@']) && !before.contains('/') || before.ends_with("@tcp") || before.ends_with("@unix")
    };
    source.split_once('(').is_some_and(is_address) || source.contains("://") && !source.starts_with("sqlite:")
}

/// Connect options of a SQLite source: a path, or a `sqlite:` URL.
///
/// # Errors
/// The defect of `source`.
pub fn sqlite(source: &str) -> Result<SqliteConnectOptions, String> {
    if source.trim().is_empty() {
        return Err("names no file; give a path".into());
    }
    if is_mysql(source) {
        return Err("names a MySQL database, but data.database.driver is sqlite".into());
    }
    if source.contains(":memory:") || source.contains("mode=memory") {
        return Err("is in memory, but charges must survive a restart; name a file".into());
    }
    if source.starts_with("sqlite:") {
        return SqliteConnectOptions::from_str(source).map_err(|error| format!("is not a SQLite URL: {error}"));
    }
    Ok(SqliteConnectOptions::new().filename(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_in_the_form_of_go_is_parsed() {
        let options =
            mysql("root:pass:w@rd/1@tcp(db.internal:3307)/billing_service?charset=utf8mb4&parseTime=True&loc=Local")
                .unwrap();
        assert_eq!(
            (options.get_host(), options.get_port(), options.get_username(), options.get_database()),
            ("db.internal", 3307, "root", Some("billing_service"))
        );
        let defaults = mysql("root@/billing").unwrap();
        assert_eq!((defaults.get_host(), defaults.get_port()), ("127.0.0.1", 3306));
        let socket = mysql("root@unix(/run/mysqld.sock)/billing").unwrap();
        assert_eq!(socket.get_socket().unwrap().to_str(), Some("/run/mysqld.sock"));
        assert_eq!(mysql("u@tcp([::1]:3306)/b").unwrap().get_host(), "::1");
    }

    fn addresses(source: &str, hosts: &[&str]) -> Result<Vec<String>, String> {
        let hosts: Vec<Host> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let nodes = mysql_nodes(source, &hosts)?;
        Ok(nodes.iter().map(|node| format!("{} {}", node.get_host(), node.get_port())).collect())
    }

    #[test]
    fn several_hosts_keep_their_order_and_share_the_rest() {
        let several = "u:p@tcp(a:3307,b, [::1]:3308)/billing?tls=false";
        assert_eq!(addresses(several, &[]).unwrap(), ["a 3307", "b 3306", "::1 3308"]);
        assert_eq!(mysql(several).unwrap().get_port(), 3307);
        for node in mysql_nodes(several, &[]).unwrap() {
            assert_eq!((node.get_username(), node.get_database()), ("u", Some("billing")));
            assert!(matches!(node.get_ssl_mode(), MySqlSslMode::Disabled));
        }
        for source in [several, "u@/billing", "mysql://u:p@a:3307/billing"] {
            assert_eq!(addresses(source, &["x", "y:1"]).unwrap(), ["x 3306", "y 1"], "{source}");
        }
        assert_eq!(addresses("u@/billing", &[]).unwrap(), ["127.0.0.1 3306"]);
        assert_eq!(mysql_nodes("u@unix(/s)/b", &[]).unwrap().len(), 1);
        assert!(addresses("u@unix(/s)/b", &["x"]).unwrap_err().contains("data.database.hosts"));
    }

    #[test]
    fn a_bad_host_is_refused_without_its_text() {
        for bad in ["", ":3306", "db:", "db:0", "db:65536", "u:PW@db", "u:PW@db:3306", "a b", "PW:1:2", "[PW", "[::1]1"]
        {
            let error = bad.parse::<Host>().unwrap_err();
            assert!(!error.contains("PW"), "{error}");
            assert!(mysql(&format!("u@tcp(db,{bad})/b")).is_err(), "{bad}");
        }
        assert!(mysql(&format!("u@tcp(db{})/b", ",db".repeat(MAX_HOSTS))).is_err());
    }

    #[test]
    fn a_bad_source_is_refused_without_its_password() {
        for bad in [
            "nonsense",
            "root:secret@tcp(127.0.0.1:3306)/",
            "root:secret@tcp(127.0.0.1:port)/b",
            "root:secret@tcp(127.0.0.1:3306/b",
            "root:secret@udp(127.0.0.1:3306)/b",
            "root:secret@tcp(127.0.0.1:3306)/b?charset=latin1",
            "root:secret@tcp(127.0.0.1:3306)/b?unheard=of",
            "root:secret@tcp(127.0.0.1:3306)/b?tls=maybe",
            "mysql://root:secret@[bad/b",
            "mysql://root:secret@db:port/b",
            "root:secret(127.0.0.1:3306)/b",
            "root:secret/b",
            "root:secret@127.0.0.1:3306/b",
            "root@tcp(root:secret)/b",
            "root:x/secret?secret@tcp(127.0.0.1:3306)",
            "tcp(root:secret@127.0.0.1:3306)/b",
        ] {
            let error = mysql(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn tls_is_read_as_the_go_driver_reads_it() {
        for (value, mode, verifies) in [
            ("true", "VerifyIdentity", Some(Tls::System)),
            ("1", "VerifyIdentity", Some(Tls::System)),
            ("custom", "VerifyIdentity", Some(Tls::Custom)),
            ("skip-verify", "Required", None),
            ("preferred", "Preferred", None),
            ("Preferred", "Preferred", None),
            ("false", "Disabled", None),
        ] {
            for source in [
                format!("u:p?tls=false/@tcp(db)/b?charset=utf8mb4&tls={value}"),
                format!("mysql://u:p@db/b?tls={value}"),
            ] {
                assert_eq!(format!("{:?}", mysql(&source).unwrap().get_ssl_mode()), mode, "{source}");
                assert_eq!(super::tls(&source), verifies, "{source}");
            }
        }
        assert!(mysql("u@/b?tls=maybe").is_err());
        assert!(mysql("mysql://u@db/b?tls=maybe").is_err());
        for none in ["u@/b", "u:p?tls=true@/b", "mysql://u@db/b?ssl-mode=VERIFY_CA", "data/billing.db"] {
            assert_eq!(super::tls(none), None, "{none}");
        }
    }

    #[test]
    fn a_redacted_source_keeps_all_but_the_password() {
        for (source, redacted) in [
            ("u:p@tcp(db:3306)/b?tls=true", "u:***@tcp(db:3306)/b?tls=true"),
            ("u:p@ss:w/rd@tcp(db:3306)/b", "u:***@tcp(db:3306)/b"),
            ("u:p://q@tcp(db:3306)/b", "u:***@tcp(db:3306)/b"),
            ("u@tcp(db:3306)/b", "u@tcp(db:3306)/b"),
            ("u:@tcp(db:3306)/b", "u:@tcp(db:3306)/b"),
            ("mysql://u:p@db:3306/b?ssl-mode=REQUIRED", "mysql://u:***@db:3306/b?ssl-mode=REQUIRED"),
            ("mysql://u:p:@q@db/b", "mysql://u:***@db/b"),
            ("mariadb://u:p@db", "mariadb://u:***@db"),
            ("data/billing.db", "data/billing.db"),
            ("sqlite://data/a@b:c.db", "sqlite://data/a@b:c.db"),
        ] {
            assert_eq!(super::redacted(source), redacted, "{source}");
            if source.starts_with(['u', 'm']) {
                assert!(mysql(source).is_ok(), "{source}");
            }
        }
    }

    #[test]
    fn an_empty_password_is_none() {
        use sqlx::ConnectOptions;

        let password = |source| mysql(source).unwrap().to_url_lossy().password().map(str::to_owned);
        for none in ["u:@tcp(db:3306)/b", "u@tcp(db:3306)/b", "u:@unix(/s)/b", "mysql://u:@db/b", "mysql://u@db/b"] {
            assert_eq!(password(none), None, "{none}");
        }
        for one in ["u:p@tcp(db:3306)/b", "mysql://u:p@db/b"] {
            assert_eq!(password(one).as_deref(), Some("p"), "{one}");
        }
    }

    #[test]
    fn a_database_in_memory_is_refused() {
        assert!(sqlite("sqlite::memory:").is_err());
        assert!(sqlite("").is_err());
        assert!(sqlite("data/billing.db").is_ok());
        assert!(sqlite("sqlite://data/billing.db").is_ok());
    }

    #[test]
    fn a_mysql_source_is_refused_as_a_sqlite_file() {
        for source in [
            "root@tcp(127.0.0.1:3306)/billing",
            "root:pa/ss@tcp(127.0.0.1:3306)/billing",
            "root@unix(/run/socket)/billing",
            "root:password(127.0.0.1:3306)/billing",
            "mysql://root@db/billing",
        ] {
            assert!(super::sqlite(source).unwrap_err().contains("driver is sqlite"), "{source}");
        }
        for source in ["data/billing.db", "sqlite:data/billing.db", "sqlite://data/billing.db", "/data (1)/a:b.db"] {
            assert!(super::sqlite(source).is_ok(), "{source}");
        }
    }
}
