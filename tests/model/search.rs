//! Breadth-first search over canonical states, so that the first trace to a broken promise is a shortest one.
//!
//! Of a visited state only a fingerprint and its parent are kept; a trace is found again by replaying the fingerprints.
//! Fingerprints have 64 bits: among 20 million states the chance that two share one is about one in 100,000.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
};

use crate::{
    promises::{Broken, Promise},
    scenarios::Config,
    state::State,
    steps::{Act, Step, steps},
};

/// What a search saw.
pub struct Outcome {
    pub states: usize,
    /// Whether no state had to be left out.
    pub whole: bool,
    /// The shortest trace to each broken promise.
    pub broken: BTreeMap<Promise, Vec<String>>,
}

/// Explores a scenario; stops early at a trace to `wanted`.
pub fn explore(config: &Config, wanted: Option<Promise>) -> Outcome {
    Search::new(config).run(wanted)
}

struct Search<'a> {
    config: &'a Config,
    seen: HashSet<u64, BuildHasherDefault<Identity>>,
    /// Fingerprint and parent of every state, in the order of discovery.
    visited: Vec<(u64, u32)>,
    waiting: VecDeque<State>,
    outcome: Outcome,
}

impl<'a> Search<'a> {
    fn new(config: &'a Config) -> Self {
        let start = config.start().canonical();
        let print = fingerprint(&start);
        Self {
            config,
            seen: HashSet::from_iter([print]),
            visited: vec![(print, 0)],
            waiting: VecDeque::from([start]),
            outcome: Outcome { states: 0, whole: true, broken: BTreeMap::new() },
        }
    }

    fn run(mut self, wanted: Option<Promise>) -> Outcome {
        let mut next = Vec::new();
        let mut at = 0;
        while let Some(state) = self.waiting.pop_front() {
            steps(self.config, &state, &mut next);
            self.check_rest(&state, at, next.is_empty());
            for step in next.drain(..) {
                self.note(step.broken, at, Some(step.act));
                if step.broken == Broken::NONE {
                    // A broken promise ends its path.
                    self.visit(step.state, at);
                }
            }
            if wanted.is_some_and(|promise| self.outcome.broken.contains_key(&promise)) {
                break;
            }
            at += 1;
        }
        self.outcome.states = self.visited.len();
        self.outcome
    }

    fn check_rest(&mut self, state: &State, at: u32, is_last: bool) {
        if state.all_completed() {
            self.note(state.check_end(self.config), at, None);
        } else {
            self.note(Broken::when(is_last, Promise::Completes), at, None);
        }
    }

    fn visit(&mut self, state: State, parent: u32) {
        let state = state.canonical();
        let print = fingerprint(&state);
        if self.seen.contains(&print) {
            return;
        }
        if self.visited.len() >= self.config.limit {
            self.outcome.whole = false;
            return;
        }
        self.seen.insert(print);
        self.visited.push((print, parent));
        self.waiting.push_back(state);
    }

    /// Keeps the first, therefore shortest, trace to each broken promise.
    fn note(&mut self, broken: Broken, at: u32, last: Option<Act>) {
        if broken == Broken::NONE {
            return;
        }
        for promise in Promise::ALL {
            if broken.has(*promise) && !self.outcome.broken.contains_key(promise) {
                let trace = self.trace(at, last, *promise);
                self.outcome.broken.insert(*promise, trace);
            }
        }
    }

    /// Replays the way to a state with the replicas' names kept along it, which the canonical states swap.
    fn trace(&self, at: u32, last: Option<Act>, promise: Promise) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = at;
        while at != 0 {
            let (print, parent) = self.visited[at as usize];
            path.push(print);
            at = parent;
        }
        let mut state = self.config.start();
        let mut words = Vec::new();
        for print in path.into_iter().rev() {
            let leads = |step: &Step| fingerprint(&step.state.canonical()) == print;
            let step = self.steps_from(&state).into_iter().find(leads);
            let step = step.expect("a visited state can be reached again");
            words.push(step.act.words());
            state = step.state;
        }
        if let Some(last) = last {
            let same =
                |step: &Step| (step.act.text, step.act.number) == (last.text, last.number) && step.broken.has(promise);
            let step = self.steps_from(&state).into_iter().find(same);
            words.push(step.map_or(last, |step| step.act).words());
        }
        words
    }

    fn steps_from(&self, state: &State) -> Vec<Step> {
        let mut out = Vec::new();
        steps(self.config, state, &mut out);
        out
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Mixes eight bytes at a time; the constants are those of well-known 64-bit mixers (`MurmurHash3`, `MX3`).
#[derive(Default)]
struct Fingerprint {
    mixed: u64,
    part: u64,
    bits: u32,
}

impl Fingerprint {
    fn mix(&mut self) {
        let mixed = (self.mixed ^ self.part).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        self.mixed = (mixed ^ mixed >> 32).wrapping_add(0xA24B_AED4_963E_E407);
        self.part = 0;
        self.bits = 0;
    }
}

impl Hasher for Fingerprint {
    fn write_u8(&mut self, byte: u8) {
        self.part |= u64::from(byte) << self.bits;
        self.bits += 8;
        if self.bits == 64 {
            self.mix();
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    // Variants of enums come this way.
    fn write_isize(&mut self, variant: isize) {
        self.write_u8(variant.to_le_bytes()[0]);
    }

    // Lengths of arrays come this way, which are the same in every state.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        let mut last = Self { mixed: self.mixed, part: self.part, bits: 0 };
        last.mix();
        let mixed = last.mixed.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        mixed ^ mixed >> 29
    }
}

/// Takes a fingerprint for its own hash.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
