//! What handlers work with.

use std::sync::Arc;

use super::{
    middleware::rate_limit::Limits,
    problem::{Code, Problem},
};
use crate::{
    auth::{Authenticator, Operators},
    domain::{
        clock::Clock,
        user::{User, UserRef},
    },
    jobs::Jobs,
    metrics::Metrics,
    store::Store,
    tokens::Tokens,
    users::Users,
};

#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) users: Arc<Users>,
    pub(crate) jobs: Arc<Jobs>,
    /// For reads that need no use case.
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) operators: Arc<Operators>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Arc<Limits>,
}

impl AppState {
    /// Finds a user, or fails with `not_found`.
    pub(super) async fn user(&self, user: &UserRef) -> Result<User, Problem> {
        self.store.find_user(user, self.clock.now()).await?.ok_or_else(|| Problem::new(Code::NotFound))
    }
}
