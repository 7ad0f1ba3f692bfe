//! Upgrades that are killed behind each statement of each migration.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use billing_service::app;
use futures_util::{StreamExt, stream};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::proxy::MigrationProxy;
use crate::{
    events::gate::SlowGate,
    harness::{Backend, Database, MySql, Sqlite, process::SERVER},
    upgrade::release::{SETTINGS, assert_same, contents, stop_at},
};

/// Upgrades that run at once.
const AT_ONCE: usize = 3;
/// Fails the test if a process does not get to its statement.
const LONGEST_START: Duration = Duration::from_secs(60);
/// From and to.
pub type Versions = (i64, i64);

struct Migration {
    version: i64,
    text: String,
}

impl Migration {
    /// Each ends with a line. A comment may follow.
    fn statements(&self) -> Vec<&str> {
        let (mut statements, mut begin, mut end) = (Vec::new(), 0, 0);
        for line in self.text.split_inclusive('\n') {
            end += line.len();
            let code = line.split_once("--").map_or(line, |(code, _)| code);
            if code.trim_end().ends_with(';') {
                statements.push(&self.text[begin..end]);
                begin = end;
            }
        }
        assert_eq!(begin, self.text.len(), "{} ends with a statement", self.version);
        statements
    }

    /// The statements up to each that changes the database. The others change the session, which ends with the process.
    fn kills(&self) -> Vec<Vec<&str>> {
        let statements = self.statements();
        let is_of_session = |statement: &str| {
            let code = statement.lines().find(|line| !line.is_empty() && !line.starts_with("--")).unwrap();
            code.starts_with("SET @") || code.starts_with("PREPARE ")
        };
        let last = (0..statements.len()).filter(|last| !is_of_session(statements[*last]));
        last.map(|last| statements[..=last].to_vec()).collect()
    }
}

/// The migrations of these versions, in order.
fn migrations(on: Backend, (from, to): Versions) -> Vec<Migration> {
    let folder = match on {
        MySql => "mysql",
        Sqlite => "sqlite",
    };
    let folder = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let of_file = |file: &std::path::PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        let version: i64 = name.split_once('_').unwrap().0.parse().unwrap();
        (from..=to).contains(&version).then(|| Migration { version, text: std::fs::read_to_string(file).unwrap() })
    };
    files.iter().filter_map(of_file).collect()
}

/// Has the same tables and rows. The views are not copied.
pub async fn copy(of: &Database) -> Database {
    let mut new = Database::empty(of.backend).await;
    if of.backend == Sqlite {
        of.execute(&format!("VACUUM INTO '{}'", new.source)).await;
        return new;
    }
    let (address, _) = new.source.split_once('?').unwrap();
    let (_, options) = of.source.split_once('?').unwrap();
    new.source = format!("{address}?{options}");
    let mut connection = of.mysql().await;
    let name: String = sqlx::query("SELECT DATABASE()").fetch_one(&mut connection).await.unwrap().get(0);
    let tables = sqlx::query("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'").fetch_all(&mut connection).await;
    let copies = tables.unwrap().into_iter().map(|row| {
        let table: String = row.get(0);
        format!("CREATE TABLE {table} LIKE {name}.{table}; INSERT INTO {table} SELECT * FROM {name}.{table};")
    });
    new.execute(&copies.collect::<String>()).await;
    new
}

