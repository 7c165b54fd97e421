//! The quota: all replicas together make no more calls than ACS allows a resource.
//!
//! Each kind of call has a limit of its own at ACS, so each has a bucket of its own here (`bucket`): a revocation never
//! waits for tokens to be issued. What all replicas have reserved is one row in the database (`domain::window`).

mod bucket;
mod call;

use std::time::Duration;

use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    domain::{clock::Clock, window::Allowance},
    store::Store,
};
use bucket::{Bucket, Message, Waiter};
pub(crate) use bucket::{Error, Permit};
pub use call::Call;
pub(crate) use call::Priority;

/// How long after its deadline a request waits for the answer of its bucket, which itself answers by the deadline unless
/// the database is slow.
const GRACE: Duration = Duration::from_millis(100);
/// When to try again if the database was too slow to say.
const RETRY_AFTER_SILENCE: Duration = Duration::from_secs(2);

/// How many calls of each kind ACS allows (learn.microsoft.com, "Service limits for Azure Communication Services",
/// Identity); a support request raises them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many calls of each kind a replica makes at once; more of them wait.
    pub at_once: usize,
    /// The time in which ACS allows the numbers below.
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

    /// Returns whether no limit is zero.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.at_once > 0 && !self.per.is_zero() && Call::ALL.into_iter().all(|call| self.calls(call) > 0)
    }
}

/// The buckets of one resource.
#[derive(Debug)]
pub(super) struct Quota([mpsc::UnboundedSender<Message>; Call::ALL.len()]);

impl Quota {
    /// Starts a task for each kind of call; they end when the quota and all permits are dropped.
    pub(super) fn new(store: &Store, clock: &Clock, resource: &str, settings: &Settings) -> Self {
        Self(Call::ALL.map(|call| {
            let allowance = Allowance { calls: settings.calls(call), per: settings.per };
            let (sender, messages) = mpsc::unbounded_channel();
            let bucket = Bucket::new(store, clock, (resource, call), allowance, settings.at_once, sender.downgrade());
            tokio::spawn(bucket.run(messages));
            sender
        }))
    }

    /// Reserves one call, which has to be made at once, and waits for that until the deadline at most.
    pub(super) async fn reserve(&self, call: Call, priority: Priority, deadline: Instant) -> Result<Permit, Error> {
        let (answer, answered) = oneshot::channel();
        self.send(call, Message::Wanted(Waiter { priority, deadline, answer }));
        match timeout_at(deadline + GRACE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::UsedUp { retry_after: RETRY_AFTER_SILENCE }),
        }
    }

    /// Notes that ACS refused a call as one too many: nobody makes another one for some time.
    pub(super) fn throttled(&self, call: Call, retry_after: Option<Duration>) {
        self.send(call, Message::Throttled(retry_after));
    }

    /// Notes that ACS accepted a call.
    pub(super) fn accepted(&self, call: Call) {
        self.send(call, Message::Accepted);
    }

    fn send(&self, call: Call, message: Message) {
        // The receiver lives as long as this sender.
        let _ = self.0[call as usize].send(message);
    }
}
