//! Every step that the world can take from a state.
//!
//! Steps are atomic: one database transaction, one effect at ACS, one answer, one tick of a clock, one fault.
//! Faults and new requests happen only until the scenario's last second with faults. After it only helpful steps are
//! left, and time moves only when nothing else can: a state in which operations cannot be completed then breaks P4.

use crate::{
    operators,
    promises::Broken,
    requests,
    rules::Rule,
    scenarios::{Clocks, Config},
    state::{Kind, LateCall, NEVER, Phase, REPLICAS, Request, Stage, State, Status, Worker},
    workers,
};

/// How long after the last fault everything must be completed.
const SECONDS_TO_SETTLE: u8 = 8;

/// What a step was; `{a}` stands for the replica and `{b}` for the number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Act {
    pub text: &'static str,
    pub replica: u8,
    pub number: u8,
}

/// Names a step.
pub fn act(text: &'static str, replica: u8, number: u8) -> Act {
    Act { text, replica, number }
}

impl Act {
    pub fn words(self) -> String {
        let replica = if self.replica == 0 { "A" } else { "B" };
        self.text.replace("{a}", replica).replace("{b}", &self.number.to_string())
    }
}

/// A step, where it leads, and which promises it breaks.
pub struct Step {
    pub act: Act,
    pub state: State,
    pub broken: Broken,
}

/// The steps out of one state, being collected.
pub struct Steps<'a> {
    pub config: &'a Config,
    pub from: &'a State,
    pub out: &'a mut Vec<Step>,
}

impl Steps<'_> {
    pub fn has(&self, rule: Rule) -> bool {
        self.config.has(rule)
    }

    /// Tells whether faults and new requests may still happen.
    pub fn faults(&self) -> bool {
        self.from.now <= self.config.faults_until
    }

    /// Adds a step, and what is broken by it or after it.
    pub fn go(&mut self, act: Act, mut state: State, broken: Broken) {
        state.forget(self.config);
        let broken = broken.and(state.check(self.config));
        self.out.push(Step { act, state, broken });
    }

    /// Adds a step that breaks nothing by itself.
    pub fn on(&mut self, act: Act, state: State) {
        self.go(act, state, Broken::NONE);
    }
}

/// Collects all steps out of a state.
pub fn steps(config: &Config, from: &State, out: &mut Vec<Step>) {
    let mut steps = Steps { config, from, out };
    for replica in REPLICAS {
        requests::steps(&mut steps, replica);
    }
    for replica in REPLICAS {
        workers::steps(&mut steps, replica);
    }
    workers::claims_run_out(&mut steps);
    creation_claim_runs_out(&mut steps);
    row_is_caught_up(&mut steps);
    late_calls_act(&mut steps);
    if steps.faults() {
        replicas_crash(&mut steps);
        operators::steps(&mut steps);
    }
    time_moves(&mut steps);
}

/// A claim on a creation runs out: that helps where its holder is dead, and is a fault where it is merely slow.
fn creation_claim_runs_out(steps: &mut Steps<'_>) {
    let from = steps.from;
    if from.row.status != Status::Creating || from.row.claim_ran_out {
        return;
    }
    let is_holder = |r: &Request| r.claim == from.row.claim && r.phase != Phase::Idle;
    let alive = from.requests.iter().any(is_holder);
    if alive && !(steps.faults() && from.budget.lost_claims > 0) {
        return;
    }
    let mut to = *from;
    to.row.claim_ran_out = true;
    to.budget.lost_claims -= u8::from(alive);
    let text = if alive {
        "the claim on the creation runs out though its holder is only slow"
    } else {
        "a dead creator's claim runs out"
    };
    steps.on(act(text, 0, 0), to);
}

/// A worker goes through the rows that are behind.
fn row_is_caught_up(steps: &mut Steps<'_>) {
    if steps.from.is_stale() {
        let mut to = *steps.from;
        to.apply_global(steps.config);
        steps.on(act("a worker catches the row up", 0, 0), to);
    }
}

/// Calls that nobody waits for any more take effect late.
fn late_calls_act(steps: &mut Steps<'_>) {
    let from = steps.from;
    for (index, late_call) in from.late_calls.iter().enumerate() {
        let mut to = *from;
        to.late_calls[index] = LateCall::None;
        match *late_call {
            LateCall::Revoke { identity, deadline } if from.now <= deadline => {
                if from.alive(identity) {
                    to.revoked[usize::from(identity)] = from.acs_now(steps.config);
                }
                steps.on(act("a LATE revoke({b}) takes effect at ACS", 0, identity), to);
            }
            LateCall::Create { deadline } if from.now <= deadline => {
                if let Some(identity) = to.create_identity() {
                    steps.on(act("a LATE create makes identity {b} at ACS", 0, identity), to);
                }
            }
            _ => {}
        }
    }
}

/// A crash takes what a replica had in mind; its calls live on as late calls.
fn replicas_crash(steps: &mut Steps<'_>) {
    let from = steps.from;
    if from.budget.crashes == 0 {
        return;
    }
    for replica in REPLICAS {
        let index = usize::from(replica);
        let (request, worker) = (from.requests[index], from.workers[index]);
        if request.phase == Phase::Idle && worker.stage == Stage::Idle {
            continue;
        }
        let mut to = *from;
        to.budget.crashes -= 1;
        to.requests[index] = Request::default();
        to.workers[index] = Worker::default();
        if request.phase == Phase::CreateSent {
            let deadline = steps.config.deadline(from.now);
            to.leave_behind(LateCall::Create { deadline });
        }
        leave_worker_behind(&mut to, from, worker);
        steps.on(act("replica {a} crashes", replica, 0), to);
    }
}

/// A worker's call that has not acted yet may still act, unless it is too old.
///
/// Late deletes and discards are left out: no identity comes back that they could hit.
pub fn leave_worker_behind(to: &mut State, from: &State, worker: Worker) {
    let operation = from.operations[usize::from(worker.operation)];
    if worker.stage == Stage::Sent && from.now <= worker.deadline && operation.kind == Kind::Revoke {
        to.leave_behind(LateCall::Revoke { identity: operation.identity, deadline: worker.deadline });
    }
}

fn time_moves(steps: &mut Steps<'_>) {
    let from = steps.from;
    let nothing_else = steps.out.is_empty();
    let overdue = from.now >= steps.config.faults_until + SECONDS_TO_SETTLE;
    let must_move = nothing_else && !from.all_completed() && !overdue;
    if !steps.faults() && !must_move {
        return;
    }
    // Whose second begins first: ours where ACS is later.
    let (ours_next, acs_next) = match steps.config.clocks {
        Clocks::Same => (true, false),
        Clocks::AcsLater => (!from.apart, from.apart),
        Clocks::AcsEarlier => (from.apart, !from.apart),
    };
    if acs_next {
        let mut to = *from;
        to.apart = !from.apart;
        tick(steps, to, "ACS's clock reaches its next second");
    }
    if ours_next {
        let mut to = *from;
        to.now += 1;
        to.apart = steps.config.clocks == Clocks::AcsLater;
        tick(steps, to, "our clock moves to second {b}");
    }
}

fn tick(steps: &mut Steps<'_>, mut to: State, text: &'static str) {
    for late_call in &mut to.late_calls {
        if let LateCall::Revoke { deadline, .. } | LateCall::Create { deadline } = *late_call
            && deadline < to.now
            && deadline != NEVER
        {
            *late_call = LateCall::None;
        }
    }
    steps.on(act(text, 0, to.now), to);
}
