//! The way of an action: its form, its preview, its one confirmation, and the audit event as its result.
//!
//! Each preview has an id of its own, which becomes the id of the audit event and of the call. So a confirmation that is
//! sent twice changes something once, and two previews of one form are two actions. The confirmation has the fingerprint
//! of the preview, and the change is made only if it has the same one when its rows are locked.

use axum::{
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use maud::{Markup, html};
use uuid::Uuid;

use super::{
    action::{Action, Attempt, Context},
    field::Values,
    list::find,
};
use crate::{
    biz::{
        audit_trail::{Consent, Intent},
        values::{
            error::{Error, Result as Answer},
            invalid::Invalid,
            preview::{Fingerprint, Preview},
        },
    },
    console::{
        controls::{PROOF, hidden},
        failure,
        form::Fields,
        link::link,
        operator::{desk::Desk, event, figures},
    },
    service::errors,
};

/// The hidden fields of a confirmation.
const KEY: &str = "key";
const SEEN: &str = "seen";
/// The parameter of the address that leads from a preview back to its form.
const EDITED: &str = "edit";

/// A form with more fields has two of them beside each other.
const LONG: usize = 6;

/// A confirmation as it is sent.
struct Confirmation {
    key: Uuid,
    seen: Fingerprint,
}

/// The notice above a form or a preview.
enum Notice<'e> {
    Refused(&'e Error),
    /// The state is so already.
    NothingToDo,
    /// The state has changed since the preview.
    Changed,
    /// The answer did not come. A repeat of the confirmation learns it.
    Unknown,
}

pub(in crate::console::operator) async fn form(desk: Desk, Path(name): Path<String>) -> Result<Response, Response> {
    let action = known(&desk, &name)?;
    let mut values = Values::of(action.fields, |name| desk.parameter(name).to_owned());
    // A form that goes on from a preview keeps the values of the operator, and its empty fields.
    let is_edited = !desk.parameter(EDITED).is_empty();
    if let Some(current) = action.current.filter(|_| !is_edited) {
        desk.ok(current(&desk.console.api, &mut values).await)?;
    }
    Ok(show_form(&desk, action, &values, None))
}

pub(in crate::console::operator) async fn send(
    desk: Desk,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response, Response> {
    let action = known(&desk, &name)?;
    let values = Values::of(action.fields, |name| fields.text(name).to_owned());
    let key: Option<Uuid> = fields.text(KEY).parse().ok().filter(|key: &Uuid| key.get_version_num() == 7);
    match (fields.text(SEEN), key) {
        ("", _) => Ok(preview(&desk, action, &values).await),
        (_, None) => Ok(show_form(&desk, action, &values, None)),
        (seen, Some(key)) => {
            confirm(&desk, action, &values, &Confirmation { key, seen: Fingerprint::sent(seen) }).await
        }
    }
}

#[expect(clippy::result_large_err, reason = "the response of a handler")]
fn known(desk: &Desk, name: &str) -> Result<&'static Action, Response> {
    find(name).ok_or_else(|| desk.not_found())
}

async fn preview(desk: &Desk, action: &'static Action, values: &Values) -> Response {
    // The fields of a form may differ when it is sent again, so its id must not outlive a preview.
    let key = Uuid::now_v7();
    if let Err(error) = check_account(desk, action, values).await {
        return refuse(desk, action, values, &error);
    }
    match attempt(desk, action, values, (key, Consent::Withheld)).await {
        Err(Error::NotMade(Some(change))) => show_preview(desk, action, values, (key, &change), None).await,
        Err(Error::NotMade(None)) | Ok(()) => show_form(desk, action, values, Some(&Notice::NothingToDo)),
        Err(error) => refuse(desk, action, values, &error),
    }
}

async fn confirm(
    desk: &Desk,
    action: &'static Action,
    values: &Values,
    confirmation: &Confirmation,
) -> Result<Response, Response> {
    let key = confirmation.key;
    if desk.ok(is_done(desk, key).await)? {
        return Ok(done(key));
    }
    let made = attempt(desk, action, values, (key, Consent::To(confirmation.seen.clone()))).await;
    Ok(match Outcome::of(made, is_done(desk, key).await) {
        Outcome::Made => done(key),
        Outcome::Changed(change) => show_preview(desk, action, values, (key, &change), Some(&Notice::Changed)).await,
        Outcome::NothingToDo => show_form(desk, action, values, Some(&Notice::NothingToDo)),
        Outcome::Unknown(error) => {
            errors::log(&error, desk.request());
            show_again(desk, action, values, confirmation)
        }
        Outcome::Refused(error) => refuse(desk, action, values, &error),
    })
}

/// The outcome of a confirmation.
#[derive(Debug, PartialEq)]
enum Outcome {
    Made,
    /// The state has changed since the preview. The change is now this one.
    Changed(Box<Preview>),
    NothingToDo,
    /// The change may have been made. Only the same confirmation may follow, because a form with a new key could make
    /// it twice.
    Unknown(Error),
    Refused(Error),
}

impl Outcome {
    /// The outcome by the answer of the call, and by the read of its event after it. The event counts for more.
    fn of(made: Answer<()>, is_done: Answer<bool>) -> Self {
        match (is_done, made) {
            (Ok(true), _) => Self::Made,
            (Err(error), _) => Self::Unknown(error),
            (Ok(false), Err(Error::NotMade(Some(change)))) => Self::Changed(change),
            (Ok(false), Err(Error::NotMade(None)) | Ok(())) => Self::NothingToDo,
            (Ok(false), Err(error)) if errors::may_be_settled(&error) => Self::Unknown(error),
            (Ok(false), Err(error)) => Self::Refused(error),
        }
    }
}

async fn attempt(desk: &Desk, action: &'static Action, values: &Values, (key, consent): (Uuid, Consent)) -> Answer<()> {
    let intent = Intent { actor: desk.actor.clone(), event: key, consent };
    (action.perform)(&desk.console.api, values, Attempt { intent, origin: desk.origin.clone() }).await
}

/// Whether the change of a preview has been made.
async fn is_done(desk: &Desk, key: Uuid) -> Answer<bool> {
    Ok(desk.console.api.audit_trail.audit_event(key).await?.is_some())
}

async fn check_account(desk: &Desk, action: &Action, values: &Values) -> Answer<()> {
    let user = values.get("user_id");
    if action.needs_account && !user.is_empty() && !desk.console.api.accounts.exists(user).await? {
        return Err(Invalid::new("user_id", "has no account; open one first, if the id is right").into());
    }
    Ok(())
}

fn done(key: Uuid) -> Response {
    Redirect::to(&link(&event::address(&key.to_string()), &[("done", "1")])).into_response()
}

fn refuse(desk: &Desk, action: &'static Action, values: &Values, error: &Error) -> Response {
    errors::log(error, desk.request());
    show_form(desk, action, values, Some(&Notice::Refused(error)))
}

fn title(desk: &Desk, action: &Action) -> &'static str {
    desk.texts.word("action_title", action.name)
}

