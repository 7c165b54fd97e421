//! Importing mappings to existing identities: one by `PUT /users/{user}`, any number as a stream by `POST /users/import`.

use std::{io, time::Duration};

use axum::{
    Json as JsonResponse,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{TryStreamExt, stream};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    time::timeout,
};
use tokio_util::io::StreamReader;

use crate::{
    api::{IdempotencyKeyParam, ImportLine, ImportLineResult, ImportRequest, ImportResult, UserParam, UserResponse},
    auth::Role,
    domain::user::{AcsId, AppUser, IssuerKey, Subject},
    error::Error,
    http::{
        authenticate::Operator,
        context::Context,
        extract::{Json, UserPath, has_media_type, parse},
        problem::{Code, Problem},
        state::AppState,
        view,
    },
    jobs::ChangeContext,
};

/// The maximum number of lines imported in one transaction.
const CHUNK: usize = 500;
const MAX_LINE_BYTES: usize = 16 * 1024;
/// How long the client may take for the next line.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a chunk waits for more lines before it is imported.
const CHUNK_DELAY: Duration = Duration::from_millis(5);
const JSON_LINES: &str = "application/x-ndjson";

/// The content of a line, or what is wrong with it.
type Line = Result<(AppUser, AcsId), String>;

/// Import a user's identity.
///
/// `409 mapping_conflict` if the user or the identity has another mapping, or the identity was or is being deleted. Needs
/// the role `operator`.
#[utoipa::path(
    put, path = "/users/{user}", tag = "For operators and backends", security(("operatorKey" = [])),
    params(UserParam, IdempotencyKeyParam),
    request_body = ImportRequest,
    responses(
        (status = 200, description = "The identity was the user's before.", body = UserResponse),
        (status = 201, description = "The identity is the user's now.", body = UserResponse),
    )
)]
pub(in crate::http) async fn import_user(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    UserPath(user): UserPath,
    Json(request): Json<ImportRequest>,
) -> Result<(StatusCode, JsonResponse<UserResponse>), Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    let acs_id = AcsId::parse(&request.communication_user_id)
        .map_err(|error| Problem::invalid(format!("`communicationUserId`: {error}")))?;
    let outcome = state.users.import(&user, &acs_id, &operator.change(request_context, None)?).await?;
    let status = if outcome.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, JsonResponse(view::user(outcome.user))))
}

/// Import users' identities.
///
/// A stream of JSON lines, answered by one line each, in the same order. Lines that were imported before are `unchanged`, so
/// an interrupted import can simply be sent again. Needs the role `operator`.
#[utoipa::path(
    post, path = "/users/import", tag = "For operators and backends", security(("operatorKey" = [])),
    request_body(content = ImportLine, content_type = "application/x-ndjson", description = "One object on each line, at most 16 KiB a line."),
    responses((status = 200, description = "The result of each line.", body = ImportLineResult, content_type = "application/x-ndjson"))
)]
pub(in crate::http) async fn import_users(
    State(state): State<AppState>,
    operator: Operator,
    Context(request_context): Context,
    request: Request,
) -> Result<Response, Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    if !has_media_type(request.headers(), JSON_LINES) {
        return Err(Problem::new(Code::UnsupportedMediaType).detail(format!("the body must be `{JSON_LINES}`")));
    }
    let change = operator.change(request_context, None)?;
    let reader = StreamReader::new(request.into_body().into_data_stream().map_err(io::Error::other));
    let lines = Lines { reader, line: Vec::new(), length: 0 };
    let answers = stream::try_unfold(Some((lines, 1)), move |position| {
        let (state, change) = (state.clone(), change.clone());
        async move {
            let Some((mut lines, first)) = position else { return Ok(None) };
            let chunk = lines.chunk().await;
            if chunk.is_empty() {
                return Ok(None);
            }
            let next = first + u64::try_from(chunk.len()).map_err(io::Error::other)?;
            let (answer, may_continue) = import(&state, &change, first, chunk).await;
            Ok::<_, io::Error>(Some((answer, may_continue.then_some((lines, next)))))
        }
    });
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(answers)).into_response())
}

/// Why a line could not be read.
enum Broken {
    /// The line is not valid; the lines after it can be read.
    Line(String),
    /// Nothing after this line can be read.
    Cut(String),
}

