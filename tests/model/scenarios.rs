//! What may happen in a run, and how ACS and the clocks behave in it.
//!
//! Every scenario is bounded: one user, two replicas, a few requests and operators' acts, a fault or two.
//! Together they cover each pair of things that can meet; docs/protocol.md says what they leave out.

use std::fmt;

use crate::{
    rules::{Rule, Rules},
    state::{Budget, IMPORTED, Life, NEVER, State, Status},
};

/// How ACS reads "revoked in second r" for a token issued in that same second; its documentation does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It dies: issued <= r.
    Pessimistic,
    /// It lives: issued < r.
    Optimistic,
}

/// How ACS's seconds lie against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    Same,
    AcsLater,
    AcsEarlier,
}

/// What an operator may do, and what the service does to rows in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Revoke,
    RevokeKeepingSignIns,
    RevokeGlobal,
    Block,
    Unblock,
    Delete,
    Import,
    Purge,
}

/// A scenario under one reading, one pair of clocks and one set of rules.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    pub name: &'static str,
    pub rules: Rules,
    pub reading: Reading,
    pub clocks: Clocks,
    /// For how many seconds a call can still act after its claim (assumption A1); `NEVER` for without end.
    pub calls_act_for: u8,
    pub operators: &'static [Operator],
    pub starts_active: bool,
    pub single_flight: bool,
    pub old_sign_ins: bool,
    /// Whether ACS refuses a worker's calls where it could lose their answers.
    pub refuses_calls: bool,
    /// The last second with faults and new requests.
    pub faults_until: u8,
    pub budget: Budget,
    /// More states than these are not kept.
    pub limit: usize,
}

impl Config {
    pub fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// Tells whether a sign-in is so old that its user's row may have been purged.
    pub fn is_forgotten(&self, sign_in: u8, now: u8) -> bool {
        self.operators.contains(&Operator::Purge) && sign_in < now
    }

    /// A full second in whole seconds, with the clocks' tolerance.
    pub fn full_second(&self) -> u8 {
        1 + u8::from(self.clocks != Clocks::Same && self.has(Rule::Margin))
    }

    /// Until when a call can act that is sent now.
    pub fn deadline(&self, now: u8) -> u8 {
        now.saturating_add(self.calls_act_for)
    }

    pub fn start(&self) -> State {
        let mut state = State { now: 1, budget: self.budget, ..State::default() };
        if self.starts_active {
            state.row.status = Status::Active;
            state.row.identity = 1;
            state.life[1] = Life::Alive;
        }
        if self.operators.contains(&Operator::Import) {
            state.life[usize::from(IMPORTED)] = Life::Alive;
        }
        state
    }

    /// The scenario under every reading of ACS and every pair of clocks.
    pub fn variants(&self) -> Vec<Self> {
        let mut variants = Vec::new();
        for reading in [Reading::Pessimistic, Reading::Optimistic] {
            for clocks in [Clocks::Same, Clocks::AcsLater, Clocks::AcsEarlier] {
                variants.push(Self { reading, clocks, ..self.clone() });
            }
        }
        variants
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {:?})", self.name, self.reading, self.clocks)
    }
}

/// Requests, operators' acts, crashes, time-outs (or refused creates), claims lost by a live holder.
pub const fn budget(requests: u8, acts: u8, crashes: u8, timeouts: u8, lost_claims: u8) -> Budget {
    Budget { requests, acts, crashes, timeouts, lost_claims }
}

const BASE: Config = Config {
    name: "",
    rules: Rules::ALL,
    reading: Reading::Pessimistic,
    clocks: Clocks::Same,
    calls_act_for: 1,
    operators: &[],
    starts_active: true,
    single_flight: false,
    old_sign_ins: false,
    refuses_calls: false,
    faults_until: 2,
    budget: budget(0, 0, 0, 0, 0),
    limit: 60_000_000,
};

/// What `calls_act_for` is when nothing bounds it.
pub const WITHOUT_END: u8 = NEVER;

/// A user with an identity is revoked, with every fault.
pub const REVOKE: Config =
    Config { name: "revoke", operators: &[Operator::Revoke], faults_until: 3, budget: budget(2, 1, 1, 1, 1), ..BASE };

