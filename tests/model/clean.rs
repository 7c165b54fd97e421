//! With all rules no scenario breaks a promise.
//!
//! The short form explores small budgets under one or two variants of ACS and the clocks; the long form, ignored by
//! default, explores every scenario under every variant. Both go to the end: no state is left out.

use std::time::Instant;

use crate::{
    rules::{Rule, Rules},
    scenarios::{self, Clocks, Config, Reading, budget},
    search::explore,
    state::Budget,
};

/// Explores a scenario; fails with the shortest trace to a broken promise, or where states had to be left out.
fn assert_clean(config: &Config) -> usize {
    let started = Instant::now();
    let outcome = explore(config, None);
    if let Some((promise, trace)) = outcome.broken.first_key_value() {
        panic!("{config}: {}\n - {}", promise.broken(), trace.join("\n - "));
    }
    assert!(outcome.whole, "{config}: more than {} states", config.limit);
    println!("{config}: {} states in {:.1?}", outcome.states, started.elapsed());
    outcome.states
}

/// Where ACS's reading and the clocks cannot matter much.
const ONE: &[(Reading, Clocks)] = &[(Reading::Pessimistic, Clocks::Same)];
/// The pairs that the waits of a full second are for.
const TWO: &[(Reading, Clocks)] =
    &[(Reading::Pessimistic, Clocks::AcsLater), (Reading::Optimistic, Clocks::AcsEarlier)];

/// A scenario cut down to what an unoptimised build explores in a few seconds.
fn short(config: &Config, budget: Budget, variants: &[(Reading, Clocks)]) -> Vec<Config> {
    let cut = |(reading, clocks): &(Reading, Clocks)| Config {
        reading: *reading,
        clocks: *clocks,
        faults_until: 2,
        budget,
        ..config.clone()
    };
    variants.iter().map(cut).collect()
}

macro_rules! scenarios {
    ($($name:ident: $config:ident, [$($budget:literal),+], $variants:expr;)*) => {
        $(
            #[test]
            fn $name() {
                for config in short(&scenarios::$config, budget($($budget),+), $variants) {
                    assert_clean(&config);
                }
            }
        )*

        /// The short form of every scenario.
        fn all_short() -> Vec<Config> {
            [$(short(&scenarios::$config, budget($($budget),+), $variants)),*].concat()
        }

        mod to_the_end {
            use super::{assert_clean, scenarios};

            $(
                #[test]
                #[ignore = "the long form"]
                fn $name() {
                    let config = &scenarios::$config;
                    let states: usize = config.variants().iter().map(assert_clean).sum();
                    println!("{}, all variants: {states} states", config.name);
                }
            )*
        }
    };
}

// Budgets: requests, operators' acts, crashes, time-outs (or refused creates), claims lost by a live holder.
scenarios! {
    a_revoke_with_a_slow_worker_is_safe: REVOKE, [1, 1, 0, 1, 1], TWO;
    calls_that_act_two_seconds_late_are_safe: LATE, [1, 1, 1, 0, 0], TWO;
    refused_calls_are_no_late_calls: REFUSED, [1, 1, 0, 2, 0], TWO;
    old_sign_ins_stay_out_of_two_acts_in_a_row: SIGN_INS, [1, 2, 0, 0, 0], TWO;
    overlapping_revocations_are_safe: OVERLAP, [1, 2, 0, 0, 0], TWO;
    first_tokens_race_safely: CREATE, [2, 0, 1, 1, 1], ONE;
    changes_over_a_user_being_created_are_safe: CREATING, [2, 1, 0, 0, 0], ONE;
    revoking_an_unknown_user_is_safe: UNKNOWN, [2, 1, 0, 0, 0], ONE;
    a_crash_over_a_first_token_is_safe: CRASHING, [1, 1, 1, 0, 1], ONE;
    giving_a_claim_back_is_safe: RELEASE, [2, 1, 0, 1, 0], ONE;
    deletes_are_safe: DELETE, [1, 2, 0, 0, 0], ONE;
    imports_are_safe: IMPORT, [1, 2, 0, 0, 1], ONE;
    shared_mints_are_safe: SINGLE_FLIGHT, [2, 1, 0, 0, 0], ONE;
    revoking_all_users_is_safe: GLOBAL, [1, 2, 0, 0, 0], TWO;
    revoking_all_users_among_newcomers_is_safe: NEWCOMERS, [2, 1, 0, 0, 0], ONE;
    purging_is_safe: PURGE, [2, 1, 0, 0, 0], ONE;
}

/// Rules that another one covers in every short scenario; docs/protocol.md says which, and why they are kept.
#[test]
#[ignore = "the long form"]
fn rules_that_another_one_covers_break_nothing_alone() {
    let covered = [
        Rule::MintState,
        Rule::DropCached,
        Rule::ReuseGeneration,
        Rule::BindClaim,
        Rule::CompleteOnce,
        Rule::DeleteCondition,
        Rule::ImportState,
    ];
    for rule in covered {
        println!("without: {}", rule.text());
        for config in all_short() {
            assert_clean(&Config { rules: Rules::without(&[rule]), ..config });
        }
    }
}
