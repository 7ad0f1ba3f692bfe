//! The rules that involve several keys, and the doors that a configuration leaves open.

use anyhow::{anyhow, bail};

use super::{Billing, CallbackAuth, Config, Database, Driver, Environment, PaymentServiceConfig};
use crate::{biz::account::catalog::QuotaUnit, data::dsn};

impl Config {
    /// Checks the rules that involve several keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        services(&self.billing)?;
        self.billing.webhooks.check()?;
        if let Some(redis) = &self.data.redis {
            redis.check()?;
            redis.client_tls()?;
        }
        self.server.check()?;
        self.console.check()?;
        if let Some(payment) = &self.payment_service {
            self.check_payment(payment)?;
        }
        database(&self.data.database)
    }

    fn check_payment(&self, payment: &PaymentServiceConfig) -> anyhow::Result<()> {
        payment.check()?;
        payment.client_tls()?;
        if payment.sandbox && self.environment == Some(Environment::Production) {
            bail!(
                "config key payment_service.sandbox: simulates payment-service, which environment: production forbids"
            );
        }
        Ok(())
    }

    /// Refuses an open door in production. A server calls this at its start; other programs open no
    /// port to callers.
    ///
    /// # Errors
    /// The key of the first open door.
    pub fn refuse_open_doors(&self) -> anyhow::Result<()> {
        let forbids = self.environment == Some(Environment::Production) && !self.server.insecure;
        if let Some((key, danger)) = self.open_doors().first().filter(|_| forbids) {
            bail!(
                "config key {key}: {danger}, which environment: production forbids; docs/security.md says how to close it, and server.insecure: true allows it"
            );
        }
        Ok(())
    }

    /// The keys that leave a door open, with the danger of each.
    pub fn open_doors(&self) -> Vec<(&'static str, &'static str)> {
        let mut open = self.server.open_doors();
        if self.console.enabled && !self.server.has_callers() {
            open.push((
                "console.enabled",
                "opens the pages of operators to any peer of 9107, because no caller is configured",
            ));
        }
        if self.payment_service.as_ref().is_some_and(|payment| payment.callback_auth() == CallbackAuth::None) {
            open.push(("payment_service.callback_auth", "is none, so a forged callback credits a top-up"));
        }
        open
    }
}

/// Checks that each name of a service belongs to a price.
fn services(billing: &Billing) -> anyhow::Result<()> {
    let Billing { prices, model_services, .. } = billing;
    if prices.is_empty() && model_services.is_empty() {
        bail!("config key billing.prices: names no service");
    }
    for name in model_services.keys() {
        if prices.contains_key(name) {
            bail!("config key billing.model_services.{name}: the service has a price in billing.prices");
        }
    }
    for name in billing.free_quotas.keys() {
        if !billing.has_price(name) {
            bail!("config key billing.free_quotas.{name}: the service has no price in billing.prices");
        }
    }
    for name in billing.quota_weights.keys() {
        if !model_services.get(name).is_some_and(|counts| matches!(counts.0, QuotaUnit::Tokens(_))) {
            bail!("config key billing.quota_weights.{name}: billing.model_services.{name} is not tokens");
        }
    }
    for (plan, of_plan) in &billing.plans {
        for name in of_plan.prices.keys() {
            if !prices.contains_key(name) {
                bail!("config key billing.plans.{plan}.prices.{name}: the service has no price in billing.prices");
            }
        }
        for name in of_plan.free_quotas.keys() {
            if !billing.has_price(name) {
                bail!("config key billing.plans.{plan}.free_quotas.{name}: the service has no price in billing.prices");
            }
        }
    }
    for name in billing.reservations.keys() {
        if !billing.has_price(name) {
            bail!("config key billing.reservations.{name}: the service has no price in billing.prices");
        }
    }
    Ok(())
}

fn database(database: &Database) -> anyhow::Result<()> {
    let Database { driver, source, source_file, hosts, .. } = database;
    if *driver == Driver::Sqlite && !hosts.is_empty() {
        bail!("config key data.database.hosts: needs data.database.driver: mysql");
    }
    let understood = match driver {
        Driver::Mysql => dsn::mysql_nodes(source.reveal(), hosts).map(|_| ()),
        Driver::Sqlite => dsn::sqlite(source.reveal()).map(|_| ()),
    };
    let key = if source_file.is_some() { "source_file" } else { "source" };
    understood.map_err(|why| anyhow!("config key data.database.{key}: {why}"))?;
    database.client_tls()?;
    Ok(())
}
