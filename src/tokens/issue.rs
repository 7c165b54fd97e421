//! Issuing: read once as the authorisation, then reuse what was kept, or mint at ACS and hand out only what is still right.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::Instant;

use super::cache::Owner;
use crate::{
    auth::{Login, policy::Grant},
    domain::{
        audit::{Action, Actor, Event, RequestContext},
        scope::Scopes,
        token::{AccessToken, Lifetime},
        user::{AcsId, State, User, UserId, UserRef},
    },
    jobs::run::EXPEDITE_INTERVAL,
    service::{Error, Service, floor_to_second},
    store::GlobalState,
};

/// How often a token that ACS minted may turn out to be fenced before the request is sent away.
const MAX_THROWN_AWAY: u32 = 2;
/// How long a request that waits for another one looks away, at first and at most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(200);

/// Who asks for a token, for whom, and what they may have.
#[derive(Clone, Debug)]
pub struct Requester {
    /// For whom.
    pub user: UserRef,
    /// When the user signed in; a backend with a key of its own needs no login.
    pub sign_in_time: Option<DateTime<Utc>>,
    /// What may be asked for.
    pub grant: Option<Grant>,
    /// Who, where it is not the user.
    pub actor: Option<Actor>,
    /// From where.
    pub trace: RequestContext,
    /// The login's `jti`, for the audit trail.
    pub sign_in_id: Option<String>,
    /// The login's `sid`, for the audit trail.
    pub session_id: Option<String>,
}

impl Requester {
    /// The user of a login, asking for themselves.
    #[must_use]
    pub fn of_sign_in(login: Login, trace: RequestContext) -> Self {
        Self {
            user: UserRef::AppUser(login.app_user),
            sign_in_time: Some(login.time),
            grant: login.grant,
            actor: None,
            trace,
            sign_in_id: login.token_id,
            session_id: login.session_id,
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct TokenParams {
    /// The scopes; all that are granted where not said.
    pub scopes: Option<Scopes>,
    /// The longest life; the default where not said.
    pub lifetime: Option<Lifetime>,
}

/// How a token came to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// ACS made it for this request.
    Minted,
    /// ACS made it for another request that wanted the same at the same moment.
    Shared,
    /// It was kept, and has enough of its life left.
    Reused,
    /// It was kept and is nearly over, but no new one could be had.
    Stale,
}

impl TokenSource {
    /// Returns the word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Shared => "shared",
            Self::Reused => "reused",
            Self::Stale => "stale",
        }
    }
}

/// A token that may leave the house.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: AccessToken,
    /// Its SHA-256 in hexadecimal.
    pub fingerprint: String,
    /// When it ends.
    pub expires_on: DateTime<Utc>,
    /// Its scopes.
    pub scopes: Scopes,
    /// The generation it was authorised under.
    pub generation: i64,
    /// Whose it is, in our words.
    pub user: UserId,
    /// Whose it is, in ACS's words.
    pub acs_id: AcsId,
    /// Where it comes from.
    pub how: TokenSource,
}

/// What was asked for, bounded by what is granted.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) scopes: Scopes,
    pub(crate) lifetime: Lifetime,
}

/// What the read entitles to.
pub(crate) enum Authorised {
    /// There is an identity, and perhaps tokens that were kept for it, sealed.
    Identity { user: Box<User>, acs_id: AcsId, kept: Option<Vec<u8>> },
    /// There is none: create it.
    Create(Ground),
}

/// What an identity is created over.
#[derive(Clone, Debug)]
pub(crate) enum Ground {
    /// A row that has none.
    Row(Box<User>),
    /// No row: what was done to everyone is all there is to know.
    NoRow(GlobalState),
}

impl Service {
    /// Issues a token, creating the user's identity where there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the user is named by an unknown id; any other [`Error`].
    pub async fn issue(self: &Arc<Self>, requester: &Requester, wanted: &TokenParams) -> Result<Issued, Error> {
        let terms = self.terms(requester, wanted)?;
        let issued = match self.issue_on(requester, &terms).await {
            Err(Error::Upstream(error)) if error.may_pass() => {
                self.stale(requester, &terms).await?.ok_or(Error::Upstream(error))?
            }
            other => other?,
        };
        self.audit_reuse(requester, &issued).await?;
        self.metrics.token_handed_out(issued.how.as_str());
        Ok(issued)
    }

