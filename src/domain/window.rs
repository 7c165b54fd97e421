//! The calls of a sliding window, counted in cells of 250 ms.
//!
//! A call counts from the start of its cell until the window's length and a margin have passed since the cell's end. The
//! margin is for clocks that differ and for calls that travel at different speeds. So ACS never sees more calls in a window
//! than it allows, whether its windows slide or are aligned, and at least 96 % of a limit per 30 s can be used.
//! On Postgres the function `reserve_quota` of the migration does what [`Window::reserve`] does; a test compares the two.

use std::time::Duration;

use chrono::{DateTime, Utc};

const CELL: Duration = Duration::from_millis(250);
const CELL_MS: i64 = 250;
const MARGIN_MS: i64 = 1000;
/// How far the newest cell may be ahead because clocks differ; one further ahead comes from a clock that was wrong.
const MOST_CELLS_AHEAD: i64 = MARGIN_MS / CELL_MS;
/// The longest pause that is believed.
const LONGEST_PAUSE_MS: i64 = 300_000;

/// How many calls are allowed in any stretch of time.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// The number of calls.
    pub calls: u32,
    /// The length of the stretch.
    pub per: Duration,
}

impl Allowance {
    /// Returns for how many cells a call counts, its own included.
    #[must_use]
    pub fn cells(self) -> i64 {
        let per_ms = i64::try_from(self.per.as_millis()).unwrap_or(i64::MAX / 4);
        (per_ms + MARGIN_MS + CELL_MS - 1) / CELL_MS + 1
    }

    /// Returns this allowance less some calls.
    #[must_use]
    pub fn less(self, calls: u32) -> Self {
        Self { calls: self.calls.saturating_sub(calls), ..self }
    }
}

/// The calls that were reserved, and until when none may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The number of the newest cell since 1970.
    newest_cell: i64,
    /// The calls in each cell, the newest last.
    calls: Vec<i64>,
    paused_until_ms: i64,
}

impl Window {
    /// Makes a window from its stored parts.
    #[must_use]
    pub fn new(newest_cell: i64, calls: Vec<i64>, paused_until_ms: i64) -> Self {
        Self { newest_cell, calls, paused_until_ms }
    }

    /// Returns the number of the newest cell since 1970.
    #[must_use]
    pub fn newest_cell(&self) -> i64 {
        self.newest_cell
    }

    /// Returns the calls in each cell, the newest last.
    #[must_use]
    pub fn calls(&self) -> &[i64] {
        &self.calls
    }

    /// Returns until when no call may be made, in milliseconds since 1970.
    #[must_use]
    pub fn paused_until_ms(&self) -> i64 {
        self.paused_until_ms
    }

    /// Returns whether no call may be made now because ACS refused one.
    #[must_use]
    pub fn is_paused(&self, now: DateTime<Utc>) -> bool {
        now.timestamp_millis() < self.paused_until_ms
    }

    /// Forbids calls before a time.
    pub fn pause(&mut self, until: DateTime<Utc>) {
        self.paused_until_ms = self.paused_until_ms.max(until.timestamp_millis());
    }

    /// Reserves as many of the wanted calls as the allowance leaves, and returns how many.
    pub fn reserve(&mut self, wanted: u32, allowance: Allowance, now: DateTime<Utc>) -> u32 {
        self.advance(allowance, now);
        let granted = wanted.min(self.room(allowance, now));
        if let Some(newest) = self.calls.last_mut() {
            *newest += i64::from(granted);
        }
        granted
    }

    /// Moves to the present: forgets cells that no longer count, and corrects times that are too far ahead.
    ///
    /// Returns whether there were such times, which only a wrong clock can have caused.
    pub fn advance(&mut self, allowance: Allowance, now: DateTime<Utc>) -> bool {
        let (present, longest_pause) = (cell(now), now.timestamp_millis() + LONGEST_PAUSE_MS);
        let is_ahead = self.newest_cell > present + MOST_CELLS_AHEAD || self.paused_until_ms > longest_pause;
        self.paused_until_ms = self.paused_until_ms.min(longest_pause);
        if self.newest_cell > present + MOST_CELLS_AHEAD {
            self.newest_cell = present;
        }
        let cells = allowance.cells();
        let new_cells = (present - self.newest_cell).clamp(0, cells).max(i64::from(self.calls.is_empty()));
        self.calls.extend((0..new_cells).map(|_| 0));
        let counted = self.calls.len().min(usize::try_from(cells).unwrap_or(usize::MAX));
        self.calls.drain(..self.calls.len() - counted);
        self.newest_cell = self.newest_cell.max(present);
        is_ahead
    }

    /// Returns how many calls may be made now.
    #[must_use]
    pub fn room(&self, allowance: Allowance, now: DateTime<Utc>) -> u32 {
        if self.is_paused(now) {
            return 0;
        }
        let used: i64 = self.counted(allowance, now.timestamp_millis()).map(|(_, calls)| calls).sum();
        u32::try_from(i64::from(allowance.calls) - used).unwrap_or_default()
    }

