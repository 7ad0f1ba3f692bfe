//! Databases with the tables of this release. They are copies of a migrated database, because all
//! migrations take longer than most tests.

use billing_service::app;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, Row};
use tokio::sync::OnceCell;

use super::{Database, Sqlite, mariadb};

static TEMPLATE: OnceCell<Template> = OnceCell::const_new();
/// The file of a database on SQLite.
static FILE: OnceCell<Vec<u8>> = OnceCell::const_new();

struct Template {
    name: String,
    tables: Vec<String>,
    /// The statements that create the views.
    views: Vec<String>,
}

/// A database on the shared server with the state after a first start, but without an identity.
pub async fn database() -> String {
    let source = mariadb::create_database().await;
    // TiDB has tables of its own file, and the copy was not tried there.
    if mariadb::is_tidb() {
        return source;
    }
    let Template { name, tables, views } = TEMPLATE.get_or_init(template).await;
    let copies = tables.iter().map(|table| format!("CREATE TABLE {table} LIKE {name}.{table};"));
    let rows = ["_sqlx_migrations", "event_feed"].map(|table| format!("INSERT {table} SELECT * FROM {name}.{table};"));
    let copies = copies.chain(rows).chain(views.iter().cloned()).collect::<String>();
    let mut connection = Database::on(source.clone()).mysql().await;
    sqlx::raw_sql(AssertSqlSafe(copies)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    source
}

async fn template() -> Template {
    let database = Database::on(mariadb::create_database().await);
    app::connect(&database.config(&[])).await.unwrap().close().await;
    let mut connection = database.mysql().await;
    let name = texts(&mut connection, "SELECT DATABASE()").await.remove(0);
    let tables = texts(&mut connection, "SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'").await;
    let create = "SELECT CONCAT('CREATE ALGORITHM = ', algorithm, ' SQL SECURITY ', security_type, ' VIEW ', table_name, \
        ' AS ', REPLACE(view_definition, CONCAT('`', table_schema, '`.'), ''), ';') \
        FROM information_schema.views WHERE table_schema = DATABASE()";
    let views = texts(&mut connection, create).await;
    connection.close().await.unwrap();
    Template { name, tables, views }
}

/// Fills a database on SQLite that has no file yet, with the state after a first start, but without an identity.
pub async fn fill(new: &Database) {
    std::fs::write(&new.source, FILE.get_or_init(file).await).unwrap();
}

async fn file() -> Vec<u8> {
    let database = Database::empty(Sqlite).await;
    app::connect(&database.config(&[])).await.unwrap().close().await;
    let mut connection = database.sqlite().await;
    sqlx::raw_sql("DELETE FROM database_identity").execute(&mut connection).await.unwrap();
    // The last close moves the log into the file.
    connection.close().await.unwrap();
    std::fs::read(&database.source).unwrap()
}

async fn texts(connection: &mut MySqlConnection, query: &'static str) -> Vec<String> {
    let rows = sqlx::query(query).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
