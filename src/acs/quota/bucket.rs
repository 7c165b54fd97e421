//! One kind of call in this replica: those who wait for it, and the task that reserves calls for them.
//!
//! One statement reserves for all who wait when it is sent; those who come meanwhile share the next one. Nothing is
//! reserved that nobody waits for. A request that cannot be served before its deadline is refused at once, with the
//! time at which it can be.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::call::{Call, Priority};
use crate::{
    domain::{
        clock::Clock,
        window::{Allowance, Window},
    },
    store::{self, Store},
};

/// The pauses after a 429 without `Retry-After`: doubled from the first to the last while they go on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// How long a reserved call may be made: half of the window's margin.
const VALID: Duration = Duration::from_millis(500);
/// The longest wait that a refused request gets.
const LONGEST_PROMISE: Duration = Duration::from_mins(5);

/// Why a call may not be made now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The call cannot be made before the deadline.
    #[error("the quota of calls to ACS is used up")]
    UsedUp {
        /// When the call can be made.
        retry_after: Duration,
    },
    /// The quota is not known.
    #[error("the quota of calls to ACS could not be read")]
    Store(#[source] Arc<store::Error>),
}

/// An event for a bucket's task.
#[derive(Debug)]
pub(super) enum Message {
    /// A call is wanted.
    Wanted(Waiter),
    /// A call has ended.
    Returned,
    /// ACS refused a call as one too many, and may have said when to come back.
    Throttled(Option<Duration>),
    /// ACS accepted a call.
    Accepted,
}

/// A request for one call.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) priority: Priority,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<Permit, Error>>,
}

/// The right to make one call, held while it is made.
#[derive(Debug)]
pub(crate) struct Permit(mpsc::UnboundedSender<Message>);

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = self.0.send(Message::Returned);
    }
}

/// The requests of one priority.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiter>,
    /// When refused requests are expected again.
    promised: VecDeque<DateTime<Utc>>,
}

/// The state of a bucket's task.
#[derive(Debug)]
pub(super) struct Bucket {
    store: Store,
    clock: Clock,
    resource: String,
    call: Call,
    allowance: Allowance,
    at_once: usize,
    /// For permits, which tell when they end.
    sender: mpsc::WeakUnboundedSender<Message>,
    lines: [Line; 2],
    /// What all replicas had reserved when the database last answered.
    window: Window,
    /// What this replica has reserved.
    own: Window,
    in_flight: usize,
    /// How many pauses there were without an accepted call between them.
    refusals: u32,
    has_new_pause: bool,
}