fn start(conf: &Path) -> Child {
    let arguments = ["-conf", conf.to_str().unwrap(), "--migrate-only"];
    Command::new(SERVER).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The errors of a process that ends by itself.
async fn errors(process: &mut Child) -> String {
    while process.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::io::read_to_string(process.stderr.take().unwrap()).unwrap()
}

pub async fn upgraded(database: &Database) {
    app::connect(&database.config(&SETTINGS)).await.unwrap().close().await;
}

async fn last_finished(database: &Database) -> i64 {
    database.rows(&["COALESCE(MAX(version), 0)"], "FROM _sqlx_migrations WHERE success = TRUE").await[0][0]
        .parse()
        .unwrap()
}

/// Makes the kill with this number of each migration that has as many. Returns the number of kills.
async fn killed_behind(number: usize, database: &Database, versions: Versions) -> usize {
    let mut proxy = MigrationProxy::start(&database.source).await;
    let conf = database.config_file(&[("data.database.source", &format!("'{}'", proxy.source))]);
    let mut kills = 0;
    for migration in migrations(MySql, versions) {
        let behind = migration.kills();
        let Some(first) = behind.get(number) else { continue };
        proxy.hold(&migration.text, first);
        let mut process = start(&conf);
        let stands = async {
            tokio::select! {
                ran = proxy.stands() => ran,
                said = errors(&mut process) => Err(said),
            }
        };
        let stands = tokio::time::timeout(LONGEST_START, stands).await;
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(stands.expect("the statements run"), Ok(()), "statement {} of {}", first.len(), migration.version);
        assert!(last_finished(database).await < migration.version, "{} is marked as finished", migration.version);
        kills += 1;
    }
    kills
}

/// Upgrades copies of a database on MariaDB. Each is killed behind another statement of all migrations. Calls `check`
/// with each.
pub async fn killed_on_mysql(old: &Database, versions: Versions, check: impl AsyncFn(Database)) {
    let lengths: Vec<usize> = migrations(MySql, versions).iter().map(|each| each.kills().len()).collect();
    let upgrades = stream::iter(0..lengths.iter().copied().max().unwrap()).map(async |number| {
        let database = copy(old).await;
        let kills = killed_behind(number, &database, versions).await;
        upgraded(&database).await;
        check(database).await;
        kills
    });
    let kills: Vec<usize> = upgrades.buffer_unordered(AT_ONCE).collect().await;
    assert_eq!(kills.iter().sum::<usize>(), lengths.iter().sum::<usize>());
}

/// Upgrades a copy of a database on SQLite. In each migration, a process is killed behind all statements, and then
/// the files are what a process leaves that is killed behind any of them.
pub async fn killed_on_sqlite(old: &Database, versions: Versions) -> Database {
    let database = copy(old).await;
    SlowGate::prepare(&database).await;
    let (conf, mut logged) = (database.config_file(&[]), 0);
    for migration in migrations(Sqlite, versions) {
        let version = migration.version;
        // Runs the migrations before it.
        database.execute(&stop_at(Sqlite, &version.to_string())).await;
        let Err(error) = app::connect(&database.config(&SETTINGS)).await else { panic!("{version} did not stop") };
        assert!(format!("{error:#}").contains("stopped by the test"), "{version}: {error:#}");
        database.execute("DROP TRIGGER stop").await;
        let before = contents(&database).await;

        let statement = format!("BEFORE INSERT ON _sqlx_migrations WHEN NEW.version = {version}");
        let gate = SlowGate::close(&database, &statement).await;
        let mut process = start(&conf);
        gate.die_by(|| {
            process.kill().unwrap();
            process.wait().unwrap();
        })
        .await;
        assert_same(&contents(&database).await, &before);

        let statements = migration.statements();
        for number in 1..=statements.len() {
            let left = left_behind(&database, &statements[..number].concat()).await;
            logged += std::fs::metadata(format!("{}-wal", left.source)).unwrap().len();
            assert_same(&contents(&left).await, &before);
        }
    }
    assert!(logged > 0, "no page was written before a commit");
    database.execute("DROP VIEW slow").await;
    upgraded(&database).await;
    database
}

/// A copy of the files in the middle of a transaction, which is what a killed process leaves.
async fn left_behind(database: &Database, statements: &str) -> Database {
    let left = Database::empty(Sqlite).await;
    let mut connection = database.sqlite().await;
    // Changed pages go to the log before the commit.
    let begin = format!("PRAGMA cache_size = 1; BEGIN; {statements}");
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut connection).await.unwrap();
    for file in ["", "-wal"] {
        std::fs::copy(format!("{}{file}", database.source), format!("{}{file}", left.source)).unwrap();
    }
    connection.close().await.unwrap();
    left
}
