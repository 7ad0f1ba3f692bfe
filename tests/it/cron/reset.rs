//! `reset-quotas` opens the months of every user.

use billing_service::app::cron::Job;
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use super::{Counted, cron, migrated, quotas, run, runner, runs, stdout, sum, users};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, TestClock, charge};

#[rstest]
#[tokio::test]
async fn months_are_opened_for_every_user_and_then_do_not_change(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.deduct(charge("spender", "asset", 7)).await;
    users(&service.database, 2_500).await;
    let runner = runner(service.database.config(&[]), &service.clock, CancellationToken::new()).await;
    let shown = Counted::all();
    let report = runner.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!(
        (report.lines.as_slice(), report.is_good),
        (&["reset-quotas: 2501 users open, 0 failed".to_owned()][..], true)
    );
    assert_eq!((shown.done(), shown.expected()), (2_501, 2_501));
    for month in ["2026-11", "2026-12"] {
        let rows = quotas(&service.database, month).await;
        assert_eq!(rows.len(), 2_501 * 3);
        let used: Vec<&str> = rows.iter().filter(|row| row[3] != "0").map(|row| row[3].as_str()).collect();
        assert_eq!(used, if month == "2026-11" { vec!["7"] } else { vec![] });
    }
    assert_eq!(runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap(), None, "the period has been run");
    // The month works as if the first call had opened it.
    service.clock.set("2026-11-30T16:00:00Z");
    assert_eq!(service.deduct(charge("spender", "asset", 1)).await.free_remaining, 999);
    assert_eq!(service.deduct(charge("user00042", "asset", 1)).await.free_remaining, 999);
    assert_eq!(service.deduct(charge("new", "asset", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test]
async fn changed_quotas_take_effect_in_the_next_month(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    users(&database, 2).await;
    let total = async |month: &str| -> Vec<String> {
        let rows = quotas(&database, month).await;
        rows.into_iter().filter(|row| row[1] == "asset").map(|row| row[2].clone()).collect()
    };
    for (asset, now, next) in [("1000", "1000", "1000"), ("500", "1000", "500"), ("1000", "1000", "1000")] {
        let config = database.config(&[("billing.free_quotas.asset", asset)]);
        let runner = runner(config, &clock, CancellationToken::new()).await;
        assert!(runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap().is_some());
        assert_eq!(
            (total("2026-11").await, total("2026-12").await),
            (vec![now.to_owned(); 2], vec![next.to_owned(); 2])
        );
    }
}

#[rstest]
#[tokio::test]
async fn a_user_whose_rows_cannot_be_written_does_not_stop_the_others(#[values(MySql, Sqlite)] on: Backend) {
    let database = migrated(Database::create(on).await).await;
    users(&database, 5).await;
    let trigger = match on {
        MySql => {
            "CREATE TRIGGER refuse BEFORE INSERT ON free_quota FOR EACH ROW \
             IF NEW.user_id = 'user00002' AND NEW.service_name = 'asset' THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF"
        }
        Sqlite => {
            "CREATE TRIGGER refuse BEFORE INSERT ON free_quota \
             WHEN NEW.user_id = 'user00002' AND NEW.service_name = 'asset' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END"
        }
    };
    database.execute(trigger).await;
    let clock = TestClock::real();
    clock.set("2026-11-20T04:00:00Z");
    let runner = runner(database.config(&[]), &clock, CancellationToken::new()).await;
    let shown = Counted::all();
    let report = runner.run_due(Job::ResetQuotas, &shown).await.unwrap().unwrap();
    assert_eq!(shown.reported(), ["reset-quotas: user user00002 was left out"]);
    assert_eq!(
        (report.lines.as_slice(), report.is_good),
        (&["reset-quotas: 4 users open, 1 failed".to_owned()][..], false)
    );
    let rows = quotas(&database, "2026-12").await;
    assert_eq!(rows.len(), 14, "all but one service of one user");

    // The period is finished. Another run by hand tries the user again, and exits with 1.
    let kept = runs(&database, "reset-quotas").await;
    assert_eq!((kept[0][1].as_str(), kept[0][2].as_str()), ("2026-11 4 1 user00004", "1"));
    assert_eq!(runner.run_due(Job::ResetQuotas, &Counted::all()).await.unwrap(), None);
    let again = run(cron(&database.config_file(&[]), &["--once", "reset-quotas"])).await;
    assert_eq!((sum(&again).as_str(), again.status.code()), ("reset-quotas: 4 users open, 1 failed", Some(1)));
    assert!(stdout(&again).contains("user user00002 was left out"));
    // The first call opens the missing rows.
    database.execute("DROP TRIGGER refuse").await;
    let service = Service::start_on(database, &[]).await;
    service.clock.set("2026-12-01T04:00:00Z");
    assert_eq!(service.deduct(charge("user00002", "asset", 1)).await.free_remaining, 999);
    service.assert_audit_is_clean().await;
}
