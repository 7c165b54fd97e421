//! One state of the world: the row, the operations, ACS, both replicas, and what only an all-seeing observer knows.
//!
//! Everything is a byte or smaller: millions of states are hashed, and equal states must have equal bytes.
//! 0 is "none" for identities, operations' claims and times alike; real seconds begin with 1.

use crate::{
    rules::Rule,
    scenarios::{Clocks, Config, Reading},
};

/// The replicas, which are also the indices of what they do.
pub const REPLICAS: [u8; 2] = [0, 1];
/// The identity that an operator imports; those below are made by ACS.
pub const IMPORTED: u8 = 5;
/// A deadline that never comes.
pub const NEVER: u8 = u8::MAX;

/// A token, with the number of answered changes that its authorisation knew of.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    pub identity: u8,
    pub issued: u8,
    pub generation: u8,
    pub epoch: u8,
}

/// What is known of the user.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    #[default]
    NoRow,
    Creating,
    Active,
    Deleting,
    Unbound,
}

/// The user's row.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub status: Status,
    pub identity: u8,
    pub blocked: bool,
    pub generation: u8,
    pub sign_ins_valid_from: u8,
    /// The last revocation of all users that was applied to this row.
    pub epoch: u8,
    pub held_until: u8,
    pub no_reuse_before: u8,
    pub last_minted: u8,
    pub claim: u8,
    pub claim_ran_out: bool,
    /// The flag that a protocol without `HoldAny` or `OneTransaction` goes by: an operation's index + 1.
    pub pending: u8,
    pub possible_orphans: u8,
    /// Gives every claim an id of its own.
    pub claims_made: u8,
}

/// The revocations of all users, without touching a row.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GlobalState {
    pub epoch: u8,
    pub sign_ins_valid_from: u8,
}

/// What an operation wants from ACS.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    #[default]
    Empty,
    Revoke,
    Delete,
    Discard,
}

/// Accepted work.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    pub kind: Kind,
    pub identity: u8,
    pub completed: bool,
    /// The claiming replica + 1.
    pub claimed_by: u8,
    pub attempts: u8,
    pub last_attempt: u8,
    pub not_before: u8,
    pub early_sent: bool,
    pub epoch: u8,
}

/// How far a request for a token has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    #[default]
    Idle,
    Read,
    WantMint,
    Joined,
    MintSent,
    MintDone,
    Issue,
    Claim,
    CreateSent,
    CreateDone,
    Bind,
    Release,
}

/// A request for a token, and what its replica remembers of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    pub phase: Phase,
    pub sign_in: u8,
    pub generation: u8,
    pub identity: u8,
    pub epoch: u8,
    pub claim: u8,
    pub issued: u8,
    /// When the answer came, by our clock: what `last_minted_at` will say.
    pub answered: u8,
    pub may_store: bool,
    pub may_have_created: bool,
    pub retried: bool,
}

/// How far a worker's call has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    #[default]
    Idle,
    Sent,
    Acted,
    Answered,
    /// Completed, but the hold is not lifted: only without `OneTransaction`.
    Unlifted,
}

/// A replica's worker.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    pub stage: Stage,
    pub operation: u8,
    pub deadline: u8,
    pub confirmed: u8,
    /// Sent before the operation's `not_before`.
    pub early: bool,
}

/// A call that nobody waits for any more, and that may still act until its deadline.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LateCall {
    #[default]
    None,
    Revoke {
        identity: u8,
        deadline: u8,
    },
    Create {
        deadline: u8,
    },
}

/// An identity's life at ACS.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    #[default]
    Unused,
    Alive,
    Deleted,
}

/// What nobody in the protocol can look up, and the promises are checked against.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Truth {
    /// Tokens that were issued and are alive.
    pub issued_tokens: [Token; 5],
    /// The identity that tokens were issued from since the last delete.
    pub served: u8,
    /// Revokes, blocks and deletes answered so far.
    pub epoch: u8,
    pub sign_ins_valid_from: u8,
    pub blocked: bool,
    /// Bits of the living identities that a transaction wrote down, be it as bound or as lost.
    pub known: u8,
    /// Bits of the identities that a delete or discard ever named; kept only where import does not ask.
    pub named: u8,
}

/// How often what may still happen.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    pub requests: u8,
    pub acts: u8,
    pub crashes: u8,
    pub timeouts: u8,
    /// Claims that run out although their holder is only slow.
    pub lost_claims: u8,
}

/// The world.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub now: u8,
    /// Whether the two clocks are in different seconds.
    pub apart: bool,
    pub row: Row,
    pub global: GlobalState,
    pub cached: Token,
    pub operations: [Operation; 4],
    pub life: [Life; 6],
    /// The second of an identity's last revocation.
    pub revoked: [u8; 6],
    pub requests: [Request; 2],
    pub workers: [Worker; 2],
    pub late_calls: [LateCall; 3],
    pub truth: Truth,
    pub budget: Budget,
}

impl State {
    /// The second of ACS's clock.
    pub fn acs_now(&self, config: &Config) -> u8 {
        match config.clocks {
            Clocks::Same => self.now,
            Clocks::AcsLater => self.now - u8::from(self.apart),
            Clocks::AcsEarlier => self.now + u8::from(self.apart),
        }
    }

    /// Tells whether ACS knows an identity.
    pub fn alive(&self, identity: u8) -> bool {
        self.life[usize::from(identity)] == Life::Alive
    }

    /// Tells whether ACS refuses a token.
    pub fn dead(&self, config: &Config, token: Token) -> bool {
        let revoked = self.revoked[usize::from(token.identity)];
        let by_revocation = match config.reading {
            Reading::Pessimistic => revoked > 0 && token.issued <= revoked,
            Reading::Optimistic => token.issued < revoked,
        };
        by_revocation || !self.alive(token.identity)
    }