/// Calls that act so late that the early one, unanswered, can outlive the hold.
pub const LATE: Config = Config {
    name: "late",
    calls_act_for: 2,
    operators: &[Operator::Revoke],
    faults_until: 3,
    budget: budget(1, 1, 1, 1, 0),
    ..BASE
};

/// Calls that surely had no effect, among others that may have had one.
pub const REFUSED: Config = Config {
    name: "refused",
    operators: &[Operator::Revoke],
    refuses_calls: true,
    budget: budget(2, 1, 1, 2, 0),
    ..BASE
};

/// Two acts in a row, and sign-ins from before them.
pub const SIGN_INS: Config = Config {
    name: "sign-ins",
    operators: &[Operator::Revoke, Operator::RevokeKeepingSignIns, Operator::Block, Operator::Unblock],
    old_sign_ins: true,
    faults_until: 3,
    budget: budget(2, 2, 0, 0, 0),
    ..BASE
};

/// Two operations of one user at a time, with faults.
pub const OVERLAP: Config = Config {
    name: "overlap",
    operators: &[Operator::Revoke, Operator::Block, Operator::Unblock],
    budget: budget(1, 2, 0, 1, 1),
    ..BASE
};

/// The first token, with every fault.
pub const CREATE: Config = Config { name: "create", starts_active: false, budget: budget(3, 0, 1, 1, 1), ..BASE };

/// Operators meet a user without a row, being created, or unbound.
pub const CREATING: Config = Config {
    name: "creating",
    starts_active: false,
    operators: &[Operator::Revoke, Operator::Block, Operator::Unblock, Operator::Delete],
    faults_until: 3,
    budget: budget(2, 2, 0, 0, 0),
    ..BASE
};

/// The same with old sign-ins, where the first thing that is known of a user may be their revocation.
pub const UNKNOWN: Config = Config {
    name: "unknown",
    starts_active: false,
    operators: &[Operator::Revoke, Operator::RevokeKeepingSignIns, Operator::Block],
    old_sign_ins: true,
    faults_until: 3,
    budget: budget(2, 2, 0, 0, 0),
    ..BASE
};

/// One act while a replica crashes over a first token.
pub const CRASHING: Config = Config {
    name: "crashing",
    starts_active: false,
    operators: &[Operator::Revoke, Operator::Block, Operator::Delete],
    budget: budget(2, 1, 1, 0, 1),
    ..BASE
};

/// Creates that fail with and without effect, and claims given back.
pub const RELEASE: Config = Config {
    name: "release",
    starts_active: false,
    operators: &[Operator::Revoke, Operator::Delete],
    budget: budget(2, 1, 0, 2, 1),
    ..BASE
};

/// Deletes, and what comes after them.
pub const DELETE: Config = Config {
    name: "delete",
    operators: &[Operator::Revoke, Operator::Delete],
    old_sign_ins: true,
    budget: budget(2, 2, 0, 0, 1),
    ..BASE
};

/// Imports over everything that can be there.
pub const IMPORT: Config = Config {
    name: "import",
    starts_active: false,
    operators: &[Operator::Delete, Operator::Import],
    budget: budget(2, 2, 0, 0, 1),
    ..BASE
};

/// Requests that share a mint.
pub const SINGLE_FLIGHT: Config = Config {
    name: "single-flight",
    operators: &[Operator::Revoke],
    single_flight: true,
    old_sign_ins: true,
    faults_until: 3,
    budget: budget(3, 1, 0, 0, 0),
    ..BASE
};

/// All users are revoked, with a user who has an identity.
pub const GLOBAL: Config = Config {
    name: "global",
    operators: &[Operator::RevokeGlobal, Operator::RevokeKeepingSignIns],
    old_sign_ins: true,
    budget: budget(2, 2, 0, 1, 0),
    ..BASE
};

/// All users are revoked, with a user who is unknown, being created, or deleted.
pub const NEWCOMERS: Config = Config {
    name: "newcomers",
    starts_active: false,
    operators: &[Operator::RevokeGlobal, Operator::Delete],
    old_sign_ins: true,
    faults_until: 3,
    budget: budget(2, 2, 0, 0, 1),
    ..BASE
};

/// Rows without identity that are purged, here as soon as the second of the change is over.
pub const PURGE: Config = Config {
    name: "purge",
    operators: &[Operator::Delete, Operator::Purge],
    old_sign_ins: true,
    faults_until: 3,
    budget: budget(3, 1, 0, 0, 0),
    ..BASE
};
