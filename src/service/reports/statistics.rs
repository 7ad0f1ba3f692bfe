//! Totals and daily series.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use super::ReportService;
use crate::{
    biz::{
        reports::statistics::Totals,
        values::{
            calendar::{DaySpan, parse_day},
            error::Result,
            ids::{ServiceName, UserId},
            invalid::Invalid,
        },
    },
    service::{
        convert::{MAX_DAYS, int32, int64, span},
        proto::{
            GetStatsMonthRequest, GetStatsReply, GetStatsSummaryReply, GetStatsSummaryRequest, GetStatsTodayRequest,
            GetUsageReply, GetUsageRequest, ServiceStats, UsageDay, UsageSeries,
        },
    },
};

/// Days of a usage series if the request names none.
const DEFAULT_DAYS: u64 = 30;

impl ReportService {
    pub async fn get_stats_today(&self, request: GetStatsTodayRequest) -> Result<GetStatsReply> {
        let today = self.calendar.now().day;
        let span = DaySpan { first: today, last: today };
        self.stats(request.user_id, request.service_name, span, "today").await
    }

    pub async fn get_stats_month(&self, request: GetStatsMonthRequest) -> Result<GetStatsReply> {
        let span = self.calendar.this_month();
        self.stats(request.user_id, request.service_name, span, "month").await
    }

    async fn stats(&self, user_id: String, service_name: String, span: DaySpan, period: &str) -> Result<GetStatsReply> {
        let user = UserId::parse("user_id", &user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let service = self.service_filter(&user, &service_name).await?;
        let all = self.statistics.totals(&user, Some(span)).await?;
        let totals: Totals = match service {
            Some(service) => all.get(&service).copied().unwrap_or_default(),
            None => all.into_values().sum(),
        };
        Ok(GetStatsReply {
            user_id,
            service_name,
            total_count: int32(totals.total_count()),
            total_cost: totals.amount.to_wire(),
            free_count: int32(totals.free_count),
            paid_count: int32(totals.paid_count),
            period: period.into(),
            total_units: int64(totals.total_count()),
            free_units: int64(totals.free_count),
            paid_units: int64(totals.paid_count),
            refunded_count: int32(totals.refunded_count),
            refunded_cost: totals.refunded_amount.to_wire(),
            refunded_units: int64(totals.refunded_count),
        })
    }

    pub async fn get_stats_summary(&self, request: GetStatsSummaryRequest) -> Result<GetStatsSummaryReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let all = self.statistics.totals(&user, None).await?;
        let total: Totals = all.values().copied().sum();
        let services = all
            .iter()
            .map(|(service, totals)| ServiceStats {
                service_name: service.to_string(),
                total_count: int32(totals.total_count()),
                total_cost: totals.amount.to_wire(),
                free_count: int32(totals.free_count),
                paid_count: int32(totals.paid_count),
                total_units: int64(totals.total_count()),
                free_units: int64(totals.free_count),
                paid_units: int64(totals.paid_count),
                refunded_count: int32(totals.refunded_count),
                refunded_cost: totals.refunded_amount.to_wire(),
                refunded_units: int64(totals.refunded_count),
            })
            .collect();
        Ok(GetStatsSummaryReply {
            user_id: request.user_id,
            total_count: int32(total.total_count()),
            total_cost: total.amount.to_wire(),
            services,
            total_units: int64(total.total_count()),
            refunded_count: int32(total.refunded_count),
            refunded_cost: total.refunded_amount.to_wire(),
            refunded_units: int64(total.refunded_count),
        })
    }

    /// A series for each configured service, and for each service that is no longer configured but
    /// was used in these days.
    pub async fn get_usage(&self, request: GetUsageRequest) -> Result<GetUsageReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let only = self.service_filter(&user, &request.service_name).await?;
        let span = self.usage_span(&request)?;
        let mut by_service: BTreeMap<ServiceName, BTreeMap<NaiveDate, Totals>> = match &only {
            Some(service) => [(service.clone(), BTreeMap::new())].into(),
            None => self.catalog.services().map(|service| (service.clone(), BTreeMap::new())).collect(),
        };
        for day in self.statistics.daily(&user, span).await? {
            if only.as_ref().is_none_or(|only| *only == day.service) {
                by_service.entry(day.service).or_default().insert(day.day, day.totals);
            }
        }
        let series = by_service
            .into_iter()
            .map(|(service, days)| UsageSeries {
                service_name: service.to_string(),
                days: span
                    .first
                    .iter_days()
                    .take_while(|day| *day <= span.last)
                    .map(|day| usage_day(day, days.get(&day).copied().unwrap_or_default()))
                    .collect(),
            })
            .collect();
        Ok(GetUsageReply { user_id: request.user_id, from: span.first.to_string(), to: span.last.to_string(), series })
    }

    fn usage_span(&self, request: &GetUsageRequest) -> Result<DaySpan> {
        let today = self.calendar.now().day;
        let last = parse_day("from", &request.from).map_or(today, |from| from.max(today));
        let span = span(&request.from, &request.to, last, |last| {
            last.checked_sub_days(Days::new(DEFAULT_DAYS - 1)).unwrap_or(last)
        })?;
        if span.days() > MAX_DAYS {
            return Err(Invalid::new("from", format!("must be at most {MAX_DAYS} days before to")).into());
        }
        Ok(span)
    }

    /// The service of a read; `None` for all services. A service that is no longer configured is
    /// known by the user's charges for it.
    ///
    /// # Errors
    /// UNKNOWN_SERVICE if the service is neither configured nor charged; the errors of a read.
    pub(super) async fn service_filter(&self, user: &UserId, name: &str) -> Result<Option<ServiceName>> {
        if name.is_empty() {
            return Ok(None);
        }
        let unknown = match self.catalog.find(name) {
            Ok((service, _)) => return Ok(Some(service.clone())),
            Err(unknown) => unknown,
        };
        let retired = ServiceName::parse("service_name", name).map_err(|_| unknown.clone())?;
        let used = self.statistics.totals(user, None).await?;
        if used.contains_key(&retired) { Ok(Some(retired)) } else { Err(unknown) }
    }
}

fn usage_day(day: NaiveDate, totals: Totals) -> UsageDay {
    UsageDay {
        date: day.to_string(),
        total_count: int32(totals.total_count()),
        total_cost: totals.amount.to_wire(),
        free_count: int32(totals.free_count),
        paid_count: int32(totals.paid_count),
        total_units: int64(totals.total_count()),
        free_units: int64(totals.free_count),
        paid_units: int64(totals.paid_count),
        refunded_count: int32(totals.refunded_count),
        refunded_cost: totals.refunded_amount.to_wire(),
        refunded_units: int64(totals.refunded_count),
    }
}
