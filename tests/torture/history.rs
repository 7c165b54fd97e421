//! What the clients saw, and whether it agrees with the promises.
//!
//! A change of access that was answered has acted by then. One whose answer was lost may act until every request is over.
//! Only what certainly came before something else is compared with it.

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

/// A kind of access change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Revoke,
    RevokeKeepingSignIns,
    RevokeList,
    RevokeAll,
    Block,
    Unblock,
    Delete,
}

impl Kind {
    fn rejects_older_sign_ins(self) -> bool {
        !matches!(self, Self::RevokeKeepingSignIns | Self::Unblock)
    }

    fn ends_tokens(self) -> bool {
        self != Self::Unblock
    }
}

/// An access change, from its request to its answer.
#[derive(Clone, Copy, Debug)]
struct Change {
    id: u64,
    kind: Kind,
    /// Sign-ins from before this second are older than the change: it stores the next whole second.
    sign_ins_valid_from: i64,
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

/// What the emulator must say of a token that was just issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Anything,
    /// It had been issued before.
    Alive,
    /// Its sign-in was older than a change that ACS has confirmed.
    Dead,
}

impl Change {
    fn accepted_before(&self, moment: Instant) -> bool {
        matches!(self.answer, Answer::Accepted { at, .. } if at < moment)
    }

    /// Whether it may have acted between two moments.
    fn may_act_between(&self, from: Instant, to: Instant) -> bool {
        let last = match self.answer {
            Answer::Awaited => None,
            Answer::Accepted { at, .. } => Some(at),
            Answer::Lost => Some(self.began + ACTS_FOR),
        };
        self.began < to && last.is_none_or(|last| last > from)
    }
}

/// A token as a client got it.
#[derive(Clone)]
pub struct Issued {
    pub token: String,
    pub identity: String,
    pub sign_in_second: i64,
    pub began: Instant,
    pub answered: Instant,
}

impl Issued {
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.token).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }
}

#[derive(Default)]
struct UserHistory {
    changes: Vec<Change>,
    issued: Vec<Issued>,
}

pub struct History {
    users: Vec<Mutex<UserHistory>>,
    begun: Instant,
    seed: u64,
    changes: AtomicU64,
    counted: Mutex<BTreeMap<String, u64>>,
}

/// A token from before an accepted change, which must be dead once all work is done.
pub struct Ended {
    pub user: usize,
    pub issued: Issued,
    pub deleted: bool,
}

