//! The tables in each database engine.

use billing_service::app;

use crate::harness::{Database, MySql, mariadb::is_tidb};

/// The migrations that TiDB replaces by one file.
const IN_ONE_FILE: usize = 17;

#[tokio::test]
async fn the_tables_of_tidb_are_those_of_the_migrations() {
    let folder = format!("{}/migrations", env!("CARGO_MANIFEST_DIR"));
    let migrated = Database::empty(MySql).await;
    app::connect(&migrated.config(&[])).await.unwrap().close().await;

    let direct = Database::empty(MySql).await;
    direct.execute(&std::fs::read_to_string(format!("{folder}/tidb/0017_schema.sql")).unwrap()).await;
    let mut later: Vec<_> =
        std::fs::read_dir(format!("{folder}/mysql")).unwrap().map(|file| file.unwrap().path()).collect();
    later.sort();
    for file in &later[IN_ONE_FILE..] {
        direct.execute(&std::fs::read_to_string(file).unwrap()).await;
    }

    let (expected, found) = (definitions(&migrated).await, definitions(&direct).await);
    assert!(expected.len() > 100, "{expected:?}");
    assert_eq!(found, expected);
}

/// Nearly all tests use copies.
#[tokio::test]
async fn a_copied_database_has_the_tables_of_a_migrated_one() {
    let migrated = Database::empty(MySql).await;
    app::connect(&migrated.config(&[])).await.unwrap().close().await;
    let copied = Database::create(MySql).await;
    assert_eq!(definitions(&copied).await, definitions(&migrated).await);
}

/// TiDB can't change primary keys.
#[tokio::test]
async fn a_legacy_database_is_converted_except_on_tidb() {
    let legacy = Database::empty(MySql).await;
    let tables = format!("{}/migrations/mysql/0001_existing_tables.sql", env!("CARGO_MANIFEST_DIR"));
    legacy.execute(&std::fs::read_to_string(tables).unwrap()).await;
    match app::connect(&legacy.config(&[("data.database.legacy_zone", "UTC")])).await {
        Ok(store) => {
            assert!(!is_tidb());
            store.close().await;
        }
        Err(error) => {
            assert!(is_tidb(), "{error:#}");
            assert!(error.to_string().contains("import it into TiDB"), "{error:#}");
            assert_eq!(legacy.rows(&["COUNT(*)"], "FROM user_balance").await, [["0"]]);
        }
    }
}

/// All columns, parts of keys, checks and views, in order.
pub async fn definitions(database: &Database) -> Vec<Vec<String>> {
    let ours = "WHERE table_schema = DATABASE() AND table_name NOT IN ('_sqlx_migrations', 'schema_lease') ORDER BY table_name";
    let columns = [
        "table_name",
        "column_name",
        "column_type",
        "is_nullable",
        "COALESCE(column_default, 'none')",
        "extra",
        "COALESCE(collation_name, 'none')",
        "column_comment",
    ];
    let from = format!("FROM information_schema.columns {ours}, ordinal_position");
    let mut definitions = database.rows(&columns, &from).await;
    let keys = ["table_name", "index_name", "non_unique", "seq_in_index", "column_name"];
    let from = format!("FROM information_schema.statistics {ours}, index_name, seq_in_index");
    definitions.extend(database.rows(&keys, &from).await);
    let from = "FROM information_schema.check_constraints WHERE constraint_schema = DATABASE() ORDER BY check_clause";
    definitions.extend(database.rows(&["check_clause"], from).await);
    let views = "FROM information_schema.views WHERE table_schema = DATABASE() ORDER BY table_name";
    let text = "REPLACE(view_definition, CONCAT('`', table_schema, '`.'), '')";
    definitions.extend(database.rows(&["table_name", text, "security_type"], views).await);
    definitions
}
