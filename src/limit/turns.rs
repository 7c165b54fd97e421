//! Turns: those who are sent away are told to come back one after the other, at the pace at which others are served.
//!
//! Were all of them told the same time, all would come at once and most be sent away again, which costs the more the
//! more of them there are.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A pace that was measured longer ago says nothing about now.
const EPISODE: Duration = Duration::from_secs(2);
/// How long a pace is measured before it counts.
const MEASURE: Duration = Duration::from_millis(250);
/// Nobody is told to stay away for longer: it is a guess.
const LONGEST: Duration = Duration::from_secs(30);

/// The turns of those who wait for one thing.
#[derive(Debug)]
pub struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The pace that is taken for granted until one is measured, each second.
    guess: f64,
    pace: f64,
    served: u32,
    measured_since: Instant,
    refused_at: Option<Instant>,
    /// When the next one that is sent away may come back.
    next: Instant,
}

impl Turns {
    /// Begins with a guess of how many can be served each second.
    #[must_use]
    pub fn new(guess: usize) -> Self {
        let (guess, now) = (f64::from(u32::try_from(guess).unwrap_or(u32::MAX)).max(1.0), Instant::now());
        Self(Mutex::new(State { guess, pace: guess, served: 0, measured_since: now, refused_at: None, next: now }))
    }

    /// Notes that somebody was served.
    pub fn served(&self) {
        self.lock().served += 1;
    }

    /// Gives somebody who is sent away a turn: how long to stay away.
    pub fn next(&self) -> Duration {
        self.next_at(Instant::now())
    }

    fn next_at(&self, now: Instant) -> Duration {
        let mut state = self.lock();
        let is_new = state.refused_at.is_none_or(|at| now.duration_since(at) > EPISODE);
        state.refused_at = Some(now);
        // While nobody is sent away, how many are served says how many came, not how many could be served.
        if is_new {
            (state.pace, state.served, state.measured_since) = (state.guess, 0, now);
        } else if now.duration_since(state.measured_since) >= MEASURE {
            let measured = f64::from(state.served) / now.duration_since(state.measured_since).as_secs_f64();
            (state.pace, state.served, state.measured_since) = (f64::midpoint(state.pace, measured).max(1.0), 0, now);
        }
        state.next = state.next.max(now) + Duration::from_secs_f64(1.0 / state.pace);
        state.next = state.next.min(now + LONGEST);
        state.next.duration_since(now)
    }

    /// The state is whole at any time, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_each_other_at_the_pace_at_which_others_are_served() {
        let (turns, start) = (Turns::new(100), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let first: Vec<_> = (0..3).map(|_| turns.next_at(at(0)).as_millis()).collect();
        assert_eq!(first, [10, 20, 30], "as was guessed");
        (0..10).for_each(|_| turns.served());
        // Ten in a second, and a hundred were guessed: between the two.
        let slower = turns.next_at(at(1000));
        assert_eq!(slower.as_millis(), 18);
        assert_eq!(turns.next_at(at(1000)).as_millis(), 36);
    }

    #[test]
    fn nobody_stays_away_for_longer_than_half_a_minute_and_an_old_pace_is_forgotten() {
        let (turns, start) = (Turns::new(1), Instant::now());
        let waits: Vec<_> = (0..100).map(|_| turns.next_at(start)).collect();
        assert_eq!(waits.iter().max(), Some(&LONGEST));
        assert_eq!(turns.next_at(start + Duration::from_mins(2)).as_millis(), 1000);
    }
}
