//! The frame of every page: head, navigation, language, sign-out.

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::{
    assets,
    controls::{PROOF, hidden},
    link::link,
    operator::OF_ACCOUNT,
};
use crate::texts::{Language, Texts};

/// The parts of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Usage,
    Records,
    TopUps,
    Statement,
}

impl Section {
    const ALL: [Self; 5] = [Self::Overview, Self::Usage, Self::Records, Self::TopUps, Self::Statement];

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/console",
            Self::Usage => "/console/usage",
            Self::Records => "/console/records",
            Self::TopUps => "/console/top-ups",
            Self::Statement => "/console/statement",
        }
    }

    fn name(self, texts: Texts) -> &'static str {
        match self {
            Self::Overview => texts.get("nav.overview"),
            Self::Usage => texts.get("nav.usage"),
            Self::Records => texts.get("nav.records"),
            Self::TopUps => texts.get("nav.top_ups"),
            Self::Statement => texts.get("nav.statement"),
        }
    }
}

/// The pages that only operators have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Find,
    UnappliedPayments,
    Prices,
    Jobs,
    Health,
    AuditEvents,
    Webhooks,
}

impl Tool {
    const ALL: [Self; 7] = [
        Self::Find,
        Self::UnappliedPayments,
        Self::Prices,
        Self::Jobs,
        Self::Health,
        Self::AuditEvents,
        Self::Webhooks,
    ];

    /// Whether only the role of the actions may read it.
    fn is_for_admins(self) -> bool {
        self == Self::Prices
    }

    fn path(self) -> &'static str {
        match self {
            Self::Find => "/console/find",
            Self::UnappliedPayments => "/console/unapplied-payments",
            Self::Prices => "/console/prices",
            Self::Jobs => "/console/jobs",
            Self::Health => "/console/health",
            Self::AuditEvents => "/console/audit-events",
            Self::Webhooks => "/console/webhooks",
        }
    }

    fn name(self, texts: Texts) -> &'static str {
        match self {
            Self::Find => texts.get("nav.find"),
            Self::UnappliedPayments => texts.get("nav.unapplied"),
            Self::Prices => texts.get("nav.prices"),
            Self::Jobs => texts.get("nav.jobs"),
            Self::Health => texts.get("nav.health"),
            Self::AuditEvents => texts.get("nav.audit_events"),
            Self::Webhooks => texts.get("nav.webhooks"),
        }
    }
}

/// The account of a page.
pub(super) struct Who<'p> {
    pub user: &'p str,
    /// The account, if links must name it; otherwise empty.
    pub named: &'p str,
    /// The shown part, if it is one.
    pub section: Option<Section>,
}

/// The frame of one page.
pub(super) struct Frame<'p> {
    pub texts: Texts,
    pub title: &'p str,
    /// `None` for a page without an account, which has no navigation.
    pub who: Option<Who<'p>>,
    /// On the pages of operators, their tools, and the one that is shown.
    pub tools: Option<Option<Tool>>,
    /// Whether the reader may do the actions of operators.
    pub may_act: bool,
    /// The proof of forms that concern no account.
    pub proof: &'p str,
    /// The address to which a change of the language leads back.
    pub address: &'p str,
    pub has_session: bool,
    /// The address that follows by itself, and the seconds until then.
    pub follows: Option<(u32, &'p str)>,
}

impl Frame<'_> {
    pub fn respond(&self, status: StatusCode, content: Markup) -> Response {
        (status, Html(self.page(&content).into_string())).into_response()
    }

    fn page(&self, content: &Markup) -> Markup {
        let texts = self.texts;
        html! {
            (DOCTYPE)
            html lang=(texts.get("language.tag")) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " \u{b7} " (texts.get("console.name")) }
                    link rel="stylesheet" href=(assets::STYLE.path());
                    link rel="icon" type="image/svg+xml" href=(assets::ICON.path());
                    script src=(assets::SCRIPT.path()) defer {}
                    @if let Some((seconds, address)) = self.follows {
                        meta http-equiv="refresh" content=(format!("{seconds};url={address}"));
                    }
                }
                body {
                    a.skip href="#content" { (texts.get("nav.skip")) }
                    div.frame {
                        header.side { (self.side()) }
                        main #content tabindex="-1" { (content) }
                    }
                }
            }
        }
    }

    fn side(&self) -> Markup {
        let texts = self.texts;
        html! {
            p.brand { (texts.get("console.name")) }
            @if let Some(shown) = self.tools {
                nav aria-label=(texts.get("nav.tools")) {
                    p.group aria-hidden="true" { (texts.get("nav.tools")) }
                    ul {
                        @for tool in Tool::ALL.into_iter().filter(|tool| self.may_act || !tool.is_for_admins()) {
                            li {
                                a href=(tool.path()) aria-current=[(Some(tool) == shown).then_some("page")] {
                                    (tool.name(texts))
                                }
                            }
                        }
                    }
                }
            }
            @if let Some(Who { user, named, section }) = &self.who {
                nav aria-label=(texts.get("nav.label")) {
                    p.account { span.quiet { (texts.get("nav.account")) } " " strong { (user) } }
                    ul {
                        @for part in Section::ALL {
                            li {
                                a href=(link(part.path(), &[("user_id", named)]))
                                    aria-current=[(Some(part) == *section).then_some("page")] {
                                    (part.name(texts))
                                }
                            }
                        }
                    }
                }
                @if self.may_act {
                    nav aria-label=(texts.get("nav.actions")) {
                        p.group aria-hidden="true" { (texts.get("nav.actions")) }
                        ul {
                            @for action in OF_ACCOUNT {
                                li {
                                    a href=(link(&action.path(), &[("user_id", user)])) {
                                        (texts.word("action_name", action.name))
                                    }
                                }
                            }
                        }
                    }
                }
            }
            div.switches { (self.switches()) }
        }
    }

    /// The forms of the language and of the sign-out.
    fn switches(&self) -> Markup {
        let texts = self.texts;
        html! {
            form method="post" action="/console/language" aria-label=(texts.get("language.label")) {
                (hidden(PROOF, self.proof)) (hidden("back", self.address))
                @for language in Language::ALL {
                    button.plain name="language" value=(language.tag()) lang=(language.tag())
                        aria-pressed=(if language == texts.0 { "true" } else { "false" }) { (language.name()) }
                }
            }
            @if self.has_session {
                form method="post" action="/console/sign-out" {
                    (hidden(PROOF, self.proof))
                    button.plain { (texts.get("sign_in.out")) }
                }
            }
        }
    }
}
