//! Issuing: read once as the authorisation, mint at ACS, and hand out only what is still right.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

use super::{Error, Service, floor_to_second};
use crate::{
    auth::Login,
    domain::{
        audit::{Action, Actor, Event, TokenTrace},
        scope::Scopes,
        token::{IssuedToken, Lifetime},
        user::{AcsId, State, User, UserId},
    },
    store::Mint,
};

/// How often a token that ACS minted may turn out to be fenced before the request is sent away.
const MAX_THROWN_AWAY: u32 = 2;
/// How long a request that waits for another one looks away, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// What a user asks for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The scopes; all that are granted where not said.
    pub scopes: Option<Scopes>,
    /// The longest life; the default where not said.
    pub lifetime: Option<Lifetime>,
    /// The request, for the audit trail.
    pub request_id: Option<String>,
}

/// A token that may leave the house.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: IssuedToken,
    /// Its scopes.
    pub scopes: Scopes,
    /// Whose it is, in our words.
    pub user: UserId,
    /// Whose it is, in ACS's words.
    pub acs_id: AcsId,
}

/// What was asked for, bounded by what the login is granted.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) scopes: Scopes,
    pub(super) lifetime: Lifetime,
    pub(super) request_id: Option<String>,
}

/// What the read entitles to.
enum Authorised {
    /// There is an identity: mint for it.
    Mint(User, AcsId),
    /// There is none: create it, over this row if there is one.
    Create(Option<User>),
}

impl Service {
    /// Issues a token to the user of a login, creating the user's identity where there is none.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::NotFound`].
    pub async fn issue(self: &Arc<Self>, login: &Login, wanted: &Wanted) -> Result<Issued, Error> {
        let terms = self.terms(login, wanted)?;
        let deadline = self.deadline();
        let mut thrown_away = 0;
        loop {
            let issued = match self.authorise(login, deadline).await? {
                Authorised::Mint(user, acs_id) => self.mint(&user, acs_id, &terms, deadline).await?,
                Authorised::Create(read) => self.create(login, read, &terms, deadline).await?,
            };
            if let Some(issued) = issued {
                return Ok(issued);
            }
            // The mapping changed between the read and the write: what was decided before is worth nothing now.
            thrown_away += 1;
            if thrown_away > MAX_THROWN_AWAY {
                return Err(Error::InProgress);
            }
        }
    }

    fn terms(&self, login: &Login, wanted: &Wanted) -> Result<Terms, Error> {
        let grant = login.grant.as_ref().ok_or(Error::NoGrant)?;
        let scopes = wanted.scopes.as_ref().unwrap_or(&grant.scopes);
        if let Some(scope) = scopes.first_outside(&grant.scopes) {
            return Err(Error::ScopeNotAllowed(scope));
        }
        let lifetime = wanted
            .lifetime
            .unwrap_or(self.settings.lifetime)
            .min(grant.max_lifetime);
        Ok(Terms {
            scopes: scopes.clone(),
            lifetime,
            request_id: wanted.request_id.clone(),
        })
    }

    /// Reads the mapping until it says what to do; whoever waited reads again, so that no decision is older than the read.
    async fn authorise(&self, login: &Login, deadline: Instant) -> Result<Authorised, Error> {
        let mut look = FIRST_LOOK;
        loop {
            let now = self.clock.now();
            let Some(user) = self.store.find_user(&login.app_user, now).await? else {
                return Ok(Authorised::Create(None));
            };
            refuse(&user, login, now)?;
            let being_created = user.claimed_until.is_some_and(|until| now <= until);
            if !being_created && !user.held {
                return Ok(match user.acs_id.clone() {
                    Some(acs_id) => Authorised::Mint(user, acs_id),
                    None => Authorised::Create(Some(user)),
                });
            }
            if Instant::now() + look >= deadline {
                return Err(Error::InProgress);
            }
            tokio::time::sleep(look).await;
            look = LONGEST_LOOK.min(look * 2);
        }
    }

    async fn mint(
        &self,
        user: &User,
        acs_id: AcsId,
        terms: &Terms,
        deadline: Instant,
    ) -> Result<Option<Issued>, Error> {
        let token = self
            .upstream
            .issue(&acs_id, &terms.scopes, terms.lifetime, deadline)
            .await?;
        let minted = minted(&user.id, &acs_id, &token, user.generation, terms);
        let mint = Mint {
            user: &user.id,
            generation: user.generation,
            acs_id: &acs_id,
            expires_at: token.expires_on.trunc_subsecs(3),
        };
        let still_right = self.store.record_mint(&mint, &minted, self.clock.now()).await?;
        Ok(still_right.then(|| Issued {
            token,
            scopes: terms.scopes.clone(),
            user: user.id.clone(),
            acs_id,
        }))
    }
}

/// The audit event of a mint.
pub(super) fn minted(user: &UserId, acs_id: &AcsId, token: &IssuedToken, generation: i64, terms: &Terms) -> Event {
    Event {
        action: Action::TokenMinted,
        actor: Actor::User(user.clone()),
        user: user.clone(),
        acs_id: Some(acs_id.clone()),
        token: Some(TokenTrace {
            fingerprint: token.token.fingerprint(),
            scopes: terms.scopes.to_string(),
            expires_at: token.expires_on.trunc_subsecs(3),
            generation,
        }),
        request_id: terms.request_id.clone(),
        detail: None,
    }
}

fn refuse(user: &User, login: &Login, now: DateTime<Utc>) -> Result<(), Error> {
    if user.blocked_at.is_some() {
        return Err(Error::UserBlocked);
    }
    // Floor, so that a login made in the same second after a revocation gets in.
    if let Some(since) = user
        .logins_valid_from
        .filter(|since| floor_to_second(login.time) < floor_to_second(*since))
    {
        return Err(Error::LoginSuperseded {
            max_age: (now - since).to_std().unwrap_or_default(),
        });
    }
    if user.state == State::Deleting {
        Err(Error::UserDeleting)
    } else {
        Ok(())
    }
}
