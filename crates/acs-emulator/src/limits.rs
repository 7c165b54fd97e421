//! Rate limits: how many calls of each kind are allowed in 30 seconds.
//!
//! The numbers are those of Microsoft's "Service limits" page. It does not say how the window moves or whether refused
//! calls count. A choice, the strict one: the window slides, and refused calls count.
//! `Retry-After` is documented for other services of ACS but not for this one, so it is optional.

use std::{collections::VecDeque, str::FromStr};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::refusal::Refusal;

const WINDOW_MS: i64 = 30_000;
/// Calls are counted in cells of this length, which bounds memory.
const CELL_MS: i64 = 100;

/// A kind of call with its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Identities without a token.
    Create,
    /// Identities with a token.
    CreateWithToken,
    /// Tokens for identities.
    Issue,
    /// Revocations.
    Revoke,
    /// Deletions.
    Delete,
}

/// The limits of a resource.
#[derive(Clone, Debug)]
pub struct Limits {
    calls: [usize; 5],
    /// Whether a 429 has `Retry-After`.
    pub tells_retry_after: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls: [1000, 1000, 1000, 500, 500], tells_retry_after: false }
    }
}

impl Limits {
    /// Sets the limit of one kind of call.
    pub fn set(&mut self, limited: Limited, calls: usize) {
        self.calls[limited as usize] = calls;
    }
}

impl FromStr for Limited {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "create" => Self::Create,
            "create_with_token" => Self::CreateWithToken,
            "issue" => Self::Issue,
            "revoke" => Self::Revoke,
            "delete" => Self::Delete,
            _ => return Err(format!("`{text}` is not create, create_with_token, issue, revoke or delete")),
        })
    }
}

/// The recent calls; without limits nothing is recorded.
pub(super) struct Gate {
    limits: Option<Limits>,
    calls: [Mutex<VecDeque<(i64, usize)>>; 5],
}

impl Gate {
    pub(super) fn new(limits: Option<Limits>) -> Self {
        Self { limits, calls: Default::default() }
    }

    /// Counts a call and refuses it if it exceeds the limit.
    pub(super) fn pass(&self, limited: Limited, now: DateTime<Utc>) -> Result<(), Refusal> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let now_ms = now.timestamp_millis();
        let mut calls = self.calls[limited as usize].lock();
        let cell = now_ms.div_euclid(CELL_MS);
        while calls.front().is_some_and(|(cell, _)| (cell + 1) * CELL_MS + WINDOW_MS <= now_ms) {
            calls.pop_front();
        }
        match calls.back_mut() {
            Some((last, count)) if *last >= cell => *count += 1,
            _ => calls.push_back((cell, 1)),
        }
        if calls.iter().map(|(_, count)| count).sum::<usize>() <= limits.calls[limited as usize] {
            return Ok(());
        }
        let oldest_ms = calls.front().map_or(now_ms, |(cell, _)| (cell + 1) * CELL_MS + WINDOW_MS);
        let mut refusal = Refusal::too_many_requests();
        let seconds = u64::try_from((oldest_ms - now_ms + 999) / 1000).unwrap_or_default();
        refusal.retry_after_seconds = limits.tells_retry_after.then_some(seconds);
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    #[test]
    fn one_too_many_is_refused_until_the_window_has_slid_on() {
        let mut limits = Limits { tells_retry_after: true, ..Limits::default() };
        limits.set(Limited::Issue, 2);
        let gate = Gate::new(Some(limits));
        gate.pass(Limited::Issue, at(0)).unwrap();
        gate.pass(Limited::Issue, at(10_000)).unwrap();
        let refusal = gate.pass(Limited::Issue, at(20_000)).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.retry_after_seconds), (429, Some(11)));
        gate.pass(Limited::Revoke, at(20_000)).unwrap();
        gate.pass(Limited::Issue, at(40_100)).unwrap();
        assert!(gate.pass(Limited::Issue, at(41_000)).is_err(), "the refused one counts");
    }

    #[test]
    fn without_limits_everything_passes() {
        let gate = Gate::new(None);
        assert!((0..5000).all(|_| gate.pass(Limited::Issue, at(0)).is_ok()));
    }
}
