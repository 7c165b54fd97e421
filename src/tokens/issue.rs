//! Issuing a token: one read authorises the request, and the token comes from the cache, from ACS, or with a new identity.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Tokens,
    request::{Granted, Issued, Requester, TokenParams},
};
use crate::{
    domain::{
        audit::{Action, Actor, Event},
        user::{AcsId, State, User, UserId, UserRef},
    },
    error::Error,
    jobs::EXPEDITE_INTERVAL,
    store::{GlobalState, UserRead},
};

/// How often a minted token may be thrown away because the user changed meanwhile, before the request is refused.
const MAX_THROWN_AWAY: u32 = 2;
/// The pauses between two reads of a request that waits for another one, the first and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What the read allows.
pub(super) enum Authorised {
    /// A token for the identity.
    Token(Box<User>, AcsId),
    /// An identity to be created first.
    Create(CreateFrom),
}

/// What an identity is created over.
#[derive(Clone, Debug)]
pub(super) enum CreateFrom {
    /// A row without an identity.
    Row(Box<User>),
    /// No row: the global state is all that is known.
    NoRow(GlobalState),
}

impl Tokens {
    /// Issues a token, creating the user's identity where there is none.
    pub(crate) async fn issue(self: &Arc<Self>, requester: &Requester, params: &TokenParams) -> Result<Issued, Error> {
        let granted = self.granted(requester, params)?;
        let issued = match self.issue_current(requester, &granted).await {
            Err(Error::Upstream(error)) if error.may_pass() => {
                self.stale(requester, &granted).await?.ok_or(Error::Upstream(error))?
            }
            other => other?,
        };
        self.audit_reuse(requester, &issued).await?;
        self.parts.metrics.token_issued(issued.source.as_str());
        Ok(issued)
    }

    async fn issue_current(self: &Arc<Self>, requester: &Requester, granted: &Granted) -> Result<Issued, Error> {
        let deadline = self.deadline();
        for _ in 0..=MAX_THROWN_AWAY {
            let issued = match self.authorise(requester, deadline).await? {
                Authorised::Token(user, acs_id) => {
                    match self.cached(&user, &acs_id, granted, self.parts.settings.reuse_margin) {
                        Some(issued) => return Ok(issued),
                        None => self.mint(requester, *user, acs_id, granted, deadline).await?,
                    }
                }
                Authorised::Create(from) => self.create(requester, from, granted, deadline).await?,
            };
            // None: the user changed between the read and the write, so what the read allowed is void.
            if let Some(issued) = issued {
                return Ok(issued);
            }
        }
        Err(Error::InProgress)
    }

    fn granted(&self, requester: &Requester, params: &TokenParams) -> Result<Granted, Error> {
        let grant = requester.grant.as_ref().ok_or(Error::NoGrant)?;
        let scopes = params.scopes.as_ref().unwrap_or(&grant.scopes);
        if let Some(scope) = scopes.first_outside(&grant.scopes) {
            return Err(Error::ScopeNotAllowed(scope));
        }
        let lifetime = params.lifetime.unwrap_or(self.parts.settings.lifetime).min(grant.max_lifetime);
        Ok(Granted { scopes: scopes.clone(), lifetime })
    }

    /// Reads the user until it is clear what to do. A request that waited reads again, so no decision is older than its read.
    pub(super) async fn authorise(
        self: &Arc<Self>,
        requester: &Requester,
        deadline: Instant,
    ) -> Result<Authorised, Error> {
        let mut pause = FIRST_PAUSE;
        let mut next_expedite = Instant::now();
        loop {
            let now = self.parts.clock.now();
            let UserRead { user, global } = self.parts.store.read_user(&requester.user, now).await?;
            let Some(user) = user else { return self.authorise_unknown(requester, global, now) };
            if user.pending_operation.is_some() && Instant::now() >= next_expedite {
                next_expedite = Instant::now() + EXPEDITE_INTERVAL;
                self.parts.jobs.expedite_detached(user.id.clone());
            }
            self.refuse(&user, requester, now)?;
            if user.is_stale {
                self.parts.jobs.apply_global(&user.id).await?;
                continue;
            }
            let being_created = user.claimed_until.is_some_and(|until| now <= until);
            if !being_created && !user.held {
                return Ok(match user.acs_id.clone() {
                    Some(acs_id) => Authorised::Token(Box::new(user), acs_id),
                    None => Authorised::Create(CreateFrom::Row(Box::new(user))),
                });
            }
            if Instant::now() + pause >= deadline {
                return Err(Error::InProgress);
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// A user without a row: the global state decides, and the bind sees what becomes of it later.
    fn authorise_unknown(
        &self,
        requester: &Requester,
        global: GlobalState,
        now: DateTime<Utc>,
    ) -> Result<Authorised, Error> {
        let UserRef::AppUser(app_user) = &requester.user else { return Err(Error::NotFound) };
        if let Some(sign_in) = requester.sign_in_time {
            self.refuse_older(global.sign_ins_valid_from, sign_in, now)?;
        }
        if !self.parts.issuers.contains(&app_user.issuer) {
            return Err(Error::UNKNOWN_ISSUER);
        }
        Ok(Authorised::Create(CreateFrom::NoRow(global)))
    }

    pub(super) fn refuse(&self, user: &User, requester: &Requester, now: DateTime<Utc>) -> Result<(), Error> {
        if user.blocked_at.is_some() {
            return Err(Error::UserBlocked);
        }
        if let Some(sign_in) = requester.sign_in_time {
            self.refuse_older(user.sign_ins_valid_from, sign_in, now)?;
        }
        if user.state == State::Deleting { Err(Error::UserDeleting) } else { Ok(()) }
    }

    /// Refuses a sign-in from before the last access change. Rows are deleted some time after they changed, so a sign-in from
    /// before that time cannot be judged any more and is refused too.
    pub(crate) fn refuse_older(
        &self,
        valid_from: Option<DateTime<Utc>>,
        sign_in: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let purged = now - self.parts.tombstone_ttl;
        let since = valid_from.map_or(purged, |since| since.max(purged));
        // Sign-ins are dated in whole seconds.
        if sign_in.timestamp() < since.timestamp() {
            let max_age = (now - since).to_std().unwrap_or_default();
            return Err(Error::ReauthenticationRequired { sign_ins_valid_from: since, max_age });
        }
        Ok(())
    }
}

/// The event of what a requester did to a user.
pub(super) fn event(action: Action, requester: &Requester, user: &UserId) -> Event {
    let actor = requester.actor.clone().unwrap_or_else(|| Actor::User(user.clone()));
    let detail = (requester.sign_in_id.is_some() || requester.session_id.is_some())
        .then(|| json!({"jti": requester.sign_in_id, "sid": requester.session_id}));
    Event { detail, ..Event::new(action, actor, user.clone(), requester.request_context.clone()) }
}
