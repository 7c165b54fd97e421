//! `POST /token`: the main job.

use axum::{Extension, Json, extract::State, http::header};
use chrono::{DateTime, Duration, SubsecRound, Utc};

use crate::http::{
    Api,
    extract::{Context, Login, OptionalJson},
    middleware::access_log::TokenIssuedEvent,
    problem::{Code, Problem},
};
use crate::{
    api::{CommunicationUser, ProblemDocument, TokenRequest, TokenResponse},
    domain::{scope::Scopes, token::Lifetime},
    tokens::issue::{Issued, Requester, TokenParams},
};

/// Issue a token.
///
/// Gives the caller an ACS access token for the caller's own identity, which is created at the first call.
#[utoipa::path(
    post,
    path = "/token",
    tag = "For app users",
    security(("login" = [])),
    request_body(content = Option<TokenRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "A token that is good now.", body = TokenResponse,
         headers(
             ("Cache-Control" = String, description = "Always `no-store`."),
             ("RateLimit" = String, description = "How the user stands: requests left and seconds until one more (draft-ietf-httpapi-ratelimit-headers)."),
             ("RateLimit-Policy" = String, description = "The limit: requests and seconds."),
         )),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`, `reauthentication_required`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`scope_not_allowed`, `user_blocked`, `forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`user_deleting`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`; with `Retry-After` and `RateLimit`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 502, description = "`upstream_rejected`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`upstream_throttled`, `upstream_unavailable`, `store_unavailable`, `keys_unavailable`, `overloaded`, `operation_in_progress`; with `Retry-After`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn issue_token(
    State(api): State<Api>,
    Context(trace): Context,
    Login(login): Login,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<TokenAnswer, Problem> {
    issue(&api, Requester::of_sign_in(login, trace), request).await
}

/// An answer that carries a token, with what its line in the log tells.
pub(in crate::http) type TokenAnswer =
    (Extension<TokenIssuedEvent>, [(header::HeaderName, &'static str); 1], Json<TokenResponse>);

/// Issues a token to whoever asks.
pub(in crate::http) async fn issue(
    api: &Api,
    requester: Requester,
    request: TokenRequest,
) -> Result<TokenAnswer, Problem> {
    let mut issued = api.tokens.issue(&requester, &wanted(request)?).await?;
    let issued_event = TokenIssuedEvent {
        user: issued.user.clone(),
        fingerprint: std::mem::take(&mut issued.fingerprint),
        how: issued.source,
        expires_on: issued.expires_on,
        sign_in_id: requester.sign_in_id,
        session_id: requester.session_id,
        client: requester.trace.client,
    };
    let response = Json(response(issued, api.tokens.endpoint(), api.clock.now()));
    Ok((Extension(issued_event), [(header::CACHE_CONTROL, "no-store")], response))
}

fn wanted(request: TokenRequest) -> Result<TokenParams, Problem> {
    let invalid = |detail: String| Problem::new(Code::InvalidRequest).detail(detail);
    if request.scopes.as_ref().is_some_and(Scopes::is_empty) {
        return Err(invalid("`scopes`: must name at least one scope, or be left out".to_owned()));
    }
    let lifetime = request.expires_in_minutes.map(Lifetime::from_minutes).transpose();
    let lifetime = lifetime.map_err(|error| invalid(format!("`expiresInMinutes`: {error}")))?;
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
