//! What operators and the row's upkeep do: revoke, block, unblock, delete, import, purge.

use crate::{
    promises::Broken,
    rules::Rule,
    scenarios::Operator,
    state::{IMPORTED, Kind, Life, Phase, Row, State, Status},
    steps::{Steps, act},
};

/// Collects what operators can do next.
pub fn steps(steps: &mut Steps<'_>) {
    let acts = steps.config.operators;
    for operator in acts {
        if *operator == Operator::Purge {
            purge(steps);
        } else if steps.from.budget.acts > 0 {
            let mut to = *steps.from;
            to.budget.acts -= 1;
            match operator {
                Operator::Revoke => {
                    revoke(steps, &mut to, true, false);
                    steps.on(act("revoke is committed and answered 202", 0, 0), to);
                }
                Operator::RevokeKeepingSignIns => {
                    revoke(steps, &mut to, false, false);
                    steps.on(act("revoke (older sign-ins stay valid) is committed and answered 202", 0, 0), to);
                }
                Operator::Block => {
                    revoke(steps, &mut to, true, true);
                    steps.on(act("block is committed and answered 202", 0, 0), to);
                }
                Operator::RevokeGlobal => {
                    to.truth.epoch += 1;
                    to.truth.sign_ins_valid_from = to.now + 1;
                    to.global.epoch += 1;
                    to.global.sign_ins_valid_from = to.first_valid_second(steps.config);
                    steps.on(act("the revocation of all users is committed and answered 202", 0, 0), to);
                }
                Operator::Unblock => unblock(steps, to),
                Operator::Delete => delete(steps, to),
                Operator::Import => import(steps, to),
                Operator::Purge => {}
            }
        }
    }
}

/// An access change; an operation is needed for an active row only, because no other has issued a token that could live.
fn revoke(steps: &Steps<'_>, to: &mut State, reject_older_sign_ins: bool, block: bool) {
    to.change(steps.config, reject_older_sign_ins);
    to.truth.blocked |= block;
    to.row.blocked |= block;
    match to.row.status {
        Status::Active => to.accept(steps.config, Kind::Revoke, to.row.identity),
        Status::NoRow if steps.has(Rule::RowForUnknown) => to.row.status = Status::Unbound,
        // Without a row there is nothing that could remember the change.
        Status::NoRow => forget_row(&mut to.row),
        Status::Creating | Status::Deleting | Status::Unbound => {}
    }
}

fn forget_row(row: &mut Row) {
    *row = Row { possible_orphans: row.possible_orphans, claims_made: row.claims_made, ..Row::default() };
}

fn unblock(steps: &mut Steps<'_>, mut to: State) {
    if !to.row.blocked {
        return;
    }
    to.row.blocked = false;
    to.truth.blocked = false;
    if !steps.has(Rule::Unblock) {
        to.row.pending = 0;
        to.row.held_until = 0;
        to.row.generation -= 1;
    }
    steps.on(act("unblock", 0, 0), to);
}

fn delete(steps: &mut Steps<'_>, mut to: State) {
    to.change(steps.config, true);
    to.truth.served = 0;
    to.row.pending = 0;
    match to.row.status {
        Status::NoRow if steps.has(Rule::TombstoneForUnknown) => to.row.status = Status::Unbound,
        Status::NoRow => forget_row(&mut to.row),
        Status::Creating => {
            to.row.status = Status::Unbound;
            to.row.possible_orphans += u8::from(steps.has(Rule::CountOrphan));
            if steps.has(Rule::BindState) {
                to.row.claim = 0;
                to.row.claim_ran_out = false;
            }
        }
        Status::Active => {
            to.row.status = Status::Deleting;
            to.accept(steps.config, Kind::Delete, to.row.identity);
        }
        Status::Deleting | Status::Unbound => {}
    }
    steps.on(act("delete is committed and answered 202", 0, 0), to);
}

/// Imports the identity that an operator brings along, or again one that was the user's before.
fn import(steps: &mut Steps<'_>, to: State) {
    let row = to.row;
    let free = matches!(row.status, Status::NoRow | Status::Unbound);
    for identity in 1..=IMPORTED {
        let again = to.truth.named & 1 << identity != 0;
        let brought = identity == IMPORTED && to.life[usize::from(identity)] == Life::Alive;
        let over_claim = row.status == Status::Creating && !steps.has(Rule::ImportState);
        if !(again || brought) || !(free || over_claim) {
            continue;
        }
        let mut to = to;
        if row.status == Status::NoRow {
            to.apply_global_row();
        }
        to.row.status = Status::Active;
        to.row.identity = identity;
        let text = if again { "import of identity {b} again" } else { "import of identity {b}" };
        steps.go(act(text, 0, identity), to, Broken::NONE);
    }
}

/// Drops a row without identity once no claim can be under way that was read before it (assumption A3).
fn purge(steps: &mut Steps<'_>) {
    let from = steps.from;
    let row = from.row;
    let nothing_left = from.operations.iter().all(|o| o.kind == Kind::Empty || o.completed);
    let nobody_claims = from.requests.iter().all(|r| r.phase != Phase::Claim);
    if row.status != Status::Unbound
        || row.blocked
        || from.now < row.sign_ins_valid_from
        || !nothing_left
        || !nobody_claims
    {
        return;
    }
    let mut to = *from;
    for request in &mut to.requests {
        request.retried = true;
    }
    forget_row(&mut to.row);
    steps.on(act("the row without identity is purged", 0, 0), to);
}