/// Splits a body into lines. A line that is too long or not UTF-8 does not prevent reading the lines after it.
struct Lines<R> {
    reader: R,
    /// The part of the current line that has arrived, unless it is too long.
    line: Vec<u8>,
    length: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Reads at least one line and all that have arrived by then; none at the end.
    async fn chunk(&mut self) -> Vec<Result<String, Broken>> {
        let first = timeout(LINE_TIMEOUT, self.next()).await;
        let Some(first) = first.unwrap_or_else(|_| Some(Err(Broken::Cut("the next line took too long".to_owned()))))
        else {
            return Vec::new();
        };
        let mut is_cut = matches!(first, Err(Broken::Cut(_)));
        let mut chunk = vec![first];
        while chunk.len() < CHUNK && !is_cut {
            // A line that is incomplete stays in `self.line`.
            let Ok(Some(line)) = timeout(CHUNK_DELAY, self.next()).await else { break };
            is_cut = matches!(line, Err(Broken::Cut(_)));
            chunk.push(line);
        }
        chunk
    }

    async fn next(&mut self) -> Option<Result<String, Broken>> {
        loop {
            let bytes = match self.reader.fill_buf().await {
                Ok(bytes) => bytes,
                Err(error) => return Some(Err(Broken::Cut(format!("the body could not be read: {error}")))),
            };
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, taken) = (&bytes[..end.unwrap_or(bytes.len())], end.map_or(bytes.len(), |end| end + 1));
            self.length += taken;
            if self.length <= MAX_LINE_BYTES {
                self.line.extend_from_slice(part);
            }
            self.reader.consume(taken);
            if end.is_some() || taken == 0 {
                break;
            }
        }
        let (line, length) = (std::mem::take(&mut self.line), std::mem::take(&mut self.length));
        match length {
            0 => None,
            length if length > MAX_LINE_BYTES => Some(Err(Broken::Line(format!("longer than {MAX_LINE_BYTES} bytes")))),
            _ => Some(String::from_utf8(line).map_err(|_| Broken::Line("not valid UTF-8".to_owned()))),
        }
    }
}

/// Imports some lines and returns their results, and whether the import can go on after them.
async fn import(
    state: &AppState,
    change: &ChangeContext,
    first: u64,
    chunk: Vec<Result<String, Broken>>,
) -> (Bytes, bool) {
    let mut may_continue = true;
    let mut parsed = Vec::with_capacity(chunk.len());
    for line in chunk {
        parsed.push(match line {
            Ok(text) => parse_line(&text),
            Err(Broken::Line(detail)) => Err(detail),
            Err(Broken::Cut(detail)) => {
                may_continue = false;
                Err(detail)
            }
        });
    }
    let good: Vec<_> = parsed.iter().filter_map(|line| line.as_ref().ok()).cloned().collect();
    let imported = state.users.import_many(&good, change).await;
    let mut results = imported.results.into_iter();
    let mut answer = Vec::new();
    for (number, line) in (first..).zip(parsed) {
        let (result, detail) = match line {
            Err(detail) => (ImportResult::Invalid, Some(detail)),
            Ok(_) => match results.next() {
                Some(Ok(true)) => (ImportResult::Imported, None),
                Some(Ok(false)) => (ImportResult::Unchanged, None),
                Some(Err(Error::Conflict(detail))) => (ImportResult::Conflict, Some(detail.to_owned())),
                Some(Err(Error::Invalid(detail))) => (ImportResult::Invalid, Some(detail.to_owned())),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, line = number, "import interrupted");
                    (ImportResult::Failed, Some("the database is not available".to_owned()))
                }
                // Lines after a failure were not tried.
                None => break,
            },
        };
        may_continue &= result != ImportResult::Failed;
        // Writing into memory does not fail, and every value of this type is valid JSON.
        let _ = serde_json::to_writer(&mut answer, &ImportLineResult { line: number, result, detail });
        answer.push(b'\n');
    }
    (answer.into(), may_continue)
}

fn parse_line(text: &str) -> Line {
    let line: ImportLine = parse(text.as_bytes())?;
    let issuer = IssuerKey::parse(&line.issuer).map_err(|error| format!("`issuer`: {error}"))?;
    let subject = Subject::parse(&line.subject).map_err(|error| format!("`subject`: {error}"))?;
    let acs_id =
        AcsId::parse(&line.communication_user_id).map_err(|error| format!("`communicationUserId`: {error}"))?;
    Ok((AppUser { issuer, subject }, acs_id))
}
