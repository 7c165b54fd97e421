//! `/users`: looking at mappings, and making sure that they are there.

use axum::{Extension, Json as Answer, extract::State, http::StatusCode};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::http::{
    Api,
    extract::{Context, Json, Operator, OptionalJson, Query, UserPath},
    middleware::idempotency::DoNotKeep,
    paging,
    problem::{Code, Problem},
    routes::token,
    view,
};
use crate::{
    api::{
        HeldTokens, ImportRequest, MomentQuery, ProblemDocument, ResolvedUser, ResolvedUsers, TokenRequest,
        TokenResponse, UserResponse, UsersPage, UsersQuery, UsersRequest,
    },
    auth::Role,
    domain::user::{AcsId, IssuerKey, Subject, User, UserId, UserRef},
    jobs::ChangeContext,
    store::UserFilter,
    tokens::issue::Requester,
};

const MAX_LOOKUP: usize = 1000;
const MAX_ENSURE: usize = 100;
/// How many users of one request are worked on at once: kind to ACS and the database, and fast enough for a hundred.
const AT_ONCE: usize = 8;

/// List users.
#[utoipa::path(
    get, path = "/users", tag = "For operators and backends", security(("operatorKey" = [])), params(UsersQuery),
    responses(
        (status = 200, description = "A page of users. Role `viewer`.", body = UsersPage),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list_users(
    State(api): State<Api>,
    operator: Operator,
    Query(query): Query<UsersQuery>,
) -> Result<Answer<UsersPage>, Problem> {
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
    let users = api.store.list_users(&filter, limit, api.clock.now()).await?;
    let is_full = i64::try_from(users.len()).is_ok_and(|count| count == limit);
    let last = users.last().filter(|_| is_full);
    let next_cursor = last.map(|last| paging::cursor(&same_query, last.id.as_str()));
    Ok(Answer(UsersPage { users: users.into_iter().map(view::user).collect(), next_cursor }))
}

/// Get a user.
#[utoipa::path(
    get, path = "/users/{user}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("user" = String, Path, description = "`u_…`, or `<issuer key>:<subject>`, percent-encoded")),
    responses(
        (status = 200, description = "The user. Role `viewer`.", body = UserResponse),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn get_user(
    State(api): State<Api>,
    operator: Operator,
    UserPath(user): UserPath,
) -> Result<Answer<UserResponse>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    Ok(Answer(view::user(find(&api, &user).await?)))
}

/// List the tokens that a user held.
///
/// By fingerprint: the SHA-256 of a token that was found somewhere tells who got it, when, from where, and when it died.
#[utoipa::path(
    get, path = "/users/{user}/tokens", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("user" = String, Path, description = "`u_…`, or `<issuer key>:<subject>`, percent-encoded"), MomentQuery),
    responses(
        (status = 200, description = "The tokens that were handed out before the moment and not over by themselves. Role `viewer`.", body = HeldTokens),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn list_tokens(
    State(api): State<Api>,
    operator: Operator,
    UserPath(user): UserPath,
    Query(query): Query<MomentQuery>,
) -> Result<Answer<HeldTokens>, Problem> {
    operator.must_be_one_of(&[Role::Viewer])?;
    let user = find(&api, &user).await?;
    let tokens = api.store.tokens_at(&user.id, query.at.unwrap_or_else(|| api.clock.now())).await?;
    Ok(Answer(HeldTokens { tokens: tokens.into_iter().map(view::held_token).collect() }))
}

/// Look users up.
#[utoipa::path(
    post, path = "/users/lookup", tag = "For operators and backends", security(("operatorKey" = [])),
    request_body = UsersRequest,
    responses(
        (status = 200, description = "Each user, or null; at most 1000. Role `minter` or `viewer`.", body = ResolvedUsers),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn lookup_users(
    State(api): State<Api>,
    operator: Operator,
    Json(request): Json<UsersRequest>,
) -> Result<Answer<ResolvedUsers>, Problem> {
    operator.must_be_one_of(&[Role::Minter, Role::Viewer])?;
    let lookups = named(&request.users, MAX_LOOKUP, |text| match AcsId::parse(text) {
        Ok(acs_id) => Ok(Lookup::Identity(acs_id)),
        Err(_) => UserRef::parse(text).map(Lookup::User),
    })?;
    let find = async |(query, lookup)| {
        let user = match lookup {
            Lookup::User(user) => api.store.find_user(&user, api.clock.now()).await?,
            Lookup::Identity(acs_id) => api.store.find_user_by_acs_id(&acs_id, api.clock.now()).await?,
        };
        let user = user.map(view::user);
        Ok::<_, Problem>(ResolvedUser { query, user, problem: None })
    };
    let users = stream::iter(request.users.into_iter().zip(lookups)).map(find).buffered(AT_ONCE);
    Ok(Answer(ResolvedUsers { users: users.try_collect().await? }))
}

/// Ensure that users have identities.
///
/// Creates what is missing and mints nothing: enough to invite somebody to a chat.
#[utoipa::path(
    post, path = "/users/ensure", tag = "For operators and backends", security(("operatorKey" = [])),
    request_body = UsersRequest,
    responses(
        (status = 200, description = "Each user, or the code of the problem that kept it from being made; at most 100. Role `minter`.", body = ResolvedUsers),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn ensure_users(
    State(api): State<Api>,
    operator: Operator,
    Context(trace): Context,
    Json(request): Json<UsersRequest>,
) -> Result<(Option<Extension<DoNotKeep>>, Answer<ResolvedUsers>), Problem> {
    operator.must_be_one_of(&[Role::Minter])?;
    let named = named(&request.users, MAX_ENSURE, UserRef::parse)?;
    let ensure = async |(query, user)| {
        let requester = requester(&operator, user, trace.clone());
        match api.tokens.ensure(&requester).await {
            Ok(ensured) => ResolvedUser { query, user: Some(view::user(ensured)), problem: None },
            Err(error) => {
                let problem = Problem::from(error);
                let (_, code, _) = problem.code.describe();
                problem.log(None);
                ResolvedUser { query, user: None, problem: Some(code.to_owned()) }
            }
        }
    };
    let users = stream::iter(request.users.into_iter().zip(named)).map(ensure).buffered(AT_ONCE);
    let users: Vec<ResolvedUser> = users.collect().await;
    let is_partial = users.iter().any(|user| user.problem.is_some());
    Ok((is_partial.then_some(Extension(DoNotKeep)), Answer(ResolvedUsers { users })))
}

/// Issue a token for a user.
///
/// Inside the scopes and the lifetime of the key itself.
#[utoipa::path(
    post, path = "/users/{user}/token", tag = "For operators and backends", security(("operatorKey" = [])),
    operation_id = "issue_user_token",
    params(("user" = String, Path, description = "`u_…`, or `<issuer key>:<subject>`, percent-encoded")),
    request_body(content = Option<TokenRequest>, description = "May be left out."),
    responses(
        (status = 200, description = "A token that is good now. Role `minter`.", body = TokenResponse),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`, `scope_not_allowed`, `user_blocked`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`user_deleting`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 502, description = "`upstream_rejected`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "as for `POST /token`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn issue_user_token(
    State(api): State<Api>,
    operator: Operator,
    Context(trace): Context,
    UserPath(user): UserPath,
    OptionalJson(request): OptionalJson<TokenRequest>,
) -> Result<token::TokenAnswer, Problem> {
    operator.must_be_one_of(&[Role::Minter])?;
    token::issue(&api, requester(&operator, user, trace), request).await
}

/// Import a user's identity.
#[utoipa::path(
    put, path = "/users/{user}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(("user" = String, Path, description = "`u_…`, or `<issuer key>:<subject>`, percent-encoded")),
    request_body = ImportRequest,
    responses(
        (status = 200, description = "It was the user's identity before. Role `operator`.", body = UserResponse),
        (status = 201, description = "It is the user's identity from now on.", body = UserResponse),
        (status = 400, description = "`invalid_request`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`mapping_conflict`: user or identity are otherwise mapped, or the identity is being deleted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "`store_unavailable`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn import_user(
    State(api): State<Api>,
    operator: Operator,
    Context(trace): Context,
    UserPath(user): UserPath,
    Json(request): Json<ImportRequest>,
) -> Result<(StatusCode, Answer<UserResponse>), Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    let acs_id = AcsId::parse(&request.communication_user_id)
        .map_err(|error| Problem::new(Code::InvalidRequest).detail(format!("`communicationUserId`: {error}")))?;
    let order = ChangeContext { actor: Some(operator.actor()), reason: None, trace };
    let outcome = api.users.import(&user, &acs_id, &order).await?;
    let status = if outcome.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Answer(view::user(outcome.user))))
}

/// What a user can be looked up by.
enum Lookup {
    User(UserRef),
    Identity(AcsId),
}

/// Finds a user who must be there.
pub(in crate::http) async fn find(api: &Api, user: &UserRef) -> Result<User, Problem> {
    let found = api.store.find_user(user, api.clock.now()).await?;
    found.ok_or_else(|| Problem::new(Code::NotFound))
}

fn requester(operator: &Operator, user: UserRef, trace: crate::domain::audit::RequestContext) -> Requester {
    Requester {
        user,
        sign_in_time: None,
        grant: operator.0.grant.clone(),
        actor: Some(operator.actor()),
        trace,
        sign_in_id: None,
        session_id: None,
    }
}

/// Reads the users of a request, naming the first that cannot be one.
pub(in crate::http) fn named<T, E: std::fmt::Display>(
    users: &[String],
    most: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Problem> {
    let invalid = |detail: String| Problem::new(Code::InvalidRequest).detail(detail);
    if users.is_empty() || users.len() > most {
        return Err(invalid(format!("`users`: must name 1 to {most} users")));
    }
    let read =
        |(index, text): (usize, &String)| parse(text).map_err(|error| invalid(format!("`users[{index}]`: {error}")));
    users.iter().enumerate().map(read).collect()
}

fn member<T, E: std::fmt::Display>(
    name: &str,
    text: Option<&str>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Problem> {
    let invalid = |error: E| Problem::new(Code::InvalidRequest).detail(format!("`{name}`: {error}"));
    text.map(parse).transpose().map_err(invalid)
}
