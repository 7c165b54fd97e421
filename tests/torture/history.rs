//! What the clients saw, and whether it can be squared with the promises.
//!
//! A fence that was answered has acted by then; one whose answer was lost may act until no request can live any more.
//! Only what certainly came before something else is held against it.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

/// How long a request whose answer was lost may still act: longer than any request may take.
const ACTS_FOR: Duration = Duration::from_secs(25);

/// What takes access away, or gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Revoke,
    RevokeKeepingLogins,
    RevokeList,
    RevokeEveryone,
    Block,
    Unblock,
    Delete,
}

impl Kind {
    fn rejects_older_logins(self) -> bool {
        !matches!(self, Self::RevokeKeepingLogins | Self::Unblock)
    }

    fn ends_tokens(self) -> bool {
        self != Self::Unblock
    }
}

/// A fence, from when it was asked for to when it was answered.
#[derive(Clone, Copy, Debug)]
struct Fence {
    id: u64,
    kind: Kind,
    /// The second before which logins are old.
    second: i64,
    began: Instant,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Awaited,
    Accepted {
        at: Instant,
        /// Whether ACS had confirmed it by then.
        confirmed: bool,
    },
    Lost,
}

/// What the emulator must say of a token that was just handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Anything,
    /// It had been handed out before.
    Alive,
    /// Its login was old at a fence that ACS has confirmed.
    Dead,
}

impl Fence {
    fn accepted_before(&self, moment: Instant) -> bool {
        matches!(self.answer, Answer::Accepted { at, .. } if at < moment)
    }

    /// Tells whether it may have acted between two moments.
    fn may_act_between(&self, from: Instant, to: Instant) -> bool {
        let last = match self.answer {
            Answer::Awaited => None,
            Answer::Accepted { at, .. } => Some(at),
            Answer::Lost => Some(self.began + ACTS_FOR),
        };
        self.began < to && last.is_none_or(|last| last > from)
    }
}

/// A token as it was handed out.
#[derive(Clone)]
pub struct Handed {
    pub token: String,
    pub identity: String,
    pub login_second: i64,
    pub began: Instant,
    pub answered: Instant,
}

impl Handed {
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.token).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }
}

#[derive(Default)]
struct UserHistory {
    fences: Vec<Fence>,
    handed: Vec<Handed>,
}

pub struct History {
    users: Vec<Mutex<UserHistory>>,
    begun: Instant,
    seed: u64,
    fences: AtomicU64,
    counted: Mutex<BTreeMap<String, u64>>,
}

/// What was handed out before an accepted fence and must be dead once everything has settled.
pub struct Condemned {
    pub user: usize,
    pub handed: Handed,
    pub deleted: bool,
}

impl History {
    pub fn new(users: usize, seed: u64) -> Self {
        let users = (0..users).map(|_| Mutex::default()).collect();
        Self { users, begun: Instant::now(), seed, fences: AtomicU64::new(0), counted: Mutex::default() }
    }

    pub fn users(&self) -> usize {
        self.users.len()
    }

    pub fn count(&self, what: impl Display) {
        *self.counted.lock().unwrap().entry(what.to_string()).or_default() += 1;
    }

    pub fn summary(&self) -> String {
        let counted = self.counted.lock().unwrap();
        let counts: Vec<_> = counted.iter().map(|(what, count)| format!("{count} {what}")).collect();
        counts.join(", ")
    }

