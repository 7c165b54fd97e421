//! Counters of calls.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use super::call::Operation;

/// The counts since the emulator started.
#[derive(Default)]
pub(super) struct Counters {
    calls: [AtomicU64; Operation::ALL.len()],
    /// Requests without a valid signature; calls for an identity of another resource are not counted here.
    pub(super) unauthorized: Counter,
    /// Answers with status 429.
    pub(super) throttled: Counter,
}

impl Counters {
    /// Counts an authenticated call, whatever its result.
    pub(super) fn call(&self, operation: Operation) {
        self.calls[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn to_json(&self, identities: usize) -> Value {
        let calls: Map<String, Value> = Operation::ALL
            .iter()
            .map(|&operation| {
                let count = self.calls[operation as usize].load(Ordering::Relaxed);
                (operation.name().to_owned(), count.into())
            })
            .collect();
        json!({
            "identities": identities,
            "calls": calls,
            "unauthorized": self.unauthorized.get(),
            "throttled": self.throttled.get(),
        })
    }
}

/// A number that only grows.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