    /// Tells whether issuing is held back.
    pub fn held(&self, config: &Config) -> bool {
        let unfinished = |o: &Operation| o.kind == Kind::Revoke && !o.completed && o.identity == self.row.identity;
        config.has(Rule::Hold)
            && (self.now < self.row.held_until
                || (config.has(Rule::HoldAny) && self.operations.iter().any(unfinished))
                || self.row.pending != 0)
    }

    /// The generation that is read and compared: the user's own and the global one together.
    pub fn generation(&self, config: &Config) -> u8 {
        self.row.generation + if config.has(Rule::EpochSteps) { self.global.epoch } else { 0 }
    }

    /// Tells whether the latest revocation of all users has not been applied to the row yet.
    pub fn is_stale(&self) -> bool {
        self.row.status != Status::NoRow && self.row.epoch < self.global.epoch
    }

    /// Applies the revocations of all users to the row; what is new starts there.
    pub fn apply_global_row(&mut self) {
        self.row.epoch = self.global.epoch;
        self.row.sign_ins_valid_from = self.row.sign_ins_valid_from.max(self.global.sign_ins_valid_from);
    }

    /// Applies the revocations of all users to the user.
    pub fn apply_global(&mut self, config: &Config) {
        self.apply_global_row();
        self.cached = Token::default();
        if self.row.status == Status::Active && config.has(Rule::EpochOperation) {
            self.accept(config, Kind::Revoke, self.row.identity);
        }
    }

    /// What revoke, block and delete have in common.
    pub fn change(&mut self, config: &Config, reject_older_sign_ins: bool) {
        self.truth.epoch += 1;
        self.apply_global_row();
        if config.has(Rule::GenerationMoves) {
            self.row.generation += 1;
        }
        if config.has(Rule::DropCached) {
            self.cached = Token::default();
        }
        if reject_older_sign_ins {
            self.row.sign_ins_valid_from = self.first_valid_second(config);
            self.truth.sign_ins_valid_from = self.now + 1;
        }
    }

    /// The first second whose sign-ins a change that is made now lets in: sign-ins are dated in whole seconds, so one of
    /// the very second of the change may be from before it.
    pub fn first_valid_second(&self, config: &Config) -> u8 {
        self.now + u8::from(config.has(Rule::ChangeSecond))
    }

    /// Queues an operation; a revocation that counts waits a full second after the last mint.
    pub fn accept(&mut self, config: &Config, kind: Kind, identity: u8) {
        let free = self.operations.iter().position(|o| o.kind == Kind::Empty);
        let index = free.expect("room for an operation");
        let wait = kind == Kind::Revoke && config.has(Rule::WaitBefore) && self.row.last_minted > 0;
        self.operations[index] = Operation {
            kind,
            identity,
            not_before: if wait { self.row.last_minted + config.full_second() } else { 0 },
            epoch: self.truth.epoch,
            ..Operation::default()
        };
        if kind == Kind::Revoke {
            self.row.pending = u8::try_from(index).expect("few operations") + 1;
        } else if !config.has(Rule::ImportNamed) {
            self.truth.named |= 1 << identity;
        }
    }

    /// Lets a call go on without anybody who waits for it.
    pub fn leave_behind(&mut self, call: LateCall) {
        let free = self.late_calls.iter_mut().find(|late_call| **late_call == LateCall::None);
        *free.expect("room for late calls") = call;
    }

    /// Picks one of the two mirror images of the replicas, so that only one of them is explored.
    pub fn canonical(self) -> Self {
        let mut mirrored = self;
        mirrored.requests.swap(0, 1);
        mirrored.workers.swap(0, 1);
        for operation in &mut mirrored.operations {
            if operation.claimed_by != 0 {
                operation.claimed_by = 3 - operation.claimed_by;
            }
        }
        mirrored.min(self)
    }

    /// Forgets what can no longer matter.
    pub fn forget(&mut self, config: &Config) {
        let now = self.now;
        for index in 0..self.truth.issued_tokens.len() {
            let token = self.truth.issued_tokens[index];
            if token.identity != 0 && self.dead(config, token) {
                self.truth.issued_tokens[index] = Token::default();
            }
        }
        self.truth.issued_tokens.sort_unstable();
        for (identity, life) in self.life.iter().enumerate() {
            if *life != Life::Alive {
                self.truth.known &= !(1 << identity);
            }
        }
        self.late_calls.sort_unstable();
        for (index, operation) in self.operations.iter_mut().enumerate() {
            let worked_on = |w: &Worker| w.stage != Stage::Idle && usize::from(w.operation) == index;
            if operation.completed && !self.workers.iter().any(worked_on) {
                *operation = Operation::default();
            } else if operation.not_before <= now {
                operation.not_before = 0;
                operation.early_sent = false;
            }
        }
        if config.has(Rule::HoldAny) && config.has(Rule::OneTransaction) {
            self.row.pending = 0;
        }
        for time in [&mut self.row.held_until, &mut self.row.no_reuse_before] {
            if *time <= now {
                *time = 0;
            }
        }
        let full_second = config.full_second();
        let forget_mint = |time: &mut u8| {
            if *time + full_second <= now {
                *time = 0;
            }
        };
        forget_mint(&mut self.row.last_minted);
        for request in &mut self.requests {
            forget_mint(&mut request.answered);
            if request.phase == Phase::Idle {
                *request = Request::default();
            }
        }
        for worker in &mut self.workers {
            if worker.stage == Stage::Idle {
                *worker = Worker::default();
            }
        }
    }
}
