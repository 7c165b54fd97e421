//! Each rule left out, with the promise that breaks: the model can fail, and every rule is there for a reason.
//!
//! Rules that another one covers are left out together with it.

use crate::{
    promises::Promise,
    rules::{Rule, Rules},
    scenarios::{self, Clocks, Config, Reading, budget},
    search::explore,
};

/// Where no trace was found within so many states, the model has lost its sight.
const LIMIT: usize = 1_000_000;

/// Leaves rules out and asserts that a promise breaks.
fn breaks(rules: &[Rule], promise: Promise, config: &Config) {
    let config = Config { rules: Rules::without(rules), limit: LIMIT, ..config.clone() };
    let outcome = explore(&config, Some(promise));
    let left_out: Vec<_> = rules.iter().map(|rule| rule.text()).collect();
    let Some(trace) = outcome.broken.get(&promise) else {
        let others: Vec<_> = outcome.broken.keys().collect();
        panic!("{config}, {} states: only {others:?} broken without {left_out:?}", outcome.states);
    };
    println!(
        "{} ({} steps, {} states), without: {}\n - {}",
        promise.broken(),
        trace.len(),
        outcome.states,
        left_out.join("; "),
        trace.join("\n - ")
    );
}

/// Optimistic: a token issued in the second of its revocation lives.
fn optimistic(config: &Config) -> Config {
    Config { reading: Reading::Optimistic, ..config.clone() }
}

macro_rules! without {
    ($($name:ident: [$($rule:ident),*] breaks $promise:ident in $config:expr;)*) => {
        $(
            #[test]
            fn $name() {
                breaks(&[$(Rule::$rule),*], Promise::$promise, &$config);
            }
        )*
    };
}

/// A scenario with another budget.
fn with(config: &Config, requests: u8, acts: u8, faults: [u8; 3]) -> Config {
    Config { budget: budget(requests, acts, faults[0], faults[1], faults[2]), ..config.clone() }
}

const NO_FAULTS: [u8; 3] = [0, 0, 0];

