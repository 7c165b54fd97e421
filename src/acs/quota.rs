//! The budget: all replicas together make no more calls than ACS allows a resource.
//!
//! Each kind of call has a limit of its own at ACS, so each has a lane of its own here: a revocation never waits for mints.
//! A lane is a line: who cannot be served before their deadline, given all who stand before them, is sent away at once
//! and told when to come back, so no line is longer than what can be served. Whoever is at the head spends for everybody
//! in the line with one write to the database.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::window::{self, Allowance, Window};
use crate::{
    domain::clock::Clock,
    store::{self, QuotaRow, Store},
};

/// How long a lane rests after a 429 without `Retry-After`: doubling while they go on, from the first to the last.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How many calls are spent in advance at most; those that are not made in the next half second are lost.
const IN_ADVANCE: u32 = 16;

/// How many calls of each kind ACS allows (learn.microsoft.com, "Service limits for Azure Communication Services",
/// Identity); a support request raises them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many calls of each kind a replica makes at once; more wait in line.
    pub at_once: usize,
    /// In what time ACS allows so many calls.
    #[serde(with = "humantime_serde")]
    pub per: Duration,
    /// Identities without a token.
    pub create: u32,
    /// Identities with a token.
    pub create_with_token: u32,
    /// Tokens for identities.
    pub issue: u32,
    /// Revocations.
    pub revoke: u32,
    /// Deletions.
    pub delete: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_once: 64,
            per: Duration::from_secs(30),
            create: 1000,
            create_with_token: 1000,
            issue: 1000,
            revoke: 500,
            delete: 500,
        }
    }
}

impl Settings {
    fn calls(&self, call: Call) -> u32 {
        match call {
            Call::Create => self.create,
            Call::CreateWithToken => self.create_with_token,
            Call::Issue => self.issue,
            Call::Revoke => self.revoke,
            Call::Delete => self.delete,
        }
    }

    /// Tells whether every kind of call may be made at all.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.at_once > 0 && !self.per.is_zero() && Call::ALL.into_iter().all(|call| self.calls(call) > 0)
    }
}

/// A kind of call that ACS counts for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /identities` without a token.
    Create,
    /// `POST /identities` with a token.
    CreateWithToken,
    /// `POST /identities/{id}/:issueAccessToken`.
    Issue,
    /// `POST /identities/{id}/:revokeAccessTokens`.
    Revoke,
    /// `DELETE /identities/{id}`.
    Delete,
}

impl Call {
    const ALL: [Self; 5] = [Self::Create, Self::CreateWithToken, Self::Issue, Self::Revoke, Self::Delete];

    /// Returns the word for the database and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateWithToken => "create_with_token",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
            Self::Delete => "delete",
        }
    }
}

/// How urgent a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// Nobody does: a quarter of the limit is left to those who wait.
    Background,
}

impl Priority {
    /// How many calls must be left over.
    fn spares(self, allowance: Allowance) -> u32 {
        match self {
            Self::Interactive => 0,
            Self::Background => allowance.calls / 4,
        }
    }
}

/// Why a call may not be made now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no room before the deadline.
    #[error("the budget of calls to ACS is spent")]
    Spent {
        /// When there will be.
        retry_after: Duration,
    },
    /// The database did not say.
    #[error("the budget could not be asked")]
    Store(#[from] store::Error),
}

/// The lanes of one resource.
#[derive(Debug)]
pub struct Quota {
    store: Store,
    clock: Clock,
    resource: String,
    lanes: [Lane; Call::ALL.len()],
}

#[derive(Debug)]
struct Lane {
    call: Call,
    allowance: Allowance,
    /// The head of the line; tokio's mutex is fair, so the line is one.
    head: tokio::sync::Mutex<()>,
    /// How many stand in line, the head included.
    line: AtomicU32,
    /// Calls that are under way: so few that each gets its answer soon, even where the processor is the narrowest.
    slots: Semaphore,
    known: Mutex<Known>,
    /// How many 429s came without a success between them.
    refusals: AtomicU32,
}

/// What this replica knows of a lane; others may have spent more since.
#[derive(Debug, Default)]
struct Known {
    row: QuotaRow,
    /// In which cell calls were spent for those in line, and how many of them are left.
    paid: (i64, u32),
}

impl Known {
    /// Takes one of the calls that were spent for those in line.
    ///
    /// They are good in their cell and in the next: the window's margin is longer than that.
    fn has_paid(&mut self, now: DateTime<Utc>) -> bool {
        let (cell, calls) = self.paid;
        let has = calls > 0 && window::cell(now) <= cell + 1;
        if has {
            self.paid.1 -= 1;
        }
        has
    }
}