impl Bucket {
    pub(super) fn new(
        store: &Store,
        clock: &Clock,
        (resource, call): (&str, Call),
        allowance: Allowance,
        at_once: usize,
        sender: mpsc::WeakUnboundedSender<Message>,
    ) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
            resource: resource.to_owned(),
            call,
            allowance,
            at_once,
            sender,
            lines: [Line::default(), Line::default()],
            window: Window::default(),
            own: Window::default(),
            in_flight: 0,
            refusals: 0,
            has_new_pause: false,
        }
    }

    /// Serves until nobody is left who could send a message.
    pub(super) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.receive(message),
                    None => return,
                },
                () = sleep_until_some(self.next_event()) => {}
            }
            loop {
                while let Ok(message) = messages.try_recv() {
                    self.receive(message);
                }
                // Reserved in the future of a clock that was moved back since: the database is asked again.
                if self.window.advance(self.allowance, self.clock.now()) {
                    self.window = Window::default();
                }
                self.share_pause().await;
                self.refuse_late();
                let Some((priority, wanted)) = self.wanted() else { break };
                self.reserve(priority, wanted).await;
            }
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Wanted(waiter) => self.line(waiter.priority).waiting.push_back(waiter),
            Message::Returned => self.in_flight -= 1,
            Message::Throttled(retry_after) => self.pause(retry_after),
            // In a pause it is the answer to a call from before it, which says nothing about what comes after it.
            Message::Accepted if self.window.is_paused(self.clock.now()) => {}
            Message::Accepted => self.refusals = 0,
        }
    }

    fn line(&mut self, priority: Priority) -> &mut Line {
        &mut self.lines[priority as usize]
    }

    /// Returns what a priority may use.
    fn allowance_of(&self, priority: Priority) -> Allowance {
        match priority {
            Priority::Interactive => self.allowance,
            Priority::Background => self.allowance.less(self.allowance.calls / 4),
        }
    }

    /// Returns the priority whose turn it is.
    fn first_in_line(&self) -> Option<Priority> {
        [Priority::Interactive, Priority::Background]
            .into_iter()
            .find(|priority| !self.lines[*priority as usize].waiting.is_empty())
    }

    /// Returns how many more calls may be in flight: after a pause one, until ACS accepts it.
    fn free(&self) -> usize {
        let most = if self.refusals > 0 { 1 } else { self.at_once };
        most.saturating_sub(self.in_flight)
    }

    /// Returns what to reserve now, if there is room as far as is known.
    fn wanted(&self) -> Option<(Priority, u32)> {
        let priority = self.first_in_line()?;
        let wanted = u32::try_from(self.lines[priority as usize].waiting.len().min(self.free())).ok()?;
        let room = self.window.room(self.allowance_of(priority), self.clock.now());
        (wanted > 0 && room > 0).then_some((priority, wanted))
    }

    /// Returns when there is something to do although nobody sends a message.
    fn next_event(&self) -> Option<Instant> {
        let priority = self.first_in_line()?;
        let room = self.window.wait(1, self.allowance_of(priority), self.clock.now());
        let room = (self.free() > 0).then(|| Instant::now() + room);
        self.lines.iter().flat_map(|line| &line.waiting).map(|waiter| waiter.deadline).chain(room).min()
    }

    /// Reserves calls for those who wait, and lets them make them.
    async fn reserve(&mut self, priority: Priority, wanted: u32) {
        let (allowance, call) = (self.allowance_of(priority), self.call.as_str());
        let reserved = match self.store.reserve_quota(&self.resource, call, allowance, wanted, &self.clock).await {
            Ok(reserved) => reserved,
            Err(error) => {
                let error = Arc::new(error);
                for waiter in self.lines.iter_mut().flat_map(|line| line.waiting.drain(..)) {
                    let _ = waiter.answer.send(Err(Error::Store(Arc::clone(&error))));
                }
                return;
            }
        };
        if reserved.was_ahead {
            tracing::warn!(call, "the quota held times in the future, which were corrected; is a clock wrong?");
        }
        self.window = reserved.window;
        if (self.clock.now() - reserved.at).to_std().unwrap_or_default() > VALID {
            tracing::warn!(call, calls = reserved.granted, "the database reserved calls too slowly to use them");
            return;
        }
        self.own.reserve(reserved.granted, Allowance { calls: u32::MAX, ..self.allowance }, reserved.at);
        for _ in 0..reserved.granted {
            self.permit_one(priority);
        }
    }

    /// Lets the first in line who still waits make a call.
    fn permit_one(&mut self, priority: Priority) {
        while let Some(waiter) = self.line(priority).waiting.pop_front() {
            let Some(sender) = self.sender.upgrade() else { return };
            // A permit that does not arrive is dropped, and so counted back.
            self.in_flight += 1;
            if waiter.answer.send(Ok(Permit(sender))).is_ok() {
                return;
            }
        }
    }

    /// Refuses those who cannot be served before their deadline.
    fn refuse_late(&mut self) {
        let (now, instant) = (self.clock.now(), Instant::now());
        let mut ahead = 0;
        for priority in [Priority::Interactive, Priority::Background] {
            let allowance = self.allowance_of(priority);
            let mut late = Vec::new();
            for waiter in std::mem::take(&mut self.line(priority).waiting) {
                if waiter.answer.is_closed() {
                    continue;
                }
                if instant + self.window.wait(ahead + 1, allowance, now) < waiter.deadline {
                    ahead += 1;
                    self.line(priority).waiting.push_back(waiter);
                } else {
                    late.push(waiter);
                }
            }
            for waiter in late {
                let retry_after = self.promise(priority, ahead, now);
                let _ = waiter.answer.send(Err(Error::UsedUp { retry_after }));
            }
        }
    }

    /// Returns when a request can be served that so many others, and all who were refused before, are ahead of.
    ///
    /// What other replicas promised is not known, so it is the earliest possible time. If there will be room for many at
    /// once, they come one after the other, as fast as this replica made calls in its best moment of the last window, or
    /// as the limit allows if that is faster.
    fn promise(&mut self, priority: Priority, waiting: u32, now: DateTime<Utc>) -> Duration {
        for line in &mut self.lines {
            while line.promised.front().is_some_and(|at| *at <= now) {
                line.promised.pop_front();
            }
        }
        let promised: usize = self.lines[..=priority as usize].iter().map(|line| line.promised.len()).sum();
        let position = waiting.saturating_add(u32::try_from(promised).unwrap_or(u32::MAX)).saturating_add(1);
        let allowance = self.allowance_of(priority);
        let interval = allowance.per / allowance.calls.max(1);
        let seen = self.own.shortest_interval().or(self.window.shortest_interval());
        let interval = seen.map_or(interval, |seen| seen.min(interval));
        let paced = self.window.wait(1, allowance, now).saturating_add(interval.saturating_mul(position - 1));
        let retry_after = self.window.wait(position, allowance, now).max(paced);
        let line = self.line(priority);
        if retry_after > LONGEST_PROMISE {
            line.promised.clear();
        }
        let retry_after = retry_after.min(LONGEST_PROMISE);
        line.promised.push_back(now + retry_after);
        retry_after
    }

    /// Pauses all calls, as long as ACS says or longer each time.
    fn pause(&mut self, retry_after: Option<Duration>) {
        let now = self.clock.now();
        let is_paused = self.window.is_paused(now);
        // In a pause it is the answer to a call from before it.
        let pause = match retry_after {
            None if is_paused => return,
            None => LAST_PAUSE.min(FIRST_PAUSE * 2_u32.pow(self.refusals.min(10))),
            Some(retry_after) => retry_after,
        };
        self.refusals += u32::from(!is_paused);
        self.window.pause(now + pause);
        self.has_new_pause = true;
    }

    /// Pauses the calls of the other replicas too.
    async fn share_pause(&mut self) {
        if std::mem::take(&mut self.has_new_pause) {
            let (call, until_ms) = (self.call.as_str(), self.window.paused_until_ms());
            if let Err(error) = self.store.pause_quota(&self.resource, call, until_ms).await {
                // The other replicas will get their own 429s.
                tracing::warn!(call, error = &error as &dyn std::error::Error, "a pause could not be shared");
            }
        }
    }
}

async fn sleep_until_some(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
