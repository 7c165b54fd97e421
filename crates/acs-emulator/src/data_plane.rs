//! The way of a request of the data plane: size, signature, operation, fault, act.
//!
//! Signatures come first, so that a stranger learns nothing, not even which paths exist.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use futures_util::stream;
use uuid::Uuid;

use super::{
    Shared,
    call::{Action, SUPPORTED_VERSIONS},
    faults::Kind,
    operations::Call,
    refusal::Refusal,
    signature::{self, Denial},
};

const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// A hanging call is let go after this time, so that it does not hold its connection for good.
const LONGEST_HANG: Duration = Duration::from_mins(10);

/// Answers everything outside the control surface.
pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().starts_with("/_emulator") {
        return Refusal::not_found().into_response();
    }
    let request_id = request.headers().get("x-ms-client-request-id").cloned();
    let mut response = answer(shared, request).await.unwrap_or_else(IntoResponse::into_response);
    add_headers(&mut response, request_id);
    response
}

/// Reads a whole body of tolerable size.
pub(super) async fn read(body: Body) -> Result<Bytes, Refusal> {
    axum::body::to_bytes(body, BODY_LIMIT_BYTES).await.map_err(|_| Refusal::body_too_large())
}

async fn answer(shared: Arc<Shared>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    signature::verify(&parts, &body, &shared.access_keys, shared.clock.now()).map_err(|denial| {
        shared.counters.unauthorized.add_one();
        tracing::debug!(reason = %denial, "denied a request");
        refuse(denial)
    })?;
    let action = Action::parse(&parts.method, parts.uri.path())?;
    let operation = action.operation();
    shared.counters.call(operation);
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let call = Call { action, uri: parts.uri, host, body };

    let Some(fault) = shared.faults.draw(operation) else {
        return shared.act(&call);
    };
    tracing::debug!(operation = operation.name(), fault = fault.name(), "a fault rule fires");
    spoil(fault, shared, call).await
}

/// Treats a call as a fault rule says.
async fn spoil(fault: Kind, shared: Arc<Shared>, call: Call) -> Result<Response, Refusal> {
    match fault {
        Kind::Delay(delay) => {
            tokio::time::sleep(delay).await;
            shared.act(&call)
        }
        Kind::Status { status, retry_after_seconds } => {
            if status == StatusCode::TOO_MANY_REQUESTS {
                shared.counters.throttled.add_one();
            }
            let code = status.canonical_reason().unwrap_or("Fault").replace(' ', "");
            let mut refusal = Refusal::new(status, code, "A fault rule of the emulator gave this answer.");
            refusal.retry_after_seconds = retry_after_seconds;
            Err(refusal)
        }
        Kind::Hang => {
            tokio::time::sleep(LONGEST_HANG).await;
            Ok(cut_connection())
        }
        Kind::DropBefore => Ok(cut_connection()),
        Kind::DropAfter => {
            // What became of the call is what the caller must not learn.
            drop(shared.act(&call));
            Ok(cut_connection())
        }
        Kind::Late(delay) => {
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                drop(shared.act(&call));
            });
            Ok(cut_connection())
        }
    }
}

/// Makes the server close the connection without a byte of answer.
///
/// The head of a response stays in hyper's buffer until its body was asked for a first piece.
/// A body that fails at once therefore takes the head down with it.
fn cut_connection() -> Response {
    let failure = io::Error::other("a fault rule cuts the connection");
    Body::from_stream(stream::iter([Err::<Bytes, io::Error>(failure)])).into_response()
}

/// ACS words a wrong content hash, and lumps together the rest.
fn refuse(denial: Denial) -> Refusal {
    match denial {
        Denial::ContentHash => Refusal::denied("Request 'x-ms-content-sha256' differs from generated content hash."),
        Denial::Authorization | Denial::SignedHeaders | Denial::Date | Denial::Signature => {
            Refusal::denied("Denied by the resource provider.")
        }
    }
}

/// Adds the headers that recorded answers of the service itself carry.
fn add_headers(response: &mut Response, request_id: Option<HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert("api-supported-versions", HeaderValue::from_static(SUPPORTED_VERSIONS));
    headers.insert("request-context", HeaderValue::from_static("appId="));
    let vector = format!("{}.0", BASE64_STANDARD_NO_PAD.encode(Uuid::new_v4()));
    if let Ok(vector) = HeaderValue::try_from(vector) {
        headers.insert("ms-cv", vector);
    }
    if let Some(id) = request_id {
        headers.insert("x-ms-client-request-id", id);
    }
}
