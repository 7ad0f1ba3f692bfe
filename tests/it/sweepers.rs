//! The sweepers of two servers over one database.

use billing_service::service::proto::{ReserveQuotaRequest, SetUserLimitsRequest};
use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use rstest::rstest;
use serde_json::Value;

use crate::{
    cron::end_lease,
    harness::{
        Backend, MySql, Service, Sqlite,
        process::{ServerProcess, until_killed},
        wait::until,
    },
};

const JOB: &str = "expire-reservations";
const USERS: usize = 20;
const HOLDS_OF_A_USER: usize = 100;
/// Reserves that are sent at once.
const AT_ONCE: usize = 50;

impl Service {
    /// Holds that have expired.
    async fn hold_for_a_moment(&self) {
        let mut internal = self.internal.clone();
        for user in 0..USERS {
            let (user_id, limit) = (format!("u{user:02}"), Some(1_000_000));
            let request = SetUserLimitsRequest { user_id, daily_limit: limit, monthly_limit: limit };
            internal.set_user_limits(request).await.unwrap();
        }
        let holds = (0..USERS * HOLDS_OF_A_USER).map(|number| ReserveQuotaRequest {
            user_id: format!("u{:02}", number % USERS),
            service_name: "asset".into(),
            count: 3,
            trace_id: format!("r{number}"),
            ..Default::default()
        });
        let reserve = |request| {
            let mut internal = self.internal.clone();
            async move { internal.reserve_quota(request).await.unwrap() }
        };
        let reserved = stream::iter(holds).map(reserve).buffer_unordered(AT_ONCE).count().await;
        assert_eq!(reserved, USERS * HOLDS_OF_A_USER);
    }

    async fn number(&self, of: &str, from: &str) -> usize {
        self.database.rows(&[of], from).await[0][0].parse().unwrap()
    }

    async fn pending(&self) -> usize {
        self.number("COUNT(*)", "FROM billing_transaction WHERE status = 'PENDING'").await
    }

    async fn sweeping(&self) -> Vec<Vec<String>> {
        self.database.rows(&["owner"], &format!("FROM job_lease WHERE job = '{JOB}'")).await
    }
}

fn has_swept(line: &Value) -> bool {
    line["fields"]["message"] == "expired reservations ended"
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_goes_on_when_the_sweeping_one_is_killed_and_each_hold_is_freed_once(
    #[values(MySql, Sqlite)] on: Backend,
) {
    until_killed(1, async || {
        let service = Service::start_with(on, &[("billing.reservation_ttl", "1ms")]).await;
        // A server whose clock is off sweeps nothing.
        service.clock.advance(TimeDelta::minutes(-10));
        service.hold_for_a_moment().await;
        let all = service.pending().await;
        let conf = service.database.config_file(&[("billing.sweep_interval", "1s")]);
        let (mut first, _log) = ServerProcess::start_logged(&conf);
        until("the first server sweeps", async || service.pending().await < all).await;
        let holder = service.sweeping().await;
        first.kill();
        let (second, mut log) = ServerProcess::start_logged(&conf);
        let left = service.pending().await;
        if left == 0 {
            return 0;
        }
        assert_eq!(service.sweeping().await, holder, "the first has the lease");
        assert_eq!(service.pending().await, left);

        end_lease(&service.database, JOB).await;
        until("the second server sweeps", async || service.pending().await == 0).await;
        log.line(has_swept);
        assert_eq!((log.sum(has_swept, "freed"), log.sum(has_swept, "failed")), (left as u64, 0));
        let expired = service.number("COUNT(*)", "FROM billing_transaction WHERE status = 'EXPIRED'").await;
        assert_eq!(expired, all);
        let held = "FROM free_quota WHERE held_quota <> 0 OR used_quota <> 0";
        assert_eq!(service.number("COUNT(*)", held).await, 0);
        let counted = "FROM tenant_quota WHERE daily_used <> 0 OR monthly_used <> 0";
        assert_eq!(service.number("COUNT(*)", counted).await, 0, "a hold that is freed twice counts less than none");
        service.assert_audit_is_clean().await;
        drop(second);
        1
    })
    .await;
}
