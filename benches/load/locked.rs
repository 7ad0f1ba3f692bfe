//! Another session locks the row of one user. Meanwhile, the user is charged once a second.

use std::time::Duration;

use sqlx::{Connection, MySqlConnection};
use tokio::task::{AbortHandle, JoinSet};

use crate::{
    durability::connect,
    operation::{Operation, Users, user},
    scenario::USERS,
    world::Target,
};

const PAUSE: Duration = Duration::from_secs(1);

pub struct Locked {
    session: MySqlConnection,
    charging: AbortHandle,
}

impl Locked {
    /// Locks the row of the last user. No small scenario charges this user.
    ///
    /// # Errors
    /// The database does not respond.
    pub async fn hold(target: &Target) -> anyhow::Result<Self> {
        let last = USERS - 1;
        let mut session = connect(&target.source).await?;
        sqlx::raw_sql("START TRANSACTION").execute(&mut session).await?;
        sqlx::query("SELECT user_id FROM user_balance WHERE user_id = ? FOR UPDATE")
            .bind(user(last))
            .fetch_one(&mut session)
            .await?;
        let channel = target.channel(0);
        let charging = tokio::spawn(async move {
            let mut calls = JoinSet::new();
            loop {
                let channel = channel.clone();
                calls.spawn(async move { Operation::Deduct.call(&channel, &mut Users::only(last)).await });
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Self { session, charging: charging.abort_handle() })
    }

    /// Releases the lock. Each waiting charge is settled, or has been refused before.
    ///
    /// # Errors
    /// The connection of the session is lost.
    pub async fn release(mut self) -> anyhow::Result<()> {
        self.charging.abort();
        sqlx::raw_sql("ROLLBACK").execute(&mut self.session).await?;
        self.session.close().await?;
        Ok(())
    }
}
