//! The settings of a port that its document shows.

use std::sync::Arc;

use super::names::Names;
use crate::{
    config::{CallbackAuth, Server, Style},
    service::routes::INTERNAL_PREFIX,
};

/// One port of the server, with the settings that its document shows.
#[derive(Clone)]
pub struct Port {
    pub config: Arc<Server>,
    pub callback_auth: CallbackAuth,
    pub is_public: bool,
}

impl Port {
    /// The style of its replies.
    pub fn style(&self) -> Style {
        // The configured style is for front ends. The internal port has the plain style.
        if self.is_public { self.config.http.style } else { Style::Plain }
    }

    pub fn names(&self) -> Names {
        Names(self.style())
    }

    pub fn serves_internal_routes(&self) -> bool {
        !self.is_public || self.config.http.internal_routes
    }

    pub fn serves(&self, path: &str) -> bool {
        match path.starts_with(INTERNAL_PREFIX) {
            true => self.serves_internal_routes(),
            false => self.is_public,
        }
    }

    /// Whether the routes for operators need a proof.
    pub fn protects_operations(&self) -> bool {
        !self.is_public && self.config.grpc.auth.protect_operations
    }
}