without! {
    a_revoke_that_does_not_step_the_generation: [GenerationMoves] breaks NothingAfterRevoke
        in with(&scenarios::REVOKE, 1, 1, NO_FAULTS);
    a_mint_in_flight_survives_a_whole_revoke: [MintGeneration] breaks NothingAfterRevoke
        in with(&scenarios::REVOKE, 1, 1, NO_FAULTS);
    a_mint_in_flight_survives_delete_purge_and_a_new_row: [MintIdentity] breaks OneIdentity
        in scenarios::PURGE;
    an_older_mint_moves_the_time_of_the_last_one_back: [MintTimeMax] breaks OldTokensDie
        in optimistic(&with(&scenarios::REVOKE, 2, 1, NO_FAULTS));
    a_token_in_flight_is_stored_over_the_change_and_reused: [DropCached, ReuseGeneration] breaks NoDeadCached
        in scenarios::SINGLE_FLIGHT;
    an_old_sign_in_gets_in_after_a_revoke: [SignInCheck] breaks OlderSignInsStayOut
        in with(&scenarios::SIGN_INS, 1, 1, NO_FAULTS);
    a_sign_in_of_the_second_of_a_revoke_gets_in: [ChangeSecond] breaks OlderSignInsStayOut
        in with(&scenarios::SIGN_INS, 1, 1, NO_FAULTS);
    a_sign_in_of_the_second_of_a_global_revocation_gets_in: [ChangeSecond] breaks OlderSignInsStayOut
        in with(&scenarios::GLOBAL, 1, 1, NO_FAULTS);
    an_old_sign_in_brings_a_deleted_user_back: [SignInCheckUnbound] breaks OlderSignInsStayOut
        in with(&scenarios::DELETE, 1, 1, NO_FAULTS);
    an_old_sign_in_outlives_the_row_that_knew_of_its_revocation: [SignInAge] breaks OlderSignInsStayOut
        in with(&scenarios::PURGE, 1, 1, NO_FAULTS);
    a_claim_after_a_change_goes_by_the_new_generation: [ClaimGeneration] breaks NothingAfterRevoke
        in with(&scenarios::CREATING, 1, 2, NO_FAULTS);
    a_claim_after_a_change_lets_an_old_sign_in_in: [ClaimGeneration] breaks OlderSignInsStayOut
        in Config { old_sign_ins: true, ..with(&scenarios::CREATING, 1, 2, NO_FAULTS) };
    a_deleted_user_is_bound_again: [BindState] breaks MappingIsSafe
        in with(&scenarios::CREATING, 1, 1, NO_FAULTS);
    a_deleted_user_is_bound_to_two_identities: [BindState, BindClaim] breaks OneIdentity
        in Config { faults_until: 3, ..with(&scenarios::CREATING, 3, 1, NO_FAULTS) };
    a_first_token_leaves_after_a_revoke: [BindGeneration] breaks NothingAfterRevoke
        in with(&scenarios::CREATING, 1, 1, NO_FAULTS);
    an_identity_is_made_that_nobody_counts: [CountOrphan] breaks NoSilentOrphan
        in with(&scenarios::CREATE, 2, 0, [1, 0, 0]);
    an_identity_that_lost_is_forgotten: [Discard] breaks NoSilentOrphan
        in with(&scenarios::CREATE, 2, 0, [0, 0, 1]);
    the_claim_of_who_took_over_is_given_back: [ReleaseOwn] breaks MappingIsSafe
        in with(&scenarios::RELEASE, 2, 0, [0, 1, 1]);
    the_claim_of_a_newer_sign_in_is_given_back_after_a_delete: [ReleaseOwn] breaks MappingIsSafe
        in with(&scenarios::RELEASE, 2, 1, [0, 1, 0]);
    a_create_that_acts_after_its_claim_was_given_back: [ReleaseCounts] breaks NoSilentOrphan
        in with(&scenarios::RELEASE, 1, 0, [0, 1, 0]);
    a_deleted_user_leaves_no_trace: [Tombstone] breaks NothingAfterRevoke
        in scenarios::CREATING;
    delete_of_an_unknown_user_leaves_no_trace: [TombstoneForUnknown] breaks NothingAfterRevoke
        in with(&scenarios::CREATING, 1, 1, NO_FAULTS);
    revoke_of_an_unknown_user_leaves_no_trace: [RowForUnknown] breaks NothingAfterRevoke
        in with(&scenarios::UNKNOWN, 1, 1, NO_FAULTS);
    revoke_of_an_unknown_user_lets_old_sign_ins_in: [RowForUnknown] breaks OlderSignInsStayOut
        in with(&scenarios::UNKNOWN, 1, 1, NO_FAULTS);
    block_of_an_unknown_user_is_forgotten: [RowForUnknown] breaks BlockedStayOut
        in with(&scenarios::UNKNOWN, 1, 1, NO_FAULTS);
    a_mint_between_commit_and_revocation_is_stored: [Hold] breaks NoDeadCached
        in with(&scenarios::REVOKE, 1, 1, NO_FAULTS);
    one_revocation_lifts_the_hold_of_another: [HoldAny] breaks NoDeadCached
        in with(&scenarios::OVERLAP, 1, 2, NO_FAULTS);
    a_token_minted_in_the_second_of_the_revocation: [WaitAfter] breaks HonestAreServed
        in with(&scenarios::REVOKE, 1, 1, NO_FAULTS);
    a_token_of_the_same_second_outlives_its_revocation: [WaitBefore] breaks OldTokensDie
        in optimistic(&with(&scenarios::REVOKE, 1, 1, NO_FAULTS));
    the_early_call_completes_and_a_token_lives_on: [EarlyNeverCompletes] breaks OldTokensDie
        in optimistic(&with(&scenarios::REVOKE, 1, 1, NO_FAULTS));
    an_early_call_that_nobody_wrote_down_kills_a_stored_token: [EarlyIsAttempt] breaks NoDeadCached
        in with(&scenarios::LATE, 2, 1, [1, 0, 0]);
    the_clocks_do_not_tick_together: [Margin] breaks NoDeadCached
        in Config { clocks: Clocks::AcsLater, ..with(&scenarios::REVOKE, 1, 1, NO_FAULTS) };
    a_late_duplicate_kills_a_stored_token: [LateDuplicates] breaks NoDeadCached
        in with(&scenarios::REVOKE, 1, 1, [0, 1, 0]);
    an_attempt_that_nobody_wrote_down: [Attempts] breaks NoDeadCached
        in with(&scenarios::REVOKE, 1, 1, [1, 0, 0]);
    an_unanswered_attempt_is_forgotten: [UnansweredStays] breaks NoDeadCached
        in with(&scenarios::REVOKE, 1, 1, [0, 1, 0]);
    a_slow_worker_completes_a_delete_twice: [CompleteOnce, DeleteCondition] breaks MappingIsSafe
        in with(&scenarios::DELETE, 1, 1, [0, 0, 1]);
    a_crash_between_completion_and_lift: [OneTransaction] breaks Completes
        in with(&scenarios::REVOKE, 0, 1, [1, 0, 0]);
    a_dead_worker_keeps_its_claim: [Reclaim] breaks Completes
        in with(&scenarios::REVOKE, 0, 1, [1, 0, 0]);
    a_shared_call_crosses_a_revoke: [SingleFlightGeneration] breaks NothingAfterRevoke
        in scenarios::SINGLE_FLIGHT;
    a_shared_call_carries_an_old_sign_in: [SingleFlightGeneration] breaks OlderSignInsStayOut
        in scenarios::SINGLE_FLIGHT;
    an_identity_that_is_being_discarded_is_imported_again: [ImportNamed] breaks MappingIsSafe
        in with(&scenarios::IMPORT, 2, 2, [0, 0, 1]);
    a_deleted_identity_is_imported_again: [ImportNamed] breaks HonestAreServed
        in with(&scenarios::IMPORT, 1, 2, NO_FAULTS);
    calls_that_act_without_end_kill_every_fresh_token: [] breaks HonestAreServed
        in Config { calls_act_for: scenarios::WITHOUT_END, ..with(&scenarios::REVOKE, 1, 1, [0, 1, 0]) };
    a_mint_in_flight_survives_the_revocation_of_all_users: [EpochSteps] breaks NothingAfterRevoke
        in with(&scenarios::GLOBAL, 1, 1, NO_FAULTS);
    a_first_token_leaves_after_the_revocation_of_all_users: [EpochSteps] breaks NothingAfterRevoke
        in with(&scenarios::NEWCOMERS, 1, 1, NO_FAULTS);
    an_old_sign_in_gets_in_where_the_row_is_stale: [EpochRead] breaks OlderSignInsStayOut
        in with(&scenarios::GLOBAL, 1, 1, NO_FAULTS);
    an_old_sign_in_of_a_newcomer_gets_in: [EpochUnknown] breaks OlderSignInsStayOut
        in with(&scenarios::NEWCOMERS, 1, 1, NO_FAULTS);
    a_row_is_caught_up_and_its_tokens_live_on: [EpochOperation] breaks OldTokensDie
        in with(&scenarios::GLOBAL, 1, 1, NO_FAULTS);
    unblock_lifts_more_than_the_block: [Unblock] breaks HonestAreServed
        in with(&scenarios::SIGN_INS, 1, 2, NO_FAULTS);
}