impl History {
    pub fn new(users: usize, seed: u64) -> Self {
        let users = (0..users).map(|_| Mutex::default()).collect();
        Self { users, begun: Instant::now(), seed, changes: AtomicU64::new(0), counted: Mutex::default() }
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

    /// Notes that a change is asked for; returns its number.
    pub fn change_begins(&self, users: &[usize], kind: Kind) -> u64 {
        let id = self.changes.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::disallowed_methods, reason = "the clock of this machine is the replicas' clock")]
        let sign_ins_valid_from = DateTime::<Utc>::from(std::time::SystemTime::now()).timestamp() + 1;
        let change = Change { id, kind, sign_ins_valid_from, began: Instant::now(), answer: Answer::Awaited };
        for user in users {
            self.of(*user).changes.push(change);
        }
        id
    }

    /// Notes how a change was answered: accepted, not at all, or refused so that it has surely not acted.
    pub fn change_ends(&self, users: &[usize], id: u64, accepted: Option<bool>, confirmed: bool) {
        let at = Instant::now();
        for user in users {
            let mut history = self.of(*user);
            if accepted == Some(false) {
                history.changes.retain(|change| change.id != id);
                continue;
            }
            let answer = if accepted.is_some() { Answer::Accepted { at, confirmed } } else { Answer::Lost };
            history.changes.iter_mut().rev().find(|change| change.id == id).unwrap().answer = answer;
        }
    }

    /// Judges a token that a client got, and says what the emulator must know of it.
    pub fn token(&self, user: usize, issued: Issued) -> Expected {
        let mut history = self.of(user);
        // Requests of the same moment may share a mint whose token was not cached; a cached one comes later.
        let is_before = |known: &&Issued| known.token == issued.token && known.answered < issued.began;
        let before = history.issued.iter().find(is_before).cloned();
        for change in history.changes.iter().filter(|change| change.accepted_before(issued.began)) {
            if change.kind.rejects_older_sign_ins() && issued.sign_in_second < change.sign_ins_valid_from {
                self.broken(user, &history, &issued, "P5: an old sign-in got a token after an answered change");
            }
            if change.kind.ends_tokens() && before.as_ref().is_some_and(|before| before.answered < change.began) {
                self.broken(user, &history, &issued, "P2: a token from before an answered change was issued again");
            }
            if change.kind == Kind::Block {
                let is_unblock = |other: &&Change| other.kind == Kind::Unblock;
                let mut lifted = history.changes.iter().filter(is_unblock);
                if !lifted.any(|unblock| unblock.may_act_between(change.began, issued.answered)) {
                    self.broken(user, &history, &issued, "B: a blocked user got a token");
                }
            }
        }
        for other in history.issued.iter().filter(|other| other.identity != issued.identity) {
            let is_deletion = |change: &&Change| change.kind == Kind::Delete;
            let mut deletions = history.changes.iter().filter(is_deletion);
            if other.answered < issued.began
                && !deletions.any(|delete| delete.may_act_between(other.began, issued.answered))
            {
                self.broken(user, &history, &issued, "P1: tokens of two identities without a deletion between");
            }
        }
        let is_over = |change: &Change| {
            let confirmed = matches!(change.answer, Answer::Accepted { confirmed: true, .. });
            confirmed && change.kind.rejects_older_sign_ins() && issued.sign_in_second < change.sign_ins_valid_from
        };
        let expected = match before {
            _ if history.changes.iter().any(is_over) => Expected::Dead,
            Some(_) => Expected::Alive,
            None => Expected::Anything,
        };
        history.issued.push(issued);
        expected
    }

    /// Fails on a token that should be dead when it is issued, and is not.
    pub fn found_alive(&self, user: usize, issued: &Issued) -> ! {
        self.broken(user, &self.of(user), issued, "P2: a token of a sign-in from before a confirmed change is alive")
    }

    /// Judges a token that was issued again and then found dead.
    pub fn found_dead(&self, user: usize, issued: &Issued) {
        let now = Instant::now();
        let history = self.of(user);
        let mut changes = history.changes.iter().filter(|change| change.kind.ends_tokens());
        if !changes.any(|change| change.may_act_between(issued.began, now)) {
            self.broken(user, &history, issued, "P3: a dead token was issued again");
        }
    }

    /// Every token that was issued before an accepted change.
    pub fn ended(&self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for user in 0..self.users() {
            let history = self.of(user);
            for issued in &history.issued {
                // A sign-in older than a change was checked before it, so its token is from before it too.
                let after = history.changes.iter().filter(|change| {
                    let for_old_sign_in =
                        change.kind.rejects_older_sign_ins() && issued.sign_in_second < change.sign_ins_valid_from;
                    matches!(change.answer, Answer::Accepted { .. })
                        && change.kind.ends_tokens()
                        && (issued.answered < change.began || for_old_sign_in)
                });
                let kinds: Vec<_> = after.map(|change| change.kind).collect();
                if !kinds.is_empty() {
                    let deleted = kinds.contains(&Kind::Delete);
                    ended.push(Ended { user, issued: issued.clone(), deleted });
                }
            }
        }
        ended
    }

    /// Every token that was issued.
    pub fn issued(&self) -> Vec<Issued> {
        (0..self.users()).flat_map(|user| self.of(user).issued.clone()).collect()
    }

    /// Ends the run with what happened around a broken promise.
    pub fn outlived(&self, ended: &Ended, promise: &str) -> ! {
        self.broken(ended.user, &self.of(ended.user), &ended.issued, promise)
    }

    fn broken(&self, user: usize, history: &UserHistory, issued: &Issued, promise: &str) -> ! {
        panic!("{promise}\nseed {}, user {user}\n{}", self.seed, Story { history, issued, begun: self.begun });
    }

    fn of(&self, user: usize) -> MutexGuard<'_, UserHistory> {
        // A client that found a broken promise panicked with it; the finding is printed by then.
        self.users[user].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened to a user around a token, in the order of the beginnings.
struct Story<'a> {
    history: &'a UserHistory,
    issued: &'a Issued,
    begun: Instant,
}

impl Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |moment: Instant| format!("{:.3}", moment.duration_since(self.begun).as_secs_f64());
        let mut lines = BTreeMap::new();
        let same = self.history.issued.iter().filter(|other| other.token == self.issued.token);
        let first = same.chain([self.issued]).map(|other| other.began).min().unwrap();
        for change in &self.history.changes {
            let may_matter = change.may_act_between(first, self.issued.answered) || change.began > first;
            if may_matter || change.accepted_before(self.issued.began) {
                let end = match change.answer {
                    Answer::Awaited => "not answered yet".to_owned(),
                    Answer::Accepted { at, confirmed: true } => format!("confirmed at {}", since(at)),
                    Answer::Accepted { at, .. } => format!("accepted at {}", since(at)),
                    Answer::Lost => "answer lost".to_owned(),
                };
                lines.insert(
                    change.began,
                    format!("{:?}, sign-ins valid from second {}, {end}", change.kind, change.sign_ins_valid_from),
                );
            }
        }
        for other in self.history.issued.iter().filter(|other| other.answered >= first).chain([self.issued]) {
            let (print, second) = (&other.fingerprint()[..8], other.sign_in_second);
            let text = format!(
                "token {print} of {} for a sign-in of second {second}, got at {}",
                other.identity,
                since(other.answered)
            );
            lines.insert(other.began, text);
        }
        // Older lines explain nothing.
        for (moment, line) in lines.iter().skip(lines.len().saturating_sub(40)) {
            writeln!(f, "  {}: {line}", since(*moment))?;
        }
        Ok(())
    }
}
