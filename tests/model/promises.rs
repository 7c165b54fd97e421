//! What is promised, and where it is checked.
//!
//! A token is issued at the moment of the read (reuse) or of the conditional update (mint).
//! An HTTP answer that is under way cannot be called back by anybody; such a token is dead at the latest when the
//! operation is complete, which is checked too.

use crate::{
    rules::Rule,
    scenarios::Config,
    state::{Kind, LateCall, Life, NEVER, Phase, Stage, State, Status, Token},
};

macro_rules! promises {
    ($($name:ident $text:literal;)*) => {
        /// One promise; the numbers are those of docs/protocol.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Promise {
            $(#[doc = $text] $name,)*
        }

        impl Promise {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What happened when it broke.
            pub fn broken(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

promises! {
    OneIdentity "P1: tokens of two identities were issued";
    NoSilentOrphan "P1: an identity is neither bound nor discarded nor counted";
    NothingAfterRevoke "P2: a token was issued on an authorisation older than an answered revoke, block or delete";
    OldTokensDie "P2: an old token is alive at ACS after its operation completed";
    NoDeadReuse "P3: a dead token was issued again";
    NoDeadCached "P3: a dead token is cached where it would be issued again";
    Completes "P4: an accepted operation is never completed";
    OlderSignInsStayOut "P5: a sign-in older than `sign_ins_valid_from` got a token";
    BlockedStayOut "B: a blocked user got a token";
    HonestAreServed "H: a fresh sign-in of an honest user gets no live token";
    MappingIsSafe "M: a step that had lost its right changed the mapping or the identity bound by it";
}

/// The promises that a step broke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broken(u16);

impl Broken {
    pub const NONE: Self = Self(0);

    pub fn when(broken: bool, promise: Promise) -> Self {
        Self(u16::from(broken) << promise as u32)
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn has(self, promise: Promise) -> bool {
        self.0 & 1 << promise as u32 != 0
    }
}

impl State {
    /// Hands a token out; everything that a promise says about this moment is checked here.
    pub fn issue_token(&mut self, config: &Config, token: Token, epoch: u8, sign_in: u8) -> Broken {
        let truth = &mut self.truth;
        let broken = Broken::when(truth.served != 0 && truth.served != token.identity, Promise::OneIdentity)
            .and(Broken::when(epoch < truth.epoch || token.epoch < truth.epoch, Promise::NothingAfterRevoke))
            .and(Broken::when(sign_in < truth.sign_ins_valid_from, Promise::OlderSignInsStayOut))
            .and(Broken::when(truth.blocked, Promise::BlockedStayOut));
        truth.served = token.identity;
        // The generation no longer matters: what was issued is only asked for being alive.
        let held = Token { generation: 0, ..token };
        if !self.dead(config, token) && !self.truth.issued_tokens.contains(&held) {
            let free = self.truth.issued_tokens.iter_mut().find(|t| t.identity == 0);
            *free.expect("room for tokens") = held;
        }
        broken
    }

    /// Checks that hold at every moment.
    pub fn check(&self, config: &Config) -> Broken {
        let servable = self.row.status == Status::Active
            && !self.row.blocked
            && self.cached.identity != 0
            && (self.cached.generation == self.generation(config) || !config.has(Rule::ReuseGeneration))
            && self.dead(config, self.cached)
            && !(self.is_stale() && config.has(Rule::EpochRead))
            && !self.held(config);
        Broken::when(servable, Promise::NoDeadCached)
    }

    /// Tells whether nothing is left to do.
    pub fn all_completed(&self) -> bool {
        let row = &self.row;
        let gone = |late_call: &LateCall| {
            matches!(
                late_call,
                LateCall::None | LateCall::Revoke { deadline: NEVER, .. } | LateCall::Create { deadline: NEVER }
            )
        };
        self.requests.iter().all(|r| r.phase == Phase::Idle)
            && self.workers.iter().all(|w| w.stage == Stage::Idle)
            && self.operations.iter().all(|o| o.kind == Kind::Empty || o.completed)
            && self.late_calls.iter().all(gone)
            && self.now >= row.held_until
            && (self.now >= row.no_reuse_before || row.no_reuse_before == NEVER)
            && !self.is_stale()
            && !self.apart
    }

    /// Checks a state in which nothing is left to do.
    pub fn check_end(&self, config: &Config) -> Broken {
        let row = &self.row;
        let stuck = row.status == Status::Deleting || self.held(config);
        let bound = matches!(row.status, Status::Active | Status::Deleting);
        let lost = |i: &u8| self.alive(*i) && !(bound && *i == row.identity);
        let forgotten = (1..5).filter(lost).any(|i| self.truth.known & 1 << i != 0);
        // A claim that still stands will be counted by whoever takes it over.
        let counted = row.possible_orphans + u8::from(row.status == Status::Creating);
        // A cached token is checked by P3; without one, an honest user's request mints now.
        let reuse = self.cached.identity != 0 && self.cached.generation == self.generation(config);
        let survives =
            self.truth.issued_tokens.iter().any(|token| token.identity != 0 && token.epoch < self.truth.epoch);
        let fresh = Token { identity: row.identity, issued: self.acs_now(config), ..Token::default() };
        let served = row.blocked || row.status != Status::Active || reuse || !self.dead(config, fresh);
        Broken::when(stuck, Promise::Completes)
            .and(Broken::when(survives, Promise::OldTokensDie))
            .and(Broken::when(forgotten || (1..5).filter(lost).count() > usize::from(counted), Promise::NoSilentOrphan))
            .and(Broken::when(!served && !stuck, Promise::HonestAreServed))
    }

    /// Brings an identity to life at ACS; `None` when the model's identities are used up.
    pub fn create_identity(&mut self) -> Option<u8> {
        let identity = (1..5).find(|&i| self.life[usize::from(i)] == Life::Unused)?;
        self.life[usize::from(identity)] = Life::Alive;
        Some(identity)
    }
}
