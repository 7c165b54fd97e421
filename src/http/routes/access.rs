//! Taking access away and giving it back: revoke, block, unblock and delete, by operators and by users themselves.

use axum::{Json as Answer, extract::State, http::StatusCode};

use crate::http::{
    Api,
    extract::{Context, Login, Operator, OptionalJson, UserPath},
    problem::{Code, Problem},
    view,
};
use crate::{
    api::{ChangeRequest, ChangeResponse, ProblemDocument},
    auth::Role,
    domain::{audit::RequestContext, user::UserRef},
    jobs::ChangeContext,
    users::access::AccessChange,
};

const MAX_REASON_CHARACTERS: usize = 500;

type ChangeOutcome = Result<(StatusCode, Answer<ChangeResponse>), Problem>;

/// What is to become of a user.
enum Change {
    Fence(AccessChange),
    Unblock,
    AllowOlderSignIns,
}

macro_rules! change {
    ($(#[doc = $doc:literal])* $method:ident, $path:literal, $role:ident, $name:ident, |$request:ident| $what:expr) => {
        $(#[doc = $doc])*
        #[utoipa::path(
            $method, path = $path, tag = "For operators and backends", security(("operatorKey" = [])),
            params(
                ("user" = String, Path, description = "`u_…`, or `<issuer key>:<subject>`, percent-encoded"),
                ("Idempotency-Key" = Option<String>, Header, description = "Repeating a request with the same key and body gives the same answer for 24 hours."),
            ),
            request_body(content = Option<ChangeRequest>, description = "May be left out."),
            responses(
                (status = 200, description = concat!("Done, at ACS too. Needs the role ", stringify!($role), "."), body = ChangeResponse),
                (status = 202, description = "Accepted for good, and being retried until ACS confirms it.", body = ChangeResponse),
                (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 404, description = "`not_found`: there is no user with this id", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 422, description = "`idempotency_mismatch`", body = ProblemDocument, content_type = "application/problem+json"),
                (status = 503, description = "`store_unavailable`: nothing was accepted", body = ProblemDocument, content_type = "application/problem+json"),
            )
        )]
        pub(in crate::http) async fn $name(
            State(api): State<Api>,
            operator: Operator,
            Context(trace): Context,
            UserPath(user): UserPath,
            OptionalJson($request): OptionalJson<ChangeRequest>,
        ) -> ChangeOutcome {
            operator.must_be_one_of(&[Role::$role])?;
            let what = $what;
            change(&api, &operator, trace, &user, $request, what).await
        }
    };
}

change!(
    /// Revoke a user's access.
    ///
    /// Ends every token of the user. Unless told otherwise, logins from before now get no token any more.
    post, "/users/{user}/revoke", Revoker, revoke_user, |request| {
        Change::Fence(AccessChange::Revoke { reject_older_sign_ins: request.reject_older_sign_ins.unwrap_or(true) })
    }
);

change!(
    /// Block a user.
    ///
    /// As a revocation, and no new token until the block is lifted.
    post, "/users/{user}/block", Revoker, block_user, |request| Change::Fence(AccessChange::Block)
);

change!(
    /// Lift the block of a user.
    ///
    /// What was revoked stays revoked: the user has to sign in anew.
    post, "/users/{user}/unblock", Revoker, unblock_user, |request| Change::Unblock
);

change!(
    /// Let a user's older logins in again.
    ///
    /// Undoes what a revocation by mistake did to logins from before it. Tokens that it ended stay ended.
    post, "/users/{user}/allow-older-sign-ins", Operator, allow_older_sign_ins, |request| Change::AllowOlderSignIns
);

change!(
    /// Delete a user's identity.
    ///
    /// For good, with the user's chat memberships. Only a newer login starts afresh, with a new identity.
    delete, "/users/{user}", Operator, delete_user, |request| Change::Fence(AccessChange::Delete)
);

/// Sign out everywhere.
///
/// Ends every token of the caller, and every login from before now, this one included.
#[utoipa::path(
    post, path = "/me/revoke", tag = "For app users", security(("login" = [])),
    responses(
        (status = 200, description = "Done, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted for good, and being retried until ACS confirms it.", body = ChangeResponse),
        (status = 401, description = "`missing_credentials`, `invalid_token`, `reauthentication_required`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`; with `Retry-After` and `RateLimit`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`, `keys_unavailable`: nothing was accepted", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn revoke_me(
    State(api): State<Api>,
    Login(login): Login,
    Context(trace): Context,
) -> ChangeOutcome {
    let order = ChangeContext { actor: None, reason: None, trace };
    Ok(view::changed(api.users.revoke_me(&login, &order).await?))
}

/// Delete oneself.
///
/// For good, with the caller's chat memberships; only where `users.self_delete` is on.
#[utoipa::path(
    delete, path = "/me", tag = "For app users", security(("login" = [])),
    responses(
        (status = 200, description = "Done, at ACS too.", body = ChangeResponse),
        (status = 202, description = "Accepted for good, and being retried until ACS confirms it.", body = ChangeResponse),
        (status = 401, description = "`missing_credentials`, `invalid_token`, `reauthentication_required`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: the settings do not allow it", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "`rate_limited`; with `Retry-After` and `RateLimit`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`, `keys_unavailable`: nothing was accepted", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn delete_me(
    State(api): State<Api>,
    Login(login): Login,
    Context(trace): Context,
) -> ChangeOutcome {
    let order = ChangeContext { actor: None, reason: None, trace };
    Ok(view::changed(api.users.delete_me(&login, &order).await?))
}

async fn change(
    api: &Api,
    operator: &Operator,
    trace: RequestContext,
    user: &UserRef,
    request: ChangeRequest,
    what: Change,
) -> ChangeOutcome {
    if request.reject_older_sign_ins.is_some() && !matches!(what, Change::Fence(AccessChange::Revoke { .. })) {
        return Err(Problem::new(Code::InvalidRequest).detail("`rejectOlderSignIns`: is for a revocation only"));
    }
    let order = order(operator, trace, request.reason)?;
    let changed = match what {
        Change::Fence(kind) => api.users.change(user, kind, &order).await?,
        Change::Unblock => api.users.unblock(user, &order).await?,
        Change::AllowOlderSignIns => api.users.allow_older_sign_ins(user, &order).await?,
    };
    Ok(view::changed(changed))
}

/// Who asks for it, and why.
pub(in crate::http) fn order(
    operator: &Operator,
    trace: RequestContext,
    reason: Option<String>,
) -> Result<ChangeContext, Problem> {
    let too_long = |reason: &String| reason.chars().count() > MAX_REASON_CHARACTERS || reason.contains('\0');
    if reason.as_ref().is_some_and(too_long) {
        let detail = format!("`reason`: at most {MAX_REASON_CHARACTERS} characters, without NUL");
        return Err(Problem::new(Code::InvalidRequest).detail(detail));
    }
    Ok(ChangeContext { actor: Some(operator.actor()), reason, trace })
}
