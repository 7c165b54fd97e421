//! `POST /users/import`: any number of identities, a line each, answered a line each while they come in.

use std::{io, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{TryStreamExt, stream};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    time::timeout,
};
use tokio_util::io::StreamReader;

use crate::http::{
    Api,
    extract::{Context, Operator},
    problem::{Code, Problem},
};
use crate::{
    api::{ImportLine, ImportLineResult, ImportResult, ProblemDocument},
    auth::Role,
    domain::user::{AcsId, AppUser, IssuerKey, Subject},
    error::Error,
    jobs::ChangeContext,
};

/// How many lines are imported in one transaction.
const CHUNK: usize = 500;
const MAX_LINE_BYTES: usize = 16 * 1024;
/// How long the next line may take, and how long more lines are waited for before those that are there are imported.
const PATIENCE: Duration = Duration::from_secs(30);
const GATHER: Duration = Duration::from_millis(5);
const JSON_LINES: &str = "application/x-ndjson";

/// What a line says, or what is wrong with it.
type Line = Result<(AppUser, AcsId), String>;

/// Import users' identities.
///
/// A stream of JSON lines, answered by one line for each, in their order. Lines that were imported before are `unchanged`,
/// so an import that was cut off may simply be made again.
#[utoipa::path(
    post, path = "/users/import", tag = "For operators and backends", security(("operatorKey" = [])),
    request_body(content = ImportLine, content_type = "application/x-ndjson", description = "One object on each line; lines have at most 16 KiB."),
    responses(
        (status = 200, description = "What became of each line. Role `operator`.", body = ImportLineResult, content_type = "application/x-ndjson"),
        (status = 401, description = "`missing_credentials`, `invalid_token`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(in crate::http) async fn import_users(
    State(api): State<Api>,
    operator: Operator,
    Context(trace): Context,
    request: Request,
) -> Result<Response, Problem> {
    operator.must_be_one_of(&[Role::Operator])?;
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_none_or(|text| text.split(';').next().unwrap_or_default().trim() != JSON_LINES) {
        return Err(Problem::new(Code::UnsupportedMediaType).detail(format!("the body must be `{JSON_LINES}`")));
    }
    let order = ChangeContext { actor: Some(operator.actor()), reason: None, trace };
    let reader = StreamReader::new(request.into_body().into_data_stream().map_err(io::Error::other));
    let lines = Lines { reader, line: Vec::new(), length: 0 };
    let answers = stream::try_unfold(Some((lines, 1)), move |state| {
        let (api, order) = (api.clone(), order.clone());
        async move {
            let Some((mut lines, first)) = state else { return Ok(None) };
            let chunk = lines.chunk().await;
            if chunk.is_empty() {
                return Ok(None);
            }
            let next = first + u64::try_from(chunk.len()).map_err(io::Error::other)?;
            let (answer, is_whole) = import(&api, &order, first, chunk).await;
            Ok::<_, io::Error>(Some((answer, is_whole.then_some((lines, next)))))
        }
    });
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], Body::from_stream(answers)).into_response())
}

/// Why a line could not be read.
enum Broken {
    /// It is not as it should be; those after it can be read.
    Line(String),
    /// Nothing after it can be read.
    Cut(String),
}

/// A body that is taken apart; a line that is too long, or no text, does not keep those after it from being read.
struct Lines<R> {
    reader: R,
    /// What has come of the line that is being read, as long as it is not too long.
    line: Vec<u8>,
    length: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Reads some lines: as many as there are at this moment, and one at least; none at the end.
    async fn chunk(&mut self) -> Vec<Result<String, Broken>> {
        let first = timeout(PATIENCE, self.next()).await;
        let Some(first) = first.unwrap_or_else(|_| Some(Err(Broken::Cut("the next line took too long".to_owned()))))
        else {
            return Vec::new();
        };
        let mut is_cut = matches!(first, Err(Broken::Cut(_)));
        let mut chunk = vec![first];
        while chunk.len() < CHUNK && !is_cut {
            // What has begun to come and is not whole yet stays where it is.
            let Ok(Some(line)) = timeout(GATHER, self.next()).await else { break };
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
            length if length > MAX_LINE_BYTES => {
                Some(Err(Broken::Line(format!("has more than {MAX_LINE_BYTES} bytes"))))
            }
            _ => Some(String::from_utf8(line).map_err(|_| Broken::Line("is no UTF-8".to_owned()))),
        }
    }
}

/// Imports some lines and writes the answer to them; tells too whether more lines may follow.
async fn import(api: &Api, order: &ChangeContext, first: u64, chunk: Vec<Result<String, Broken>>) -> (Bytes, bool) {
    let mut is_whole = true;
    let mut parsed = Vec::with_capacity(chunk.len());
    for line in chunk {
        parsed.push(match line {
            Ok(text) => parse(&text),
            Err(Broken::Line(detail)) => Err(detail),
            Err(Broken::Cut(detail)) => {
                is_whole = false;
                Err(detail)
            }
        });
    }
    let good: Vec<_> = parsed.iter().filter_map(|line| line.as_ref().ok()).cloned().collect();
    let imported = api.users.import_many(&good, order).await;
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
                    tracing::warn!(error = &error as &dyn std::error::Error, line = number, "an import was cut off");
                    (ImportResult::Failed, Some("the database is not available".to_owned()))
                }
                // What comes after a failure was not tried.
                None => break,
            },
        };
        is_whole &= result != ImportResult::Failed;
        // Writing into memory does not fail, and these values always have a JSON form.
        let _ = serde_json::to_writer(&mut answer, &ImportLineResult { line: number, result, detail });
        answer.push(b'\n');
    }
    (answer.into(), is_whole)
}

fn parse(text: &str) -> Line {
    let line: ImportLine = serde_json::from_str(text).map_err(|error| format!("is no such JSON: {error}"))?;
    let issuer = IssuerKey::parse(&line.issuer).map_err(|error| format!("`issuer`: {error}"))?;
    let subject = Subject::parse(&line.subject).map_err(|error| format!("`subject`: {error}"))?;
    let acs_id =
        AcsId::parse(&line.communication_user_id).map_err(|error| format!("`communicationUserId`: {error}"))?;
    Ok((AppUser { issuer, subject }, acs_id))
}
