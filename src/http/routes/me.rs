//! `GET /me`: the caller's own mapping.

use axum::{Json, extract::State};

use crate::http::{
    Api,
    extract::Login,
    problem::{Code, Problem},
    routes::users::find,
};
use crate::{
    api::{CommunicationUser, MeResponse, ProblemDocument},
    domain::user::UserRef,
};

/// Get the caller's mapping.
///
/// There is none before the first token.
#[utoipa::path(
    get,
    path = "/me",
    tag = "For app users",
    security(("login" = [])),
    responses(
        (status = 200, description = "The caller's identity.", body = MeResponse),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: no token was ever issued", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`; with `Retry-After` and `RateLimit`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`, `keys_unavailable`; with `Retry-After`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn get_me(State(api): State<Api>, Login(login): Login) -> Result<Json<MeResponse>, Problem> {
    let user = find(&api, &UserRef::AppUser(login.app_user)).await?;
    let acs_id = user.acs_id.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(Json(MeResponse {
        id: user.id.as_str().to_owned(),
        endpoint: api.tokens.endpoint().to_owned(),
        user: CommunicationUser { communication_user_id: acs_id.as_str().to_owned() },
    }))
}