    async fn issue_on(self: &Arc<Self>, requester: &Requester, terms: &Terms) -> Result<Issued, Error> {
        if let Some(issued) = self.reuse(requester, terms).await? {
            return Ok(issued);
        }
        let deadline = self.deadline();
        let mut thrown_away = 0;
        loop {
            let issued = match self.authorise(requester, deadline).await? {
                Authorised::Identity { user, acs_id, kept } => {
                    let owner = Owner { user: &user.id, acs_id: &acs_id, generation: user.generation };
                    let margin = self.settings.reuse_margin;
                    match kept.clone().and_then(|kept| self.pick(owner, kept, terms, margin)) {
                        Some(issued) => Some(issued),
                        None => self.mint(requester, *user, acs_id, kept, terms, deadline).await?,
                    }
                }
                Authorised::Create(ground) => self.create(requester, ground, terms, deadline).await?,
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

    fn terms(&self, requester: &Requester, wanted: &TokenParams) -> Result<Terms, Error> {
        let grant = requester.grant.as_ref().ok_or(Error::NoGrant)?;
        let scopes = wanted.scopes.as_ref().unwrap_or(&grant.scopes);
        if let Some(scope) = scopes.first_outside(&grant.scopes) {
            return Err(Error::ScopeNotAllowed(scope));
        }
        let lifetime = wanted.lifetime.unwrap_or(self.settings.lifetime).min(grant.max_lifetime);
        Ok(Terms { scopes: scopes.clone(), lifetime })
    }

    /// Reads the mapping until it says what to do; whoever waited reads again, so that no decision is older than the read.
    pub(crate) async fn authorise(
        self: &Arc<Self>,
        requester: &Requester,
        deadline: Instant,
    ) -> Result<Authorised, Error> {
        let mut look = FIRST_LOOK;
        let mut next_pull = Instant::now();
        loop {
            let now = self.clock.now();
            let Some((user, kept)) = self.read(&requester.user, now).await? else {
                if matches!(requester.user, UserRef::Id(_)) {
                    return Err(Error::NotFound);
                }
                // Read after it was seen that there is no row: whatever becomes of everyone later, the bind finds out.
                let everyone = self.store.global_state().await?;
                if let Some(login) = requester.sign_in_time {
                    self.refuse_old_sign_in(everyone.sign_ins_valid_from, login, now)?;
                }
                self.check_issuer(&requester.user).await?;
                return Ok(Authorised::Create(Ground::NoRow(everyone)));
            };
            if user.pending_operation.is_some() && Instant::now() >= next_pull {
                next_pull = Instant::now() + EXPEDITE_INTERVAL;
                self.expedite_detached(user.id.clone());
            }
            self.refuse(&user, requester, now)?;
            if user.is_stale {
                self.apply_global(&user.id).await?;
                continue;
            }
            let being_created = user.claimed_until.is_some_and(|until| now <= until);
            if !being_created && !user.held {
                return Ok(match user.acs_id.clone() {
                    Some(acs_id) => Authorised::Identity { user: Box::new(user), acs_id, kept },
                    None => Authorised::Create(Ground::Row(Box::new(user))),
                });
            }
            if Instant::now() + look >= deadline {
                return Err(Error::InProgress);
            }
            tokio::time::sleep(look).await;
            look = LONGEST_LOOK.min(look * 2);
        }
    }

    /// Reads a mapping, with its cached tokens where tokens are kept: the one statement that authorises.
    pub(crate) async fn read(
        &self,
        user: &UserRef,
        now: DateTime<Utc>,
    ) -> Result<Option<(User, Option<Vec<u8>>)>, Error> {
        if self.caches_tokens() {
            Ok(self.store.find_user_and_tokens(user, now).await?)
        } else {
            Ok(self.store.find_user(user, now).await?.map(|user| (user, None)))
        }
    }

    pub(crate) fn refuse(&self, user: &User, requester: &Requester, now: DateTime<Utc>) -> Result<(), Error> {
        if user.blocked_at.is_some() {
            return Err(Error::UserBlocked);
        }
        if let Some(login) = requester.sign_in_time {
            self.refuse_old_sign_in(user.sign_ins_valid_from, login, now)?;
        }
        if user.state == State::Deleting { Err(Error::UserDeleting) } else { Ok(()) }
    }

    /// Refuses a login from before the user's last revocation.
    pub(crate) fn refuse_old_sign_in(
        &self,
        valid_from: Option<DateTime<Utc>>,
        login: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let since = valid_from.map_or(self.forgotten(now), |since| since.max(self.forgotten(now)));
        // Floor, so that a login made in the same second after a revocation gets in.
        if floor_to_second(login) < floor_to_second(since) {
            let max_age = (now - since).to_std().unwrap_or_default();
            return Err(Error::ReauthenticationRequired { max_age, sign_ins_valid_from: floor_to_second(since) });
        }
        Ok(())
    }

    /// A row may be forgotten after its time, so a login from before that cannot be judged any more.
    fn forgotten(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now - self.users.tombstone_ttl
    }

    /// Pulls the operation that holds a user forward, without making the request wait for the call itself.
    pub(crate) fn expedite_detached(self: &Arc<Self>, user: UserId) {
        let service = Arc::clone(self);
        self.detached.spawn(async move {
            if let Err(error) = service.expedite(&user).await {
                tracing::warn!(error = &error as &dyn std::error::Error, %user, "an operation could not be pulled forward");
            }
        });
    }
}

/// The event of what an requester did to a user.
pub(crate) fn event(action: Action, requester: &Requester, user: &UserId) -> Event {
    let actor = requester.actor.clone().unwrap_or_else(|| Actor::User(user.clone()));
    let detail = (requester.sign_in_id.is_some() || requester.session_id.is_some())
        .then(|| json!({"jti": requester.sign_in_id, "sid": requester.session_id}));
    Event { detail, ..Event::new(action, actor, user.clone(), requester.trace.clone()) }
}
