//! The four operations.

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    call::{Action, Version},
    grant::Grant,
    limits::Limited,
    refusal::Refusal,
    shared::Shared,
};

/// An authenticated call.
pub(super) struct Call {
    pub(super) action: Action,
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) body: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    identity: IdentityBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<AccessToken>,
}

#[derive(Serialize)]
struct IdentityBody {
    id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessToken {
    token: String,
    expires_on: String,
}

impl Shared {
    /// Carries out a call.
    pub(super) fn act(&self, call: &Call) -> Result<Response, Refusal> {
        let version = Version::of(&call.uri, &call.host)?;
        match &call.action {
            Action::Create => {
                let grant = Grant::for_create(&call.body, version)?;
                self.pass(if grant.is_some() { Limited::CreateWithToken } else { Limited::Create })?;
                self.create(grant)
            }
            Action::Issue(id) => {
                let grant = Grant::for_issue(&call.body, version)?;
                self.pass(Limited::Issue)?;
                self.issue(id, &grant)
            }
            Action::Revoke(id) => {
                self.pass(Limited::Revoke)?;
                self.resource.check(id)?;
                let now = self.clock.now().timestamp();
                self.identities.revoke(id, now).map_err(|_| Refusal::identity_not_found())?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
            Action::Delete(id) => {
                self.pass(Limited::Delete)?;
                self.resource.check(id)?;
                self.identities.delete(id).map_err(|_| Refusal::identity_not_found())?;
                Ok(StatusCode::NO_CONTENT.into_response())
            }
        }
    }

    fn pass(&self, limited: Limited) -> Result<(), Refusal> {
        self.gate.pass(limited, self.clock.now()).inspect_err(|_| self.counters.throttled.add_one())
    }

    fn create(&self, grant: Option<Grant>) -> Result<Response, Refusal> {
        let id = self.resource.new_identity(self.clock.now());
        self.identities.create(&id);
        let access_token = grant.map(|grant| self.access_token(&id, &grant)).transpose()?;
        success(StatusCode::CREATED, &Created { identity: IdentityBody { id }, access_token })
    }

    fn issue(&self, id: &str, grant: &Grant) -> Result<Response, Refusal> {
        self.resource.check(id)?;
        success(StatusCode::OK, &self.access_token(id, grant)?)
    }

    /// Signs outside of the lock; a token that is revoked while it is being signed is revoked when it arrives.
    fn access_token(&self, id: &str, grant: &Grant) -> Result<AccessToken, Refusal> {
        let now = self.clock.now();
        let expires_on = now + TimeDelta::minutes(grant.minutes);
        let (issued, expires) = (now.timestamp(), expires_on.timestamp());
        let serial = self.identities.issue(id, issued, expires).map_err(|_| Refusal::identity_not_found())?;
        let token = self.mint.token(id, &grant.scopes, issued, expires, serial).ok_or_else(Refusal::internal)?;
        Ok(AccessToken { token, expires_on: round_trip(expires_on) })
    }
}

/// Writes a time as .NET does: up to seven digits of a second without trailing zeros, and a numeric offset.
pub(super) fn round_trip(time: DateTime<Utc>) -> String {
    let fraction = format!("{:07}", time.timestamp_subsec_nanos() / 100);
    let seconds = time.format("%Y-%m-%dT%H:%M:%S");
    match fraction.trim_end_matches('0') {
        "" => format!("{seconds}+00:00"),
        fraction => format!("{seconds}.{fraction}+00:00"),
    }
}

/// ACS names a charset on success, but not on errors.
fn success(status: StatusCode, body: &impl Serialize) -> Result<Response, Refusal> {
    let json = serde_json::to_vec(body).map_err(|_| Refusal::internal())?;
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    Ok((status, [(CONTENT_TYPE, content_type)], json).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_like_the_recorded_ones() {
        for recorded in [
            "2022-11-15T10:47:56.6575944+00:00",
            "2022-11-15T10:47:57.295796+00:00",
            "2022-11-15T10:47:57.2+00:00",
            "2022-11-15T10:47:57+00:00",
        ] {
            assert_eq!(round_trip(recorded.parse().unwrap()), recorded);
        }
    }
}
