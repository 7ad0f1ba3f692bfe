//! The answer to a request that reaches no handler.

use axum::{extract::Request, response::Response};
use http::StatusCode;

use super::{http_error::http_error, request::is_grpc};
use crate::{
    biz::values::error::Error,
    config::Style,
    service::{
        errors::{self, Paced},
        request::RequestId,
        rest::Replier,
    },
};

/// Answers a request that reaches no handler.
pub struct Refusal {
    pub is_grpc: bool,
    pub style: Style,
    pub id: RequestId,
}

impl Refusal {
    pub fn of(request: &Request, style: Style) -> Self {
        Self { is_grpc: is_grpc(request), style, id: RequestId::beside(request.extensions()) }
    }

    /// Answers a request that ran into its deadline.
    pub fn late(self) -> Response {
        let message = match self.id.retry_id() {
            Some((field, _)) => {
                format!("the request took too long, and the outcome is unknown; a retry with the same {field} finds it")
            }
            None => "the request took too long; retry later".into(),
        };
        self.answer(&Error::Overloaded(message.into()))
    }

    /// For a request that did not arrive in full. Nothing was done, so it may be sent again.
    pub fn incomplete(self) -> Response {
        let message = "the request did not arrive in full, and nothing was done; send it again";
        if self.is_grpc {
            return self.answer(&Error::Overloaded(message.into()));
        }
        http_error((self.style, self.id.language()), StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message)
    }

    /// Answers a call that is refused for its peer or its caller.
    pub fn paced(self, error: &Error) -> Response {
        let mut response = self.answer(error);
        response.extensions_mut().insert(Paced);
        response
    }

    pub fn answer(self, error: &Error) -> Response {
        if self.is_grpc {
            errors::log(error, &self.id);
            errors::status(error, &self.id).into_http()
        } else {
            Replier::new(self.style, self.id).fail(error)
        }
    }
}