    /// Notes that a fence is asked for; returns its name.
    pub fn fence_begins(&self, users: &[usize], kind: Kind) -> u64 {
        let id = self.fences.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::disallowed_methods, reason = "the clock of this machine is the replicas' clock")]
        let second = DateTime::<Utc>::from(std::time::SystemTime::now()).timestamp();
        let fence = Fence { id, kind, second, began: Instant::now(), answer: Answer::Awaited };
        for user in users {
            self.of(*user).fences.push(fence);
        }
        id
    }

    /// Notes how a fence was answered: accepted, not at all, or refused so that it has surely not acted.
    pub fn fence_ends(&self, users: &[usize], id: u64, accepted: Option<bool>, confirmed: bool) {
        let at = Instant::now();
        for user in users {
            let mut history = self.of(*user);
            if accepted == Some(false) {
                history.fences.retain(|fence| fence.id != id);
                continue;
            }
            let answer = if accepted.is_some() { Answer::Accepted { at, confirmed } } else { Answer::Lost };
            history.fences.iter_mut().rev().find(|fence| fence.id == id).unwrap().answer = answer;
        }
    }

    /// Judges a token that a client got, and says what the emulator must know of it.
    pub fn token(&self, user: usize, handed: Handed) -> Expected {
        let mut history = self.of(user);
        // Requests of the same moment may share a mint, whose token was never kept; what is kept comes later.
        let is_before = |known: &&Handed| known.token == handed.token && known.answered < handed.began;
        let before = history.handed.iter().find(is_before).cloned();
        for fence in history.fences.iter().filter(|fence| fence.accepted_before(handed.began)) {
            if fence.kind.rejects_older_logins() && handed.login_second < fence.second {
                self.broken(user, &history, &handed, "P5: an old login got a token after an answered fence");
            }
            if fence.kind.ends_tokens() && before.as_ref().is_some_and(|before| before.answered < fence.began) {
                self.broken(user, &history, &handed, "P2: a token from before an answered fence was handed out again");
            }
            if fence.kind == Kind::Block {
                let is_unblock = |other: &&Fence| other.kind == Kind::Unblock;
                let mut lifted = history.fences.iter().filter(is_unblock);
                if !lifted.any(|unblock| unblock.may_act_between(fence.began, handed.answered)) {
                    self.broken(user, &history, &handed, "B: a blocked user got a token");
                }
            }
        }
        for other in history.handed.iter().filter(|other| other.identity != handed.identity) {
            let is_deletion = |fence: &&Fence| fence.kind == Kind::Delete;
            let mut deletions = history.fences.iter().filter(is_deletion);
            if other.answered < handed.began
                && !deletions.any(|delete| delete.may_act_between(other.began, handed.answered))
            {
                self.broken(user, &history, &handed, "P1: tokens of two identities without a deletion between");
            }
        }
        let is_over = |fence: &Fence| {
            let confirmed = matches!(fence.answer, Answer::Accepted { confirmed: true, .. });
            confirmed && fence.kind.rejects_older_logins() && handed.login_second < fence.second
        };
        let expected = match before {
            _ if history.fences.iter().any(is_over) => Expected::Dead,
            Some(_) => Expected::Alive,
            None => Expected::Anything,
        };
        history.handed.push(handed);
        expected
    }

    /// Judges a token that should be dead when it is handed out, and is not.
    pub fn found_alive(&self, user: usize, handed: &Handed) -> ! {
        self.broken(user, &self.of(user), handed, "P2: a token of a login from before a confirmed fence is alive")
    }

    /// Judges a token that was handed out again and then found dead.
    pub fn found_dead(&self, user: usize, handed: &Handed) {
        let now = Instant::now();
        let history = self.of(user);
        let mut fences = history.fences.iter().filter(|fence| fence.kind.ends_tokens());
        if !fences.any(|fence| fence.may_act_between(handed.began, now)) {
            self.broken(user, &history, handed, "P3: a dead token was handed out again");
        }
    }

    /// Everything that was handed out before an accepted fence.
    pub fn condemned(&self) -> Vec<Condemned> {
        let mut condemned = Vec::new();
        for user in 0..self.users() {
            let history = self.of(user);
            for handed in &history.handed {
                // A login that was old at a fence was checked before it, so what was handed out for it is from before.
                let after = history.fences.iter().filter(|fence| {
                    let for_old_login = fence.kind.rejects_older_logins() && handed.login_second < fence.second;
                    matches!(fence.answer, Answer::Accepted { .. })
                        && fence.kind.ends_tokens()
                        && (handed.answered < fence.began || for_old_login)
                });
                let kinds: Vec<_> = after.map(|fence| fence.kind).collect();
                if !kinds.is_empty() {
                    let deleted = kinds.contains(&Kind::Delete);
                    condemned.push(Condemned { user, handed: handed.clone(), deleted });
                }
            }
        }
        condemned
    }

    /// Everything that was handed out.
    pub fn handed(&self) -> Vec<Handed> {
        (0..self.users()).flat_map(|user| self.of(user).handed.clone()).collect()
    }

    /// Ends the run, telling what happened around a broken promise.
    pub fn outlived(&self, condemned: &Condemned, promise: &str) -> ! {
        self.broken(condemned.user, &self.of(condemned.user), &condemned.handed, promise)
    }

    fn broken(&self, user: usize, history: &UserHistory, handed: &Handed, promise: &str) -> ! {
        panic!("{promise}\nseed {}, user {user}\n{}", self.seed, Story { history, handed, begun: self.begun });
    }

    fn of(&self, user: usize) -> MutexGuard<'_, UserHistory> {
        // A client that found a broken promise held it; what it found is told by then.
        self.users[user].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened to a user around a token, in the order of its beginnings.
struct Story<'a> {
    history: &'a UserHistory,
    handed: &'a Handed,
    begun: Instant,
}

impl Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |moment: Instant| format!("{:.3}", moment.duration_since(self.begun).as_secs_f64());
        let mut lines = BTreeMap::new();
        let same = self.history.handed.iter().filter(|other| other.token == self.handed.token);
        let first = same.chain([self.handed]).map(|other| other.began).min().unwrap();
        for fence in &self.history.fences {
            let may_matter = fence.may_act_between(first, self.handed.answered) || fence.began > first;
            if may_matter || fence.accepted_before(self.handed.began) {
                let end = match fence.answer {
                    Answer::Awaited => "not answered yet".to_owned(),
                    Answer::Accepted { at, confirmed: true } => format!("confirmed at {}", since(at)),
                    Answer::Accepted { at, .. } => format!("accepted at {}", since(at)),
                    Answer::Lost => "answer lost".to_owned(),
                };
                lines.insert(fence.began, format!("{:?} in second {}, {end}", fence.kind, fence.second));
            }
        }
        for other in self.history.handed.iter().filter(|other| other.answered >= first).chain([self.handed]) {
            let (print, login) = (&other.fingerprint()[..8], other.login_second);
            let text = format!(
                "token {print} of {} for a login of second {login}, got at {}",
                other.identity,
                since(other.answered)
            );
            lines.insert(other.began, text);
        }
        // What is long past explains nothing.
        for (moment, line) in lines.iter().skip(lines.len().saturating_sub(40)) {
            writeln!(f, "  {}: {line}", since(*moment))?;
        }
        Ok(())
    }
}
