//! Authentication as extractors: app users by sign-in token, operators by key.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use super::{
    context::RequestInfo,
    middleware::rate_limit,
    problem::{Code, Problem},
    state::AppState,
};
use crate::{
    auth::{self, Role, SignIn},
    domain::{
        audit::{Actor, RequestContext},
        user::UserRef,
    },
    jobs::ChangeContext,
    limit::Limit,
    tokens::request::Requester,
};

const MAX_REASON_CHARACTERS: usize = 500;

/// The verified sign-in of an app user, counted against the user's limit.
pub(super) struct SignedIn(pub(super) SignIn);

impl FromRequestParts<AppState> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        sign_in(parts, state, &state.limits.user).await.map(Self)
    }
}

/// As [`SignedIn`], but counted against the limit for revoking one's own access.
pub(super) struct SelfRevoking(pub(super) SignIn);

impl FromRequestParts<AppState> for SelfRevoking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        sign_in(parts, state, &state.limits.self_revoke).await.map(Self)
    }
}

/// The limit is counted after the verification, because it is the user's.
async fn sign_in(parts: &Parts, state: &AppState, limit: &Limit) -> Result<SignIn, Problem> {
    let info = RequestInfo::of(parts);
    let token = bearer(&parts.headers).ok_or(auth::Error::Missing)?;
    match state.authenticator.authenticate(token).await {
        Ok(sign_in) => {
            rate_limit::count(limit, &sign_in.app_user, &info, &state.metrics)?;
            Ok(sign_in)
        }
        Err(error) => {
            if matches!(error, auth::Error::Invalid(_) | auth::Error::UnknownIssuer) {
                rate_limit::count_failed_sign_in(&state.limits, &info, &state.metrics)?;
            }
            Err(error.into())
        }
    }
}

/// The holder of an operator's key.
pub(super) struct Operator(auth::Operator);

impl FromRequestParts<AppState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let key = bearer(&parts.headers).ok_or(auth::Error::Missing)?;
        Ok(Self(state.operators.authenticate(key)?.clone()))
    }
}

impl Operator {
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// Fails unless the key has one of these roles, or `operator`.
    pub(super) fn must_be_one_of(&self, roles: &[Role]) -> Result<(), Problem> {
        if self.0.has_one_of(roles) {
            return Ok(());
        }
        let names: Vec<_> = roles.iter().map(|role| format!("`{}`", role.as_str())).collect();
        Err(Problem::new(Code::Forbidden)
            .detail(format!("the key needs the role {} or `operator`", names.join(" or "))))
    }

    fn actor(&self) -> Actor {
        Actor::OperatorKey(self.0.name.clone())
    }

    /// A change of access by this operator.
    pub(super) fn change(
        &self,
        request_context: RequestContext,
        reason: Option<String>,
    ) -> Result<ChangeContext, Problem> {
        let is_invalid = |reason: &String| reason.chars().count() > MAX_REASON_CHARACTERS || reason.contains('\0');
        if reason.as_ref().is_some_and(is_invalid) {
            let detail = format!("`reason`: must have at most {MAX_REASON_CHARACTERS} characters and no NUL");
            return Err(Problem::invalid(detail));
        }
        Ok(ChangeContext { actor: Some(self.actor()), reason, request_context })
    }

    /// A request for a token or an identity of a user by this operator.
    pub(super) fn requester(&self, user: UserRef, request_context: RequestContext) -> Requester {
        Requester {
            user,
            sign_in_time: None,
            grant: self.0.grant.clone(),
            actor: Some(self.actor()),
            request_context,
            sign_in_id: None,
            session_id: None,
        }
    }
}

/// Reads `Authorization: Bearer …` (RFC 6750 section 2.1); the scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let is_only_one = values.next().is_none();
    (is_only_one && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}