    /// Returns how long it takes until so many more calls can have been made, if nobody else makes any.
    #[must_use]
    pub fn wait(&self, calls: u32, allowance: Allowance, now: DateTime<Utc>) -> Duration {
        let now_ms = now.timestamp_millis();
        let start_ms = now_ms.max(self.paused_until_ms);
        // The calls of a full allowance can be made again after the time for which they count.
        let rounds = calls.saturating_sub(1) / allowance.calls.max(1);
        let calls = i64::from(calls - rounds * allowance.calls);
        let used: i64 = self.counted(allowance, start_ms).map(|(_, calls)| calls).sum();
        let mut room = i64::from(allowance.calls) - used;
        let mut free_at_ms = start_ms;
        for (cell, calls_of_cell) in self.counted(allowance, start_ms) {
            if room >= calls {
                break;
            }
            room += calls_of_cell;
            free_at_ms = (cell + allowance.cells()) * CELL_MS;
        }
        let wait_ms = free_at_ms - now_ms + i64::from(rounds) * allowance.cells() * CELL_MS;
        Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default())
    }

    /// Returns the time between two calls in the cell that has most.
    #[must_use]
    pub fn shortest_interval(&self) -> Option<Duration> {
        let most = self.calls.iter().copied().max().unwrap_or_default();
        CELL.checked_div(u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// Returns the cells that count at a time, the oldest first, with their calls.
    fn counted(&self, allowance: Allowance, at_ms: i64) -> impl Iterator<Item = (i64, i64)> {
        let oldest = at_ms.div_euclid(CELL_MS) - allowance.cells() + 1;
        let first = self.newest_cell + 1 - i64::try_from(self.calls.len()).unwrap_or_default();
        (first..).zip(self.calls.iter().copied()).filter(move |(cell, _)| *cell >= oldest)
    }
}

fn cell(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis().div_euclid(CELL_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Allowance = Allowance { calls: 10, per: Duration::from_secs(30) };

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    fn wait_ms(window: &Window, calls: u32, now_ms: i64) -> i64 {
        i64::try_from(window.wait(calls, TEN, at(now_ms)).as_millis()).unwrap()
    }

    #[test]
    fn all_calls_can_be_made_at_once_and_again_when_the_window_has_passed() {
        let mut window = Window::default();
        assert_eq!(window.reserve(12, TEN, at(0)), 10);
        assert_eq!(window.reserve(12, TEN, at(31_249)), 0);
        assert_eq!(window.wait(1, TEN, at(250)), Duration::from_secs(31));
        assert_eq!(window.reserve(12, TEN, at(31_250)), 10);
    }

    #[test]
    fn the_wait_for_each_call_is_known() {
        let mut window = Window::default();
        window.reserve(4, TEN, at(0));
        window.reserve(4, TEN, at(5_000));
        let waits = [1, 2, 3, 6, 7, 10].map(|calls| wait_ms(&window, calls, 6_000));
        assert_eq!(waits, [0, 0, 25_250, 25_250, 30_250, 30_250]);
        assert_eq!(wait_ms(&window, 11, 6_000), 31_250, "more than the limit: the first call of the next window");
    }

    #[test]
    fn a_pause_forbids_calls_and_is_never_shortened() {
        let mut window = Window::default();
        window.pause(at(5_000));
        window.pause(at(2_000));
        assert_eq!((window.reserve(1, TEN, at(4_999)), window.reserve(1, TEN, at(5_000))), (0, 1));
        assert_eq!(wait_ms(&window, 1, 0), 5_000);
    }

    #[test]
    fn times_too_far_in_the_future_are_corrected() {
        let mut window = Window::default();
        window.reserve(10, TEN, at(3_600_000));
        window.pause(at(7_200_000));
        assert!(window.advance(TEN, at(0)));
        assert!(!window.advance(TEN, at(0)), "only once");
        assert_eq!(wait_ms(&window, 1, 0), LONGEST_PAUSE_MS);
        let mut window = Window::default();
        window.reserve(10, TEN, at(3_600_000));
        assert_eq!(window.reserve(1, TEN, at(0)), 0, "calls of the future count as calls of now");
        assert_eq!(wait_ms(&window, 1, 0), 31_250);
    }

    #[test]
    fn a_limit_that_is_always_wanted_is_used_to_95_percent() {
        let (mut window, mut made) = (Window::default(), 0);
        for now_ms in (0..300_000).step_by(10) {
            made += window.reserve(3, TEN, at(now_ms));
        }
        assert!(made >= 95, "{made} of 100");
    }

    proptest! {
        /// Replicas' clocks differ by up to half a second here.
        #[test]
        fn no_stretch_of_time_sees_too_many_calls(
            steps in prop::collection::vec((0..4_000_i64, 1..6_u32, 0..500_i64), 1..120),
        ) {
            let (mut window, mut now_ms, mut made) = (Window::default(), 0, Vec::new());
            for (pause_ms, wanted, ahead_ms) in steps {
                now_ms += pause_ms;
                let granted = window.reserve(wanted, TEN, at(now_ms + ahead_ms));
                made.push((now_ms, granted));
                prop_assert!(window.calls().len() <= 125);
            }
            for (start_ms, _) in &made {
                let seen: u32 =
                    made.iter().filter(|(ms, _)| (*start_ms..start_ms + 30_000).contains(ms)).map(|(_, n)| n).sum();
                prop_assert!(seen <= 10, "{seen} from {start_ms}");
            }
        }

        #[test]
        fn a_wait_ends_exactly_when_there_is_room(
            steps in prop::collection::vec((0..4_000_i64, 1..6_u32), 1..60), calls in 1..11_u32,
        ) {
            let (mut window, mut now_ms) = (Window::default(), 0);
            for (pause_ms, wanted) in steps {
                now_ms += pause_ms;
                window.reserve(wanted, TEN, at(now_ms));
            }
            let wait_ms = wait_ms(&window, calls, now_ms);
            prop_assert!(window.room(TEN, at(now_ms + wait_ms)) >= calls);
            prop_assert!(wait_ms == 0 || window.room(TEN, at(now_ms + wait_ms - 1)) < calls);
        }
    }
}
