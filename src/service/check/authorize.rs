//! The route that a proxy asks before it passes a request on: ext_authz of Envoy, auth_request of nginx. Its
//! headers name the call; its method, the rest of its path and its body are those of the client and mean nothing.

use http::{HeaderMap, StatusCode};

use super::{
    CheckService,
    fields::{FIELDS, HEADER_PREFIX, Named},
    policies::{self, Headers},
};
use crate::{
    biz::{
        check::Decision,
        values::{
            error::{Error, Result},
            invalid::Invalid,
        },
    },
    service::{errors, json::UnknownNames, proto::CheckQuotaRequest, routes::AUTHORIZE_PATH},
};

/// The answer to a proxy.
pub struct Authorization {
    /// The refusal and its status; `None` for a call that is covered.
    pub refusal: Option<(Error, StatusCode)>,
    pub headers: Headers,
}

impl CheckService {
    /// Checks the call that the headers name.
    ///
    /// # Errors
    /// As [`CheckService::check_quota`].
    pub async fn authorize(&self, headers: &HeaderMap) -> Result<Authorization> {
        let verdict = self.checked(self.named_by(headers)?).await?;
        let headers = policies::headers(&verdict, &policies::policies(&verdict, &self.calendar));
        let refusal = match verdict.decision {
            Decision::Free | Decision::Balance => None,
            Decision::Refused(refusal) => {
                let status = status(&refusal);
                Some((refusal, status))
            }
        };
        Ok(Authorization { refusal, headers })
    }

    fn named_by(&self, headers: &HeaderMap) -> Result<CheckQuotaRequest> {
        let (mut named, mut unknown) = (Named::of(1), UnknownNames::default());
        for (name, value) in headers {
            if !name.as_str().starts_with(HEADER_PREFIX) || value.is_empty() {
                continue;
            }
            let text = value.to_str().map_err(|_| {
                let field = FIELDS.iter().find(|field| field.header == name).map_or(name.as_str(), |field| field.name);
                Invalid::new(field, "must be printable ASCII characters")
            })?;
            if !named.set(|field| field.header == name, text)? {
                unknown.add(|| name.to_string());
            }
        }
        self.unknown.apply(AUTHORIZE_PATH, &unknown)?;
        Ok(named.check)
    }
}

/// The status of a call that neither free quota nor balance covers, so that a proxy can tell it from a bad request.
pub const UNCOVERED: StatusCode = StatusCode::PAYMENT_REQUIRED;

fn status(refusal: &Error) -> StatusCode {
    match refusal {
        Error::InsufficientBalance { .. } => UNCOVERED,
        other => errors::kind(other).http,
    }
}
