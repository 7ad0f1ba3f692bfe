//! The quotas of an API key.

use axum::response::Response;
use maud::html;

use super::{actions, desk::Desk};
use crate::{
    console::{layout::Tool, link::link, user::key_quotas},
    service::proto::GetApiKeyQuotaRequest,
};

pub(super) async fn show(desk: Desk) -> Result<Response, Response> {
    let request = GetApiKeyQuotaRequest { api_key_id: desk.parameter("api_key_id").to_owned() };
    let quotas = desk.ok(desk.console.api.limits.get_api_key_quota(request).await)?;
    let (texts, key) = (desk.texts, &quotas.api_key_id);
    let content = html! {
        h1 { (texts.get("column.api_key")) }
        section.card {
            h2 { (texts.get("overview.keys")) }
            @if quotas.quotas.is_empty() { p.empty { (texts.get("api_key.none")) } }
            (key_quotas(texts, key, &quotas.quotas))
        }
        p.actions {
            @for quota in &quotas.quotas {
                a.button href=(link(&actions::KEY_QUOTA.path(), &[("api_key_id", key), ("quota_type", &quota.quota_type)])) {
                    (texts.with("api_key.change", &[("kind", &texts.word("quota_type", &quota.quota_type))]))
                }
            }
            a.button href=(link(&actions::KEY_QUOTA.path(), &[("api_key_id", key)])) {
                (texts.word("action_name", actions::KEY_QUOTA.name))
            }
        }
    };
    Ok(desk.respond(Tool::Find, texts.get("column.api_key"), content))
}
