//! `/users`: reading mappings, and creating the identities that are missing.

use axum::{Extension, Json as JsonResponse, extract::State};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    api::{
        HeldTokens, IdempotencyKeyParam, MomentQuery, ResolvedUser, ResolvedUsers, UserParam, UserResponse, UsersPage,
        UsersQuery, UsersRequest,
    },
    auth::Role,
    domain::user::{AcsId, IssuerKey, Subject, UserId, UserRef},
    http::{
        authenticate::Operator,
        context::Context,
        extract::{Json, Query, UserPath, parse_users},
        outcome::Outcome,
        paging,
        problem::Problem,
        state::AppState,
        view,
    },
    store::UserFilter,
};

const MAX_LOOKUP: usize = 1000;
const MAX_ENSURE: usize = 100;
/// How many users of one request are handled at once.
const CONCURRENCY: usize = 8;

/// List users.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/users", tag = "For operators and backends", security(("operatorKey" = [])), params(UsersQuery),
    responses((status = 200, description = "A page of users.", body = UsersPage))
)]
pub(in crate::http) async fn list_users(
    State(state): State<AppState>,
    operator: Operator,
    Query(query): Query<UsersQuery>,
) -> Result<JsonResponse<UsersPage>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let limit = paging::limit(query.limit)?;
    let same_query =
        format!("users {:?} {:?} {:?} {:?}", query.issuer, query.subject, query.communication_user_id, query.state);
    let filter = UserFilter {
        issuer: member("issuer", query.issuer.as_deref(), IssuerKey::parse)?,
        subject: member("subject", query.subject.as_deref(), Subject::parse)?,
        acs_id: member("communicationUserId", query.communication_user_id.as_deref(), AcsId::parse)?,
        state: query.state,
        after: paging::after(query.cursor.as_deref(), &same_query, |text| UserId::parse(text).ok())?,
    };
    let users = state.store.list_users(&filter, limit, state.clock.now()).await?;
    let next_cursor = paging::next(&users, limit, &same_query, |user| user.id.as_str().to_owned());
    Ok(JsonResponse(UsersPage { users: users.into_iter().map(view::user).collect(), next_cursor }))
}

/// Get a user.
///
/// Needs the role `viewer`.
#[utoipa::path(
    get, path = "/users/{user}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam),
    responses((status = 200, description = "The user.", body = UserResponse))
)]
pub(in crate::http) async fn get_user(
    State(state): State<AppState>,
    operator: Operator,
    UserPath(user): UserPath,
) -> Result<JsonResponse<UserResponse>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    Ok(JsonResponse(view::user(state.user(&user).await?)))
}

/// List the tokens that a user held.
///
/// Tokens that were issued before a moment and had not expired. They are named by fingerprint: the SHA-256 of a token that
/// was found somewhere shows who received it, when, from where, and when it ended. Needs the role `viewer`.
#[utoipa::path(
    get, path = "/users/{user}/tokens", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, MomentQuery),
    responses((status = 200, description = "The tokens.", body = HeldTokens))
)]
pub(in crate::http) async fn list_tokens(
    State(state): State<AppState>,
    operator: Operator,
    UserPath(user): UserPath,
    Query(query): Query<MomentQuery>,
) -> Result<JsonResponse<HeldTokens>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let user = state.user(&user).await?;
    let tokens = state.store.tokens_at(&user.id, query.at.unwrap_or_else(|| state.clock.now())).await?;
    Ok(JsonResponse(HeldTokens { tokens: tokens.into_iter().map(view::held_token).collect() }))
}

/// Look up users.
///
/// At most 1000, each by `u_…`, `<issuer key>:<subject>` or ACS identity. Needs the role `minter` or `viewer`.
#[utoipa::path(
    post, path = "/users/lookup", tag = "For operators and backends", security(("operatorKey" = [])),
    request_body = UsersRequest,
    responses((status = 200, description = "Each user, or null.", body = ResolvedUsers))
)]
pub(in crate::http) async fn lookup_users(
    State(state): State<AppState>,
    operator: Operator,
    Json(request): Json<UsersRequest>,
) -> Result<JsonResponse<ResolvedUsers>, Problem> {
    enum Name {
        User(UserRef),
        Identity(AcsId),
    }
    operator.must_be_one_of(&[Role::Minter, Role::Viewer])?;
    let names = parse_users(&request.users, MAX_LOOKUP, |text| match AcsId::parse(text) {
        Ok(acs_id) => Ok(Name::Identity(acs_id)),
        Err(_) => UserRef::parse(text).map(Name::User),
    })?;
    let now = state.clock.now();
    let find = async |(query, name)| {
        let user = match name {
            Name::User(user) => state.store.find_user(&user, now).await?,
            Name::Identity(acs_id) => state.store.find_user_by_acs_id(&acs_id, now).await?,
        };
        Ok::<_, Problem>(ResolvedUser { query, user: user.map(view::user), problem: None })
    };
    let users = stream::iter(request.users.into_iter().zip(names)).map(find).buffered(CONCURRENCY);
    Ok(JsonResponse(ResolvedUsers { users: users.try_collect().await? }))
}

/// Ensure that users have identities.
///
/// Creates what is missing without issuing tokens, for example to add somebody to a chat thread. At most 100 users. Needs
/// the role `minter`.
#[utoipa::path(
    post, path = "/users/ensure", tag = "For operators and backends", security(("operatorKey" = [])),
    params(IdempotencyKeyParam),
    request_body = UsersRequest,
    responses((status = 200, description = "Each user, or the code of the problem that prevented it.", body = ResolvedUsers))
)]
pub(in crate::http) async fn ensure_users(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    Json(request): Json<UsersRequest>,
) -> Result<(Option<Extension<Outcome>>, JsonResponse<ResolvedUsers>), Problem> {
    operator.must_be_one_of(&[Role::Minter])?;
    let names = parse_users(&request.users, MAX_ENSURE, UserRef::parse)?;
    let ensure =
        async |(query, user)| match state.tokens.ensure(&operator.requester(user, request_context.clone())).await {
            Ok(ensured) => ResolvedUser { query, user: Some(view::user(ensured)), problem: None },
            Err(error) => {
                let problem = Problem::from(error);
                problem.log(None);
                ResolvedUser { query, user: None, problem: Some(problem.name().to_owned()) }
            }
        };
    let users = stream::iter(request.users.into_iter().zip(names)).map(ensure).buffered(CONCURRENCY);
    let users: Vec<ResolvedUser> = users.collect().await;
    let is_partial = users.iter().any(|user| user.problem.is_some());
    Ok((is_partial.then_some(Extension(Outcome::Partial)), JsonResponse(ResolvedUsers { users })))
}

fn member<T, E: std::fmt::Display>(
    name: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Problem> {
    text.map(parse).transpose().map_err(|error| Problem::invalid(format!("`{name}`: {error}")))
}
