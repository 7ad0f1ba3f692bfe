//! The form of a webhook, and what the pages of webhooks share.

use maud::{Markup, html};

use super::desk::Desk;
use crate::{
    biz::{
        events::EventType,
        values::{error::Error, invalid::Invalid},
        webhooks::changes::{EXPECTED_UPDATED_AT, MUST_BE_NEW},
    },
    console::{
        controls::{PROOF, hidden},
        failure,
        form::Fields,
        link::Encoded,
    },
    service::{
        proto::{PutWebhookRequest, Webhook},
        timestamp::Timestamp,
    },
    texts::Texts,
};

pub(super) const PATH: &str = "/console/webhooks";

/// The address of the page of a webhook.
pub(super) fn path_of(id: &str) -> String {
    format!("{PATH}/{}", Encoded(id))
}

/// The values of the form of a webhook.
#[derive(Clone, Default)]
pub(super) struct Values {
    pub id: String,
    pub url: String,
    pub types: Vec<String>,
    pub is_active: bool,
    /// The last change of the webhook that the form shows; empty for a new one.
    pub version: String,
}

impl Values {
    pub fn of_form(fields: &Fields) -> Self {
        let chosen = EventType::ALL.into_iter().filter(|kind| !fields.text(&field_of(kind.name())).is_empty());
        Self {
            id: fields.text("webhook_id").into(),
            url: fields.text("url").into(),
            types: chosen.map(|kind| kind.name().to_owned()).collect(),
            is_active: !fields.text("active").is_empty(),
            version: fields.text("version").into(),
        }
    }

    pub fn of_webhook(webhook: &Webhook) -> Self {
        let Webhook { webhook_id, url, types, active, .. } = webhook;
        let version = version_of(webhook);
        Self { id: webhook_id.clone(), url: url.clone(), types: types.clone(), is_active: *active, version }
    }

    pub fn request(&self) -> PutWebhookRequest {
        PutWebhookRequest {
            webhook_id: self.id.clone(),
            url: self.url.clone(),
            types: self.types.clone(),
            active: Some(self.is_active),
            must_be_new: self.version.is_empty(),
            expected_updated_at: expected_of(&self.version),
            ..PutWebhookRequest::default()
        }
    }
}

/// The name of the field of a type of event.
fn field_of(kind: &str) -> String {
    format!("type.{kind}")
}

/// The last change of a webhook, for a form that must not be sent over a later one.
pub(super) fn version_of(webhook: &Webhook) -> String {
    let at = webhook.updated_at.as_ref();
    at.map(|at| format!("{}.{:09}", at.seconds, at.nanos)).unwrap_or_default()
}

/// The time of [`version_of`]. A text of another form is a time at which no webhook has changed; an empty one is none.
pub(super) fn expected_of(version: &str) -> Option<Timestamp> {
    let parsed = || {
        let (seconds, nanos) = version.split_once('.')?;
        Some(Timestamp { seconds: seconds.parse().ok()?, nanos: nanos.parse().ok().filter(|nanos| *nanos >= 0)? })
    };
    (!version.is_empty()).then(|| parsed().unwrap_or_default())
}

/// The form of a webhook: a new one without a version, or a change.
pub(super) fn form(desk: &Desk, values: &Values) -> Markup {
    let texts = desk.texts;
    let is_new = values.version.is_empty();
    html! {
        form.stack method="post" action=(PATH) {
            (hidden(PROOF, &desk.proof)) (hidden("version", &values.version))
            @if is_new {
                label { span { (texts.get("webhooks.id")) }
                    input name="webhook_id" required maxlength="36" autocomplete="off" value=(values.id);
                }
            } @else { (hidden("webhook_id", &values.id)) }
            label { span { (texts.get("webhooks.url")) }
                input type="url" name="url" required maxlength="2048" autocomplete="off" value=(values.url);
            }
            fieldset {
                legend { (texts.get("webhooks.types")) }
                @for kind in EventType::ALL.map(EventType::name) {
                    label.choice {
                        input type="checkbox" name=(field_of(kind)) value="on"
                            checked[values.types.iter().any(|chosen| chosen == kind)];
                        " " code { (kind) }
                    }
                }
            }
            label.choice {
                input type="checkbox" name="active" value="on" checked[values.is_active];
                " " (texts.get("webhooks.active"))
            }
            button.primary { @if is_new { (texts.get("webhooks.create")) } @else { (texts.get("webhooks.save")) } }
        }
    }
}

/// The reason why a form was refused.
pub(super) fn problem(texts: Texts, wrong: Option<&Error>) -> Markup {
    html! {
        @if let Some(error) = wrong { p.notice.bad role="alert" { (failure::message(texts, error)) } }
    }
}

/// The refusal of a form in words of the page: it shows an earlier state. A form that makes a secret may have made it when
/// it was sent before, and the browser has dropped that answer.
pub(super) fn stale(desk: &Desk, error: Error, makes_secret: bool) -> Error {
    match error {
        Error::Invalid(Invalid { field, .. }) if [EXPECTED_UPDATED_AT, MUST_BE_NEW].contains(&field.as_str()) => {
            let why = match makes_secret {
                true => desk.texts.get("webhooks.stale_secret"),
                false => desk.texts.get("webhooks.stale"),
            };
            Invalid::new("webhook_id", why).into()
        }
        other => other,
    }
}
