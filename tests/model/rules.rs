//! The rules of the protocol, each of which can be left out to see what it is for.
//!
//! docs/protocol.md says for every rule which race it prevents and which promise breaks without it.

macro_rules! rules {
    ($($name:ident $text:literal;)*) => {
        /// One rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// What the rule demands.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    GenerationMoves "revoke, block and delete step the generation";
    MintGeneration "issue only where the generation is the one read";
    MintState "issue only where active, not blocked, not held";
    MintIdentity "issue only where the identity is the one minted for";
    MintTimeMax "`last_minted_at` never moves back";
    ReuseGeneration "reuse only a token of the present generation";
    DropCached "revoke, block and delete drop the cached tokens in their transaction";
    SignInCheck "a sign-in is at least as new as `sign_ins_valid_from`";
    ChangeSecond "a change shuts out sign-ins dated in its own second";
    SignInCheckUnbound "the same where the row has no identity";
    SignInAge "a sign-in from before the oldest row that is kept is refused, also where there is no row";
    ClaimGeneration "claim only where the generation is the one read";
    BindClaim "bind only under the claim that is one's own";
    BindState "bind only where the state is creating; delete clears the claim";
    BindGeneration "after the bind, issue only where the generation is the one read and nobody blocked";
    Discard "an identity that lost is queued for discard in the transaction that saw the loss";
    CountOrphan "whoever takes over or deletes a claim counts a possible orphan";
    ReleaseOwn "a claim is given back only under its own id and while creating";
    ReleaseCounts "a claim given back after a lost answer counts a possible orphan";
    Tombstone "delete leaves an unbound row";
    TombstoneForUnknown "delete of a user without a row makes an unbound one";
    RowForUnknown "revoke or block of a user without a row makes an unbound one";
    Hold "an unfinished revocation holds issuing back";
    HoldAny "any unfinished revocation holds, not only the last one";
    WaitAfter "the hold outlasts the confirmation by a full second";
    WaitBefore "the call that counts is sent a full second after the last mint";
    EarlyNeverCompletes "a call sent before that never completes the operation";
    EarlyIsAttempt "the early call is written down as an attempt before it is sent";
    Margin "full seconds are durations plus the clocks' tolerance, never compared after flooring";
    LateDuplicates "after an unanswered attempt nothing is cached until it can no longer act";
    Attempts "attempts are written down by the claim, before the call is sent";
    UnansweredStays "only an attempt that surely cannot act any more is taken back from the count";
    CompleteOnce "an operation completes only where it is not complete";
    DeleteCondition "a delete completes only where deleting and the identity is the operation's";
    OneTransaction "completion and lift are one transaction";
    Reclaim "a dead worker's claim runs out";
    SingleFlightGeneration "the key of a single flight holds the generation";
    ImportState "import only where there is no row or an unbound one";
    ImportNamed "import of an identity that a delete or discard names is refused";
    Unblock "unblock clears the block and nothing else";
    EpochSteps "a revocation of all users steps the generation of every user, by a number that is added to it";
    EpochRead "whoever finds a row behind the present epoch first catches it up";
    EpochUnknown "where there is no row, the sign-in is at least as new as the global `sign_ins_valid_from`";
    EpochOperation "catching up queues a revocation where there is an identity";
}

/// The rules that a run obeys.
#[derive(Clone, Copy, Debug)]
pub struct Rules(u64);

impl Rules {
    /// The protocol as it is.
    pub const ALL: Self = Self(u64::MAX);

    /// The protocol without some of its rules.
    pub fn without(rules: &[Rule]) -> Self {
        Self(rules.iter().fold(u64::MAX, |kept, rule| kept & !bit(*rule)))
    }

    /// Tells whether a rule is obeyed.
    pub fn has(self, rule: Rule) -> bool {
        self.0 & bit(rule) != 0
    }
}

fn bit(rule: Rule) -> u64 {
    1 << rule as u32
}
