//! Operations at ACS: the claim, the early call, the call that counts, and completion.

use crate::{
    promises::{Broken, Promise},
    rules::Rule,
    scenarios::Config,
    state::{Kind, Life, Operation, REPLICAS, Row, Stage, State, Status, Worker},
    steps::{Act, Steps, act, leave_worker_behind},
};

/// More than so many attempts are all alike: what counts is whether more than one is without an answer.
///
/// Three, because the answer of the one early call takes one back; more where refusals take others back.
fn most_attempts(config: &Config) -> u8 {
    if config.refuses_calls { 7 } else { 3 }
}

/// Collects what the worker of a replica can do next.
pub fn steps(steps: &mut Steps<'_>, replica: u8) {
    let index = usize::from(replica);
    let worker = steps.from.workers[index];
    let operation = steps.from.operations[usize::from(worker.operation)];
    match worker.stage {
        Stage::Idle => {
            for operation in 0..4 {
                claim_and_send(steps, replica, operation);
            }
        }
        Stage::Sent if steps.from.now <= worker.deadline => {
            let (to, broken) = effect(steps, index, operation);
            let text = "worker {a}'s call takes effect at ACS on identity {b}";
            steps.go(act(text, replica, operation.identity), to, broken);
        }
        Stage::Acted => {
            let mut to = *steps.from;
            to.workers[index].stage = Stage::Answered;
            to.workers[index].confirmed = steps.from.now;
            steps.on(act("worker {a} gets ACS's confirmation", replica, 0), to);
        }
        Stage::Answered if worker.early && steps.has(Rule::EarlyNeverCompletes) => {
            early_answer(steps, replica, worker);
        }
        Stage::Answered => complete(steps, replica, worker, operation),
        Stage::Unlifted => {
            let mut to = *steps.from;
            to.workers[index] = Worker::default();
            lift(&mut to.row, worker);
            steps.on(act("worker {a} lifts the hold of revoke({b})", replica, operation.identity), to);
        }
        Stage::Sent => {}
    }
    if matches!(worker.stage, Stage::Sent | Stage::Acted) {
        time_out(steps, replica, worker);
    }
}

/// Claims a due operation and sends its call; or sends the early call of one that is not due yet.
///
/// The service makes the early call where the operation was accepted, at once; here any replica may make it, once.
/// Claim and call are one step, because the effect may come any time until the deadline.
fn claim_and_send(steps: &mut Steps<'_>, replica: u8, index: u8) {
    let from = steps.from;
    let operation = from.operations[usize::from(index)];
    let early = from.now < operation.not_before;
    if operation.kind == Kind::Empty
        || operation.completed
        || operation.claimed_by != 0
        || (early && operation.early_sent)
    {
        return;
    }
    let mut to = *from;
    let claimed = &mut to.operations[usize::from(index)];
    claimed.claimed_by = replica + 1;
    claimed.last_attempt = from.now;
    claimed.early_sent = early;
    if written_down(steps, early) {
        claimed.attempts = (operation.attempts + 1).min(most_attempts(steps.config));
    }
    to.workers[usize::from(replica)] =
        Worker { stage: Stage::Sent, operation: index, deadline: steps.config.deadline(from.now), confirmed: 0, early };
    let text = match (operation.kind, early) {
        (Kind::Delete, _) => "worker {a} claims and sends delete({b})",
        (Kind::Discard, _) => "worker {a} claims and sends discard({b})",
        (_, true) => "replica {a} sends revoke({b}) at once, too early to count",
        (_, false) => "worker {a} claims and sends revoke({b})",
    };
    steps.on(act(text, replica, operation.identity), to);
}

/// Tells whether an attempt is written down before it is sent.
fn written_down(steps: &Steps<'_>, early: bool) -> bool {
    steps.has(Rule::Attempts) && (!early || steps.has(Rule::EarlyIsAttempt))
}

fn effect(steps: &Steps<'_>, index: usize, operation: Operation) -> (State, Broken) {
    let from = steps.from;
    let mut to = *from;
    to.workers[index].stage = Stage::Acted;
    let identity = usize::from(operation.identity);
    if operation.kind == Kind::Revoke {
        if from.alive(operation.identity) {
            to.revoked[identity] = from.acs_now(steps.config);
        }
        return (to, Broken::NONE);
    }
    to.life[identity] = Life::Deleted;
    let bound = from.row.status == Status::Active && from.row.identity == operation.identity;
    (to, Broken::when(bound, Promise::MappingIsSafe))
}

/// The early call's answer: the call is no late call any more, and that is all.
fn early_answer(steps: &mut Steps<'_>, replica: u8, worker: Worker) {
    let mut to = *steps.from;
    to.workers[usize::from(replica)] = Worker::default();
    let operation = &mut to.operations[usize::from(worker.operation)];
    if !operation.completed {
        operation.attempts -= u8::from(written_down(steps, true));
        if operation.claimed_by == replica + 1 {
            operation.claimed_by = 0;
        }
    }
    steps.on(act("replica {a} leaves the operation to a call that counts", replica, 0), to);
}

