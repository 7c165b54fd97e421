//! `POST /token` and `POST /users/{user}/token`: tokens for app users, and for operators on behalf of users.

use axum::{Extension, Json as JsonResponse, extract::State, http::header};
use chrono::{DateTime, Duration, SubsecRound, Utc};

use crate::{
    api::{CommunicationUser, TokenRequest, TokenResponse, UserParam},
    auth::Role,
    domain::{scope::Scopes, token::Lifetime},
    http::{
        authenticate::{Operator, SignedIn},
        context::Context,
        extract::{OptionalJson, UserPath},
        outcome::{Outcome, TokenIssued},
        problem::Problem,
        state::AppState,
    },
    tokens::request::{Issued, Requester, TokenParams},
};

type TokenAnswer = (Extension<Outcome>, [(header::HeaderName, &'static str); 1], JsonResponse<TokenResponse>);

/// Issue a token.
///
/// Returns an ACS access token for the caller's own identity, which the first call creates.
///
/// `401 reauthentication_required` means that the sign-in is older than a change of the user's access: the same sign-in
/// token never becomes valid again, and `signInsValidFrom` tells from when on sign-ins are accepted.
#[utoipa::path(
    post, path = "/token", tag = "For app users", security(("signInToken" = [])),
    request_body(content = Option<TokenRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "A valid token.", body = TokenResponse,
         headers(
             ("Cache-Control" = String, description = "Always `no-store`."),
             ("RateLimit" = String, description = "The user's rate limit: requests left, and seconds until one more (draft-ietf-httpapi-ratelimit-headers)."),
             ("RateLimit-Policy" = String, description = "The limit: requests and seconds."),
         )),
    )
)]
pub(in crate::http) async fn issue_token(
    State(state): State<AppState>,
    SignedIn(sign_in): SignedIn,
    Context(request_context): Context,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<TokenAnswer, Problem> {
    issue(&state, Requester::of_sign_in(sign_in, request_context), request).await
}

/// Issue a token for a user.
///
/// Within the scopes and the lifetime of the key. Needs the role `minter`.
#[utoipa::path(
    post, path = "/users/{user}/token", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam),
    request_body(content = Option<TokenRequest>, description = "May be left out."),
    responses((status = 200, description = "A valid token.", body = TokenResponse))
)]
pub(in crate::http) async fn issue_user_token(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<TokenAnswer, Problem> {
    operator.must_be_one_of(&[Role::Minter])?;
    issue(&state, operator.requester(user, request_context), request).await
}

async fn issue(state: &AppState, requester: Requester, request: TokenRequest) -> Result<TokenAnswer, Problem> {
    let issued = state.tokens.issue(&requester, &params(request)?).await?;
    let outcome = Outcome::TokenIssued(TokenIssued {
        user: issued.user.clone(),
        fingerprint: issued.fingerprint.clone(),
        source: issued.source,
        expires_on: issued.expires_on,
        sign_in_id: requester.sign_in_id,
        session_id: requester.session_id,
        client: requester.request_context.client,
    });
    let response = response(issued, state.tokens.endpoint(), state.clock.now());
    Ok((Extension(outcome), [(header::CACHE_CONTROL, "no-store")], JsonResponse(response)))
}

fn params(request: TokenRequest) -> Result<TokenParams, Problem> {
    if request.scopes.as_ref().is_some_and(Scopes::is_empty) {
        return Err(Problem::invalid("`scopes`: must name at least one scope, or be left out"));
    }
    let lifetime = request.expires_in_minutes.map(Lifetime::from_minutes).transpose();
    let lifetime = lifetime.map_err(|error| Problem::invalid(format!("`expiresInMinutes`: {error}")))?;
    Ok(TokenParams { scopes: request.scopes, lifetime })
}

fn response(issued: Issued, endpoint: &str, now: DateTime<Utc>) -> TokenResponse {
    let expires_on = issued.expires_on;
    let left = expires_on - now;
    TokenResponse {
        expires_on,
        expires_on_timestamp: expires_on.timestamp_millis(),
        // As the SDKs' proactive refresh does: ten minutes before the end, or halfway where less than twenty are left.
        refresh_after: (expires_on - Duration::minutes(10).min(left / 2)).trunc_subsecs(3),
        token: issued.token,
        scopes: issued.scopes,
        endpoint: endpoint.to_owned(),
        user: CommunicationUser { communication_user_id: issued.acs_id.as_str().to_owned() },
    }
}
