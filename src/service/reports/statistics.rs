//! Totals of a day, a month, and all time.

use super::ReportService;
use crate::{
    biz::{
        reports::statistics::Totals,
        values::{
            calendar::DaySpan,
            error::Result,
            ids::{ServiceName, UserId},
        },
    },
    service::{
        convert::{int32, int64},
        proto::{
            GetStatsMonthRequest, GetStatsReply, GetStatsSummaryReply, GetStatsSummaryRequest, GetStatsTodayRequest,
            ServiceStats,
        },
    },
};

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