/// Completes a confirmed operation by its id; the claim need not be the worker's own any more.
fn complete(steps: &mut Steps<'_>, replica: u8, worker: Worker, operation: Operation) {
    let (from, row) = (steps.from, steps.from.row);
    let mut to = *from;
    to.workers[usize::from(replica)] = Worker::default();
    if operation.completed && steps.has(Rule::CompleteOnce) {
        steps.on(act("worker {a} finds the operation complete already", replica, 0), to);
        return;
    }
    let completed = &mut to.operations[usize::from(worker.operation)];
    completed.completed = true;
    completed.claimed_by = 0;
    let survives = from.truth.issued_tokens.iter().any(|token| {
        token.identity == operation.identity && token.epoch < operation.epoch && !from.dead(steps.config, *token)
    });
    let mut broken = Broken::when(survives && operation.kind != Kind::Discard, Promise::OldTokensDie);
    match operation.kind {
        Kind::Revoke => {
            hold_longer(steps, &mut to.row, worker, operation);
            if steps.has(Rule::OneTransaction) {
                lift(&mut to.row, worker);
            } else {
                to.workers[usize::from(replica)] = Worker { stage: Stage::Unlifted, ..worker };
            }
        }
        Kind::Delete => {
            let due = row.status == Status::Deleting && row.identity == operation.identity;
            if due || !steps.has(Rule::DeleteCondition) {
                let robbed = matches!(row.status, Status::Creating | Status::Active);
                broken = broken.and(Broken::when(robbed, Promise::MappingIsSafe));
                to.row.status = Status::Unbound;
                to.row.identity = 0;
                to.row.pending = 0;
                if !steps.has(Rule::Tombstone) {
                    to.row.status = Status::NoRow;
                    to.row.generation = 0;
                    to.row.sign_ins_valid_from = 0;
                }
            }
        }
        Kind::Discard | Kind::Empty => {}
    }
    steps.go(completion(replica, operation), to, broken);
}

fn completion(replica: u8, operation: Operation) -> Act {
    let text = match operation.kind {
        Kind::Delete => "worker {a} completes delete({b})",
        Kind::Discard => "worker {a} completes discard({b})",
        Kind::Revoke | Kind::Empty => "worker {a} completes revoke({b})",
    };
    act(text, replica, operation.identity)
}

/// What a confirmed revocation leaves behind: ACS reckons in whole seconds, and an unanswered attempt may still act.
fn hold_longer(steps: &Steps<'_>, row: &mut Row, worker: Worker, operation: Operation) {
    let full_second = steps.config.full_second();
    if steps.has(Rule::WaitAfter) {
        row.held_until = row.held_until.max(worker.confirmed + full_second);
    }
    if steps.has(Rule::LateDuplicates) && operation.attempts > 1 {
        let over = steps.config.deadline(operation.last_attempt).saturating_add(full_second);
        row.no_reuse_before = row.no_reuse_before.max(over);
    }
}

/// Clears the flag of a protocol that goes by one, where it still names this operation.
fn lift(row: &mut Row, worker: Worker) {
    if row.pending == worker.operation + 1 {
        row.pending = 0;
    }
}

/// A worker stops waiting: a fault, or what must happen when the call is too old to act.
fn time_out(steps: &mut Steps<'_>, replica: u8, worker: Worker) {
    let from = steps.from;
    let too_old = worker.stage == Stage::Sent && from.now > worker.deadline;
    if !(too_old || (steps.faults() && from.budget.timeouts > 0)) {
        return;
    }
    let mut to = *from;
    to.budget.timeouts -= u8::from(!too_old);
    to.workers[usize::from(replica)] = Worker::default();
    let operation = &mut to.operations[usize::from(worker.operation)];
    let own = operation.claimed_by == replica + 1;
    if own {
        operation.claimed_by = 0;
    }
    if steps.config.refuses_calls && worker.stage == Stage::Sent && !too_old {
        refused(steps, replica, to, usize::from(worker.operation), own);
    }
    let operation = &mut to.operations[usize::from(worker.operation)];
    if own && !steps.has(Rule::UnansweredStays) {
        operation.attempts -= 1;
    }
    if !steps.has(Rule::Attempts) {
        // What a live worker can still write down afterwards.
        operation.attempts = (operation.attempts + 2).min(most_attempts(steps.config));
    } else if worker.early && !steps.has(Rule::EarlyIsAttempt) {
        operation.attempts = (operation.attempts + 1).min(most_attempts(steps.config));
    }
    leave_worker_behind(&mut to, from, worker);
    let text = "worker {a} times out, will retry (the call may still act)";
    steps.on(act(text, replica, 0), to);
}

/// A call surely had no effect: whoever still has the claim takes the attempt back from the count.
fn refused(steps: &mut Steps<'_>, replica: u8, mut to: State, operation: usize, own: bool) {
    to.operations[operation].attempts -= u8::from(own);
    steps.on(act("ACS refuses worker {a}'s call, which surely had no effect", replica, 0), to);
}

/// A claim on an operation runs out: that helps where its holder is dead, and is a fault where it is merely slow.
pub fn claims_run_out(steps: &mut Steps<'_>) {
    let from = steps.from;
    for (index, operation) in from.operations.iter().enumerate() {
        let Some(holder) = REPLICAS.into_iter().find(|replica| replica + 1 == operation.claimed_by) else {
            continue;
        };
        if operation.completed {
            continue;
        }
        let worker = from.workers[usize::from(holder)];
        let alive = worker.stage != Stage::Idle && usize::from(worker.operation) == index;
        let slow = alive && steps.faults() && from.budget.lost_claims > 0;
        if slow || (!alive && steps.has(Rule::Reclaim)) {
            let mut to = *from;
            to.operations[index].claimed_by = 0;
            to.budget.lost_claims -= u8::from(alive);
            let text = if alive {
                "the claim on the operation of identity {b} runs out though its worker is only slow"
            } else {
                "a dead worker's claim runs out"
            };
            steps.on(act(text, 0, operation.identity), to);
        }
    }
}