/// The page of an action, beside the account that it concerns.
fn respond(desk: &Desk, action: &Action, values: &Values, notice: Option<&Notice<'_>>, content: Markup) -> Response {
    let title = title(desk, action);
    let status = match notice {
        None => StatusCode::OK,
        Some(Notice::Refused(error)) => errors::kind(error).http,
        Some(Notice::NothingToDo | Notice::Changed) => StatusCode::CONFLICT,
        Some(Notice::Unknown) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let content = html! {
        section.card.broad {
            h1 { (title) }
            @match notice {
                None => {},
                Some(Notice::Refused(error)) => p.notice.bad role="alert" { (failure::message(desk.texts, error)) },
                Some(Notice::NothingToDo) => p.notice role="status" { (desk.texts.get("action.nothing")) },
                Some(Notice::Changed) => p.notice role="alert" { (desk.texts.get("action.changed")) },
                Some(Notice::Unknown) => p.notice role="alert" { (desk.texts.get("action.unknown")) },
            }
            (content)
        }
    };
    desk.respond_with(status, None, values.get("user_id"), title, content)
}

fn show_form(desk: &Desk, action: &'static Action, values: &Values, notice: Option<&Notice<'_>>) -> Response {
    let (texts, zone) = (desk.texts, desk.console.calendar.zone_name());
    let content = html! {
        p.quiet { (texts.word("action_about", action.name)) }
        form.stack.pairs[action.fields.len() > LONG] method="post" action=(action.path()) {
            (hidden(PROOF, &desk.proof))
            @for field in action.fields { (field.input(texts, zone, values.get(field.name))) }
            p.whole { button.primary { (texts.get("action.preview")) } }
        }
    };
    respond(desk, action, values, notice, content)
}

async fn show_preview(
    desk: &Desk,
    action: &'static Action,
    values: &Values,
    (key, change): (Uuid, &Preview),
    notice: Option<&Notice<'_>>,
) -> Response {
    let texts = desk.texts;
    let currency = &desk.console.settings.currency;
    let context = match action.context {
        Some(context) => context(&desk.console.api, values).await,
        None => Ok(Context::default()),
    };
    let Context { fields, facts: further } = match context {
        Ok(context) => context,
        Err(error) => return refuse(desk, action, values, &error),
    };
    let confirmed = Confirmation { key, seen: change.fingerprint() };
    let content = html! {
        h2 { (texts.get("action.will_be")) }
        (facts(desk, action, values))
        (figures::table(texts, currency, change.before.as_deref(), change.after.as_deref()))
        @if !fields.is_empty() {
            h2 { (texts.get("action.beside")) }
            (figures::comparison(texts, &fields))
        }
        @if !further.is_empty() {
            h2 { (texts.get("action.yesterday")) }
            dl.facts { @for (name, value) in &further { dt { (texts.word("quote", name)) } dd { (value) } } }
        }
        (confirmation(desk, action, values, &confirmed))
    };
    respond(desk, action, values, notice, content)
}

/// The same confirmation once more, after an answer that did not come.
fn show_again(desk: &Desk, action: &'static Action, values: &Values, again: &Confirmation) -> Response {
    let content = html! { (facts(desk, action, values)) (confirmation(desk, action, values, again)) };
    respond(desk, action, values, Some(&Notice::Unknown), content)
}

/// The values of the form as they were sent.
fn facts(desk: &Desk, action: &'static Action, values: &Values) -> Markup {
    let given = action.fields.iter().filter(|field| values.is_set(field.name));
    html! {
        dl.facts {
            @for field in given {
                dt { (field.label(desk.texts)) }
                dd { (field.shown(desk.texts, values.get(field.name))) }
            }
        }
    }
}

fn confirmation(desk: &Desk, action: &'static Action, values: &Values, confirmed: &Confirmation) -> Markup {
    let texts = desk.texts;
    let given: Vec<_> = action.fields.iter().map(|field| (field.name, values.get(field.name))).collect();
    let edited = [&given[..], &[(EDITED, "1")]].concat();
    html! {
        div.actions {
            form method="post" action=(action.path()) {
                (hidden(PROOF, &desk.proof)) (hidden(KEY, &confirmed.key.to_string())) (hidden(SEEN, confirmed.seen.as_str()))
                @for (name, value) in given.iter().filter(|(_, value)| !value.is_empty()) { (hidden(name, value)) }
                button.primary { (texts.get("action.confirm")) }
            }
            a.button href=(link(&action.path(), &edited)) { (texts.get("action.edit")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_never_called_unmade_while_its_event_cannot_be_read() {
        let change = || {
            let (before, after) = (None, Some("{}".into()));
            Box::new(Preview {
                rpc: "AdjustBalance".into(),
                user: None,
                before,
                after,
                reason: "r".into(),
                beside: None,
            })
        };
        let lost = || Error::Internal("lost".into());
        for made in [
            Ok(()),
            Err(Error::NotMade(None)),
            Err(Error::NotMade(Some(change()))),
            Err(Error::UnknownService("x".into())),
        ] {
            assert_eq!(Outcome::of(made, Err(lost())), Outcome::Unknown(lost()));
        }
        assert_eq!(Outcome::of(Err(lost()), Ok(true)), Outcome::Made);
        assert_eq!(Outcome::of(Ok(()), Ok(false)), Outcome::NothingToDo);
        assert_eq!(Outcome::of(Err(Error::NotMade(Some(change()))), Ok(false)), Outcome::Changed(change()));
        let refusal = Error::UnknownService("x".into());
        assert_eq!(Outcome::of(Err(refusal.clone()), Ok(false)), Outcome::Refused(refusal));
    }
}
