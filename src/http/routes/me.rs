//! `/me`: the caller's own mapping, and ending one's own access.

use axum::{Json, extract::State, http::StatusCode};

use crate::{
    api::{ChangeResponse, CommunicationUser, MeResponse},
    domain::user::UserRef,
    http::{
        authenticate::{SelfRevoking, SignedIn},
        context::Context,
        problem::{Code, Problem},
        state::AppState,
        view,
    },
    jobs::ChangeContext,
};

/// Get the caller's mapping.
///
/// `404 not_found` before the first token.
#[utoipa::path(
    get, path = "/me", tag = "For app users", security(("signInToken" = [])),
    responses((status = 200, description = "The caller's identity.", body = MeResponse))
)]
pub(in crate::http) async fn get_me(
    State(state): State<AppState>,
    SignedIn(sign_in): SignedIn,
) -> Result<Json<MeResponse>, Problem> {
    let user = state.user(&UserRef::AppUser(sign_in.app_user)).await?;
    let acs_id = user.acs_id.ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok(Json(MeResponse {
        id: user.id.as_str().to_owned(),
        endpoint: state.tokens.endpoint().to_owned(),
        user: CommunicationUser { communication_user_id: acs_id.as_str().to_owned() },
    }))
}

/// Sign out everywhere.
///
/// Revokes every token of the caller and rejects every older sign-in, including this one. Has a rate limit of its own.
#[utoipa::path(
    post, path = "/me/revoke", tag = "For app users", security(("signInToken" = [])),
    responses(
        (status = 200, description = "Revoked, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted durably; retried until ACS confirms it.", body = ChangeResponse),
    )
)]
pub(in crate::http) async fn revoke_me(
    State(state): State<AppState>,
    SelfRevoking(sign_in): SelfRevoking,
    Context(request_context): Context,
) -> Result<(StatusCode, Json<ChangeResponse>), Problem> {
    let change = ChangeContext { actor: None, reason: None, request_context };
    Ok(view::changed(state.users.revoke_me(&sign_in, &change).await?))
}

/// Delete oneself.
///
/// Deletes the caller's identity and chat memberships permanently. `403 forbidden` unless `users.self_delete` is on.
#[utoipa::path(
    delete, path = "/me", tag = "For app users", security(("signInToken" = [])),
    responses(
        (status = 200, description = "Deleted, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted durably; retried until ACS confirms it.", body = ChangeResponse),
    )
)]
pub(in crate::http) async fn delete_me(
    State(state): State<AppState>,
    SignedIn(sign_in): SignedIn,
    Context(request_context): Context,
) -> Result<(StatusCode, Json<ChangeResponse>), Problem> {
    let change = ChangeContext { actor: None, reason: None, request_context };
    Ok(view::changed(state.users.delete_me(&sign_in, &change).await?))
}
