//! The message of an error in the language of its reader. Codes, reasons and metadata are the same in every language.

use crate::{
    biz::values::{
        error::{Duplicate, Error},
        limit::Limit,
    },
    texts::{Language, Texts},
};

/// The message for the caller. In English it is that of [`super::errors::message`]. A rule that an argument breaks, and
/// other details, are in English in every language.
pub fn message_in(error: &Error, language: Language) -> String {
    let texts = Texts(language);
    match error {
        Error::InsufficientBalance { needed, available } => {
            texts.with("error.insufficient_balance", &[("needed", needed), ("available", available)])
        }
        Error::InsufficientQuota(limit) => {
            texts.with("error.insufficient_quota", &[("limit", &texts.word("limit_of", name(*limit)))])
        }
        Error::OrderNotFound(id) => texts.with("error.order_not_found", &[("id", id)]),
        Error::PaymentNotFound(id) => texts.with("error.payment_not_found", &[("id", id)]),
        Error::DuplicateRecharge(duplicate) => match duplicate {
            Duplicate::SecondPayment(order) => texts.with("error.second_payment", &[("id", order)]),
            Duplicate::PaymentOfAnotherOrder(payment) => texts.with("error.payment_of_another", &[("id", payment)]),
            Duplicate::Resolved(payment) => texts.with("error.payment_resolved", &[("id", payment)]),
            Duplicate::Credited(payment) => texts.with("error.payment_credited", &[("id", payment)]),
        },
        Error::AmountMismatch(why) => texts.with("error.amount_mismatch", &[("why", why)]),
        Error::PaymentUnavailable(why) => texts.with("error.payment_unavailable", &[("why", why)]),
        Error::IdempotencyConflict { id_field, fields } => {
            texts.with("error.idempotency_conflict", &[("id_field", id_field), ("fields", &fields.join(", "))])
        }
        Error::UnknownService(name) => texts.with("error.unknown_service", &[("name", &format!("{name:?}"))]),
        Error::Invalid(invalid) => texts.with("error.invalid", &[("field", &invalid.field), ("why", &invalid.why)]),
        Error::TransactionNotFound(id) => texts.with("error.transaction_not_found", &[("id", id)]),
        Error::TransactionState(why) => texts.with("error.transaction_state", &[("why", why)]),
        Error::NotMade(_) => texts.get("error.not_made").to_owned(),
        Error::Unauthenticated(why) => texts.with("error.unauthenticated", &[("why", why)]),
        Error::PermissionDenied(why) => texts.with("error.permission_denied", &[("why", why)]),
        Error::AccountNotActive(status) => {
            texts.with("error.account_not_active", &[("status", &texts.word("account_status", status.name()))])
        }
        Error::Overloaded(overload) => texts.with("error.overloaded", &[("why", overload)]),
        Error::Internal(_) => texts.get("error.internal").to_owned(),
    }
}

fn name(limit: Limit) -> &'static str {
    match limit {
        Limit::Daily => "daily",
        Limit::Monthly => "monthly",
        Limit::ApiKey => "api_key",
        Limit::OpenTopUps => "open_top_ups",
        Limit::Rate { .. } => "rate",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        biz::values::{
            account_status::AccountStatus,
            ids::{OrderId, PaymentId},
            invalid::Invalid,
            money::Money,
        },
        service::errors,
    };

    fn all() -> Vec<Error> {
        let (why, payment) = (|| "a {why} of its own".to_owned(), || PaymentId::from_stored("p {id}"));
        let limits = [
            Limit::Daily,
            Limit::Monthly,
            Limit::ApiKey,
            Limit::OpenTopUps,
            Limit::Rate { retry_after: Duration::from_secs(1) },
        ];
        let mut all: Vec<Error> = limits.map(Error::InsufficientQuota).into();
        all.extend(AccountStatus::ALL.map(Error::AccountNotActive));
        all.extend([
            Error::InsufficientBalance { needed: Money::from_micros(1_500_000), available: Money::ZERO },
            Error::OrderNotFound(why()),
            Error::PaymentNotFound(payment()),
            Error::DuplicateRecharge(Duplicate::SecondPayment(OrderId::from_stored("o"))),
            Error::DuplicateRecharge(Duplicate::PaymentOfAnotherOrder(payment())),
            Error::DuplicateRecharge(Duplicate::Resolved(payment())),
            Error::DuplicateRecharge(Duplicate::Credited(payment())),
            Error::AmountMismatch(why()),
            Error::PaymentUnavailable(why()),
            Error::IdempotencyConflict { id_field: "trace_id", fields: vec!["count", "cost"] },
            Error::UnknownService("a \"b\"".into()),
            Error::Invalid(Invalid::new("count", why())),
            Error::TransactionNotFound(why()),
            Error::TransactionState(why()),
            Error::NotMade(None),
            Error::Unauthenticated(why()),
            Error::PermissionDenied(why()),
            Error::Overloaded(why().into()),
            Error::Internal(why()),
        ]);
        all
    }

    #[test]
    fn the_english_catalogue_has_the_messages_of_the_contract() {
        for error in all() {
            assert_eq!(message_in(&error, Language::English), errors::message(&error));
        }
    }

    #[test]
    fn the_chinese_catalogue_keeps_the_values_of_each_message() {
        for error in all() {
            let (chinese, english) = (message_in(&error, Language::Chinese), errors::message(&error));
            assert_ne!(chinese, english);
            assert!(chinese.chars().any(|letter| ('\u{4e00}'..='\u{9fff}').contains(&letter)), "{chinese}");
            assert!(!english.contains("{why}") || chinese.contains("a {why} of its own"), "{chinese}");
        }
    }
}
