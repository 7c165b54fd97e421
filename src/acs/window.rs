//! An allowance of so many calls in any stretch of time, and what was spent of it: a sliding window.
//!
//! Spending is kept in cells of half a second and counts as if it had come at its cell's end, so the window errs on the
//! safe side. A second more than the stretch has to pass, for clocks that differ and calls that travel unequally fast.
//! Whatever window the other side counts in, aligned or sliding, it never sees more calls than are allowed.

use std::time::Duration;

use chrono::{DateTime, Utc};

const CELL_MS: i64 = 500;
const MARGIN_MS: i64 = 1000;

/// So many calls in any stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How many.
    pub calls: u32,
    /// In what time.
    pub per: Duration,
}

/// What was spent of an allowance, and until when nothing may be spent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Cells in ascending order, each with what was spent in it.
    spent: Vec<(i64, u32)>,
    paused_until_ms: i64,
}

impl Window {
    /// Takes what was stored.
    #[must_use]
    pub fn new(spent: Vec<(i64, u32)>, paused_until_ms: i64) -> Self {
        Self { spent, paused_until_ms }
    }

    /// Returns the cells, for storing.
    #[must_use]
    pub fn spent(&self) -> &[(i64, u32)] {
        &self.spent
    }

    /// Returns until when nothing may be spent, in milliseconds since 1970.
    #[must_use]
    pub fn paused_until_ms(&self) -> i64 {
        self.paused_until_ms
    }

    /// Returns how many calls may be made now.
    #[must_use]
    pub fn room(&self, allowance: Allowance, now: DateTime<Utc>) -> u32 {
        let now_ms = now.timestamp_millis();
        if now_ms < self.paused_until_ms {
            return 0;
        }
        let counted = self.spent.iter().filter(|(cell, _)| free_ms(*cell, allowance) > now_ms).map(|(_, calls)| calls);
        allowance.calls.saturating_sub(counted.sum())
    }

    /// Returns how long it takes until so many more calls may have been made, if nobody else makes any.
    #[must_use]
    pub fn wait(&self, calls: u32, allowance: Allowance, now: DateTime<Utc>) -> Duration {
        let now_ms = now.timestamp_millis();
        let start_ms = now_ms.max(self.paused_until_ms);
        // Every full allowance that is asked for takes its time once more.
        let rounds = calls.saturating_sub(1) / allowance.calls.max(1);
        let calls = calls - rounds * allowance.calls;
        let counted: Vec<_> = self.spent.iter().filter(|(cell, _)| free_ms(*cell, allowance) > start_ms).collect();
        let mut room = i64::from(allowance.calls) - counted.iter().map(|(_, calls)| i64::from(*calls)).sum::<i64>();
        let mut free_at_ms = start_ms;
        for (cell, calls_of_cell) in counted {
            if room >= i64::from(calls) {
                break;
            }
            room += i64::from(*calls_of_cell);
            free_at_ms = free_ms(*cell, allowance);
        }
        let wait_ms = free_at_ms - now_ms + i64::from(rounds) * span_ms(allowance);
        Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default())
    }

    /// Spends calls, and forgets what no longer counts.
    pub fn spend(&mut self, calls: u32, allowance: Allowance, now: DateTime<Utc>) {
        let now_ms = now.timestamp_millis();
        self.spent.retain(|(cell, _)| free_ms(*cell, allowance) > now_ms);
        let cell = cell(now);
        match self.spent.binary_search_by_key(&cell, |(cell, _)| *cell) {
            Ok(at) => self.spent[at].1 = self.spent[at].1.saturating_add(calls),
            Err(at) => self.spent.insert(at, (cell, calls)),
        }
    }

    /// Spends nothing before a time.
    pub fn pause(&mut self, until: DateTime<Utc>) {
        self.paused_until_ms = self.paused_until_ms.max(until.timestamp_millis());
    }
}

/// Returns the cell of a time: what is spent in one cell counts alike.
#[must_use]
pub fn cell(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis().div_euclid(CELL_MS)
}

fn free_ms(cell: i64, allowance: Allowance) -> i64 {
    (cell + 1) * CELL_MS + span_ms(allowance)
}

fn span_ms(allowance: Allowance) -> i64 {
    i64::try_from(allowance.per.as_millis()).unwrap_or(i64::MAX / 4) + MARGIN_MS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Allowance = Allowance { calls: 10, per: Duration::from_secs(30) };

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    #[test]
    fn all_may_be_spent_at_once_and_again_when_the_window_has_passed() {
        let mut window = Window::default();
        assert_eq!(window.room(TEN, at(0)), 10);
        window.spend(10, TEN, at(0));
        assert_eq!(window.room(TEN, at(31_499)), 0);
        assert_eq!(window.room(TEN, at(31_500)), 10);
        assert_eq!(window.wait(1, TEN, at(500)), Duration::from_secs(31));
    }

    #[test]
    fn waits_tell_when_the_nth_call_may_be_made() {
        let mut window = Window::default();
        window.spend(4, TEN, at(0));
        window.spend(4, TEN, at(5_000));
        let wait = |calls| window.wait(calls, TEN, at(6_000)).as_millis();
        assert_eq!([wait(1), wait(2), wait(3), wait(6), wait(7), wait(10)], [0, 0, 25_500, 25_500, 30_500, 30_500]);
        assert_eq!(wait(11), 31_000, "more than an allowance: the first of the next stretch");
    }

    #[test]
    fn pauses_hold_back_whatever_room_there_is_and_never_move_back() {
        let mut window = Window::default();
        window.pause(at(5_000));
        window.pause(at(2_000));
        assert_eq!((window.room(TEN, at(4_999)), window.room(TEN, at(5_000))), (0, 10));
        assert_eq!(window.wait(1, TEN, at(0)), Duration::from_secs(5));
    }

    proptest! {
        /// However calls come, no stretch of the allowance's length, wherever it begins, has more of them than allowed.
        #[test]
        fn no_window_ever_sees_too_many(steps in prop::collection::vec((0..4_000_i64, 1..6_u32), 1..120)) {
            let (mut window, mut now_ms, mut made) = (Window::default(), 0, Vec::new());
            for (pause_ms, wanted) in steps {
                now_ms += pause_ms;
                let calls = wanted.min(window.room(TEN, at(now_ms)));
                if calls > 0 {
                    window.spend(calls, TEN, at(now_ms));
                    made.push((now_ms, calls));
                }
                let wait_ms = i64::try_from(window.wait(1, TEN, at(now_ms)).as_millis()).unwrap();
                prop_assert!(window.room(TEN, at(now_ms + wait_ms)) > 0);
                prop_assert!(wait_ms == 0 || window.room(TEN, at(now_ms + wait_ms - 1)) == 0);
            }
            for (start_ms, _) in &made {
                let seen: u32 = made.iter().filter(|(ms, _)| (*start_ms..start_ms + 30_000).contains(ms)).map(|(_, n)| n).sum();
                prop_assert!(seen <= 10, "{seen} from {start_ms}");
            }
            prop_assert!(window.spent().len() <= 65);
        }
    }
}