impl Quota {
    /// Makes the budget of a resource.
    #[must_use]
    pub fn new(store: Store, clock: Clock, resource: &str, settings: &Settings) -> Self {
        let lane = |call| Lane {
            call,
            allowance: Allowance { calls: settings.calls(call), per: settings.per },
            head: tokio::sync::Mutex::default(),
            line: AtomicU32::new(0),
            slots: Semaphore::new(settings.at_once),
            known: Mutex::default(),
            refusals: AtomicU32::new(0),
        };
        Self { store, clock, resource: resource.to_owned(), lanes: Call::ALL.map(lane) }
    }

    /// Takes the right to one call, waiting for it in line until the deadline at most; it is given back when it is dropped.
    pub(crate) async fn take(&self, call: Call, priority: Priority, deadline: Instant) -> Result<Right<'_>, Error> {
        let lane = &self.lanes[call as usize];
        let spared = priority.spares(lane.allowance);
        let place = Place::take(lane);
        self.check(lane, spared + place.number, deadline)?;
        let Ok(Ok(slot)) = timeout_at(deadline, lane.slots.acquire()).await else {
            return Err(self.spent(lane, place.number));
        };
        let right = Right { _slot: slot };
        let Ok(_head) = timeout_at(deadline, lane.head.lock()).await else {
            return Err(self.spent(lane, place.number));
        };
        loop {
            let now = self.clock.now();
            let room = {
                let mut known = lane.known();
                if known.has_paid(now) {
                    return Ok(right);
                }
                known.row.window.room(lane.allowance, now).saturating_sub(spared)
            };
            if room == 0 {
                self.check(lane, spared + 1, deadline)?;
                tokio::time::sleep(self.wait(lane, spared + 1)).await;
            } else {
                let calls = lane.to_pay(room);
                if self.change(lane, |window| window.spend(calls, lane.allowance, now)).await? {
                    lane.known().paid = (window::cell(now), calls - 1);
                    return Ok(right);
                }
            }
        }
    }

    /// Notes that ACS refused a call as one too many: nobody calls before it says, or before a rest where it does not.
    pub(crate) async fn pause(&self, call: Call, retry_after: Option<Duration>) -> Result<(), store::Error> {
        let lane = &self.lanes[call as usize];
        let refusals = lane.refusals.fetch_add(1, Ordering::Relaxed).min(10);
        let rest = retry_after.unwrap_or(LONGEST_REST.min(FIRST_REST * 2_u32.pow(refusals)));
        let until = self.clock.now() + rest;
        // Here at once, and for the others as soon as the write holds.
        lane.known().row.window.pause(until);
        while !self.change(lane, |window| window.pause(until)).await? {}
        Ok(())
    }

    /// Notes that ACS took a call.
    pub(crate) fn taken(&self, call: Call) {
        self.lanes[call as usize].refusals.store(0, Ordering::Relaxed);
    }

    /// Refuses whoever stands too far back to be served before their deadline.
    fn check(&self, lane: &Lane, place: u32, deadline: Instant) -> Result<(), Error> {
        if Instant::now() + self.wait(lane, place) < deadline { Ok(()) } else { Err(self.spent(lane, place)) }
    }

    fn spent(&self, lane: &Lane, place: u32) -> Error {
        Error::Spent { retry_after: self.wait(lane, place) }
    }

    fn wait(&self, lane: &Lane, place: u32) -> Duration {
        lane.known().row.window.wait(place, lane.allowance, self.clock.now())
    }

    /// Changes a lane's window in the database; where somebody else changed it meanwhile, reads it anew and returns false.
    async fn change(&self, lane: &Lane, change: impl FnOnce(&mut Window)) -> Result<bool, store::Error> {
        let QuotaRow { version, mut window } = lane.known().row.clone();
        change(&mut window);
        let call = lane.call.as_str();
        let written = self.store.write_quota(&self.resource, call, version, window).await?;
        let is_written = written.is_some();
        let row = match written {
            Some(row) => row,
            None => self.store.read_quota(&self.resource, call).await?,
        };
        lane.known().row = row;
        Ok(is_written)
    }
}

impl Lane {
    /// How many calls to spend with one write: one for each in line, and while there is plenty of room some for those who
    /// may want a token in the next moment, and then need not wait for the database.
    fn to_pay(&self, room: u32) -> u32 {
        let has_plenty = self.call == Call::Issue && room > self.allowance.calls / 2;
        let in_advance = if has_plenty { IN_ADVANCE.min(self.allowance.calls / 50) } else { 0 };
        room.min(self.line.load(Ordering::Relaxed).max(in_advance)).max(1)
    }

    /// What is known is whole at any time, so a poisoned lock is as good as any.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one call, held while it is made.
pub(crate) struct Right<'a> {
    _slot: SemaphorePermit<'a>,
}

/// A place in a lane's line, given up when it is dropped.
struct Place<'a> {
    line: &'a AtomicU32,
    number: u32,
}

impl<'a> Place<'a> {
    fn take(lane: &'a Lane) -> Self {
        Self { line: &lane.line, number: lane.line.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.fetch_sub(1, Ordering::Relaxed);
    }
}
