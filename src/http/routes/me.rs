//! `GET /me`: the caller's own mapping.

use axum::{Json, extract::State};

use crate::http::{Api, extract::Login, problem::Problem};
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
    let me = api.service.me(&UserRef::AppUser(login.app_user)).await?;
    Ok(Json(MeResponse {
        id: me.user.id.as_str().to_owned(),
        endpoint: api.service.endpoint().to_owned(),
        user: CommunicationUser { communication_user_id: me.acs_id.as_str().to_owned() },
    }))
}
