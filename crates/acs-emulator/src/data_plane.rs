//! Handles a request of the data plane: size, signature, operation, fault, action.
//!
//! The signature is checked before the path, so that unauthenticated callers cannot find out which paths exist.

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
    call::{Action, SUPPORTED_VERSIONS},
    faults::{Fault, Kind},
    operations::Call,
    refusal::Refusal,
    shared::Shared,
    signature::{self, Denial},
};

const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// A hanging call is cut off after this time, so that its connection does not stay open.
const LONGEST_HANG: Duration = Duration::from_mins(10);

/// Answers everything except the control endpoints.
pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.uri().path().starts_with("/_emulator") {
        return Refusal::not_found().into_response();
    }
    let request_id = request.headers().get("x-ms-client-request-id").cloned();
    let mut response = answer(shared, request).await.unwrap_or_else(IntoResponse::into_response);
    add_headers(&mut response, request_id);
    response
}

/// Reads a whole body, up to the limit.
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
    tracing::debug!(operation = operation.name(), fault = fault.kind.name(), "a fault rule fired");
    spoil(fault, shared, call).await
}

/// Applies a fault to a call.
async fn spoil(mut fault: Fault, shared: Arc<Shared>, call: Call) -> Result<Response, Refusal> {
    match fault.kind {
        Kind::Delay(delay) => {
            tokio::time::sleep(delay).await;
            shared.act(&call)
        }
        Kind::Hold => {
            fault.released().await;
            shared.act(&call)
        }
        Kind::Status { status, retry_after_seconds } => {
            if status == StatusCode::TOO_MANY_REQUESTS {
                shared.counters.throttled.add_one();
            }
            let code = status.canonical_reason().unwrap_or("Fault").replace(' ', "");
            let mut refusal = Refusal::new(status, code, "This response was caused by a fault rule of the emulator.");
            refusal.retry_after_seconds = retry_after_seconds;
            Err(refusal)
        }
        Kind::Hang => {
            tokio::time::sleep(LONGEST_HANG).await;
            Ok(cut_connection())
        }
        Kind::DropBefore => Ok(cut_connection()),
        Kind::DropAfter => {
            // The caller must not learn the outcome.
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

/// Makes the server close the connection without sending a byte.
///
/// hyper sends the head of a response together with the first piece of its body.
/// If the body fails at once, the head is not sent either.
fn cut_connection() -> Response {
    let failure = io::Error::other("the connection is cut by a fault rule");
    Body::from_stream(stream::iter([Err::<Bytes, io::Error>(failure)])).into_response()
}

/// ACS names a wrong content hash; everything else gets one text.
fn refuse(denial: Denial) -> Refusal {
    match denial {
        Denial::ContentHash => Refusal::denied("Request 'x-ms-content-sha256' differs from generated content hash."),
        Denial::Authorization | Denial::SignedHeaders | Denial::Date | Denial::Signature => {
            Refusal::denied("Denied by the resource provider.")
        }
    }
}

/// Adds the headers that ACS sends with every response.
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
