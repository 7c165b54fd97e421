//! Requests for a token: issue, and the first token of a user without identity.

use crate::{
    promises::{Broken, Promise},
    rules::Rule,
    state::{Kind, LateCall, Phase, Request, State, Status, Token},
    steps::{Steps, act},
};

/// Reads again, once, as a request does whose condition failed.
fn again(request: &mut Request) {
    let retry = Request { phase: Phase::Read, sign_in: request.sign_in, retried: true, ..Request::default() };
    *request = if request.retried { Request::default() } else { retry };
}

fn send_mint(request: &mut Request, from: &State) {
    request.phase = Phase::MintSent;
    request.may_store = from.now >= from.row.no_reuse_before;
}

fn token_of(request: Request) -> Token {
    Token { identity: request.identity, issued: request.issued, generation: request.generation, epoch: request.epoch }
}

/// Collects what the request at a replica can do next.
pub fn steps(steps: &mut Steps<'_>, replica: u8) {
    let index = usize::from(replica);
    let request = steps.from.requests[index];
    let mut to = *steps.from;
    match request.phase {
        Phase::Idle => begin(steps, replica),
        Phase::Read => read(steps, replica, request),
        Phase::WantMint => {
            let other = steps.from.requests[1 - index];
            let same = other.generation == request.generation || !steps.has(Rule::SingleFlightGeneration);
            if matches!(other.phase, Phase::MintSent | Phase::MintDone | Phase::Issue) && same {
                to.requests[index].phase = Phase::Joined;
                steps.on(act("{a} joins the other request's call", replica, 0), to);
            } else {
                send_mint(&mut to.requests[index], steps.from);
                steps.on(act("{a} sends issue for identity {b}", replica, request.identity), to);
            }
        }
        Phase::MintSent if steps.from.alive(request.identity) => {
            let issued = steps.from.acs_now(steps.config);
            to.requests[index].phase = Phase::MintDone;
            to.requests[index].issued = issued;
            steps.on(act("ACS mints for {a}, issue second {b}", replica, issued), to);
        }
        Phase::MintSent => {
            to.requests[index] = Request::default();
            if to.requests[1 - index].phase == Phase::Joined {
                again(&mut to.requests[1 - index]);
            }
            steps.on(act("ACS refuses {a}: the identity is gone", replica, 0), to);
        }
        Phase::MintDone => {
            to.requests[index].phase = Phase::Issue;
            to.requests[index].answered = steps.from.now;
            steps.on(act("the minted token reaches {a}", replica, 0), to);
        }
        Phase::Issue => issue_token(steps, replica, request),
        Phase::Claim => claim(steps, replica, request),
        Phase::CreateSent => {
            // Without an identity left this is where the model ends; the claim runs out.
            to.requests[index] = Request::default();
            if let Some(identity) = to.create_identity() {
                let issued = steps.from.acs_now(steps.config);
                to.requests[index] = Request { phase: Phase::CreateDone, identity, issued, ..request };
                steps.on(act("ACS creates identity {b} for {a}", replica, identity), to);
            } else {
                steps.on(act("the model has no identity left for {a}", replica, 0), to);
            }
        }
        Phase::CreateDone => {
            to.requests[index].phase = Phase::Bind;
            to.requests[index].answered = steps.from.now;
            steps.on(act("identity {b} reaches {a}", replica, request.identity), to);
        }
        Phase::Bind => bind(steps, replica, request),
        Phase::Release => release(steps, replica, request),
        // Goes where the request goes that it joined.
        Phase::Joined => {}
    }
    if matches!(request.phase, Phase::CreateSent | Phase::CreateDone) {
        creation_fails(steps, replica, request);
    }
}

fn begin(steps: &mut Steps<'_>, replica: u8) {
    let from = steps.from;
    if !steps.faults() || from.budget.requests == 0 {
        return;
    }
    let oldest = if steps.config.old_sign_ins { 1 } else { from.now };
    for sign_in in oldest..=from.now {
        let mut to = *from;
        to.budget.requests -= 1;
        to.requests[usize::from(replica)] = Request { phase: Phase::Read, sign_in, ..Request::default() };
        steps.on(act("request at {a} with a sign-in made in second {b}", replica, sign_in), to);
    }
}

/// The one statement that reads row, hold and cached token, and is the authorisation.
fn read(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let (from, row) = (steps.from, steps.from.row);
    let mut to = *from;
    if from.is_stale() && steps.has(Rule::EpochRead) {
        to.apply_global(steps.config);
        steps.on(act("{a} finds the row behind and catches it up", replica, 0), to);
        return;
    }
    let generation = from.generation(steps.config);
    let check = match row.status {
        Status::Unbound => Rule::SignInCheckUnbound,
        _ => Rule::SignInCheck,
    };
    let has_row = row.status != Status::NoRow;
    let superseded = row.blocked || (request.sign_in < row.sign_ins_valid_from && steps.has(check));
    let forgotten = steps.config.is_forgotten(request.sign_in, from.now) && (has_row || steps.has(Rule::SignInAge));
    let too_old_for_global =
        !has_row && request.sign_in < from.global.sign_ins_valid_from && steps.has(Rule::EpochUnknown);
    let refused = forgotten || (has_row && superseded) || too_old_for_global;
    let waits = match row.status {
        Status::Deleting => true,
        Status::Creating => !row.claim_ran_out,
        Status::Active => from.held(steps.config),
        Status::NoRow | Status::Unbound => false,
    };
    let reads = &mut to.requests[usize::from(replica)];
    *reads = Request { generation, identity: row.identity, epoch: from.truth.epoch, ..request };
    if refused || waits {
        *reads = Request::default();
        steps.on(act("{a} reads: refused or gives up waiting", replica, 0), to);
    } else if row.status != Status::Active {
        reads.phase = Phase::Claim;
        steps.on(act("{a} reads: no identity, will claim", replica, 0), to);
    } else if from.cached.identity != 0 && (from.cached.generation == generation || !steps.has(Rule::ReuseGeneration)) {
        *reads = Request::default();
        let dead = from.dead(steps.config, from.cached);
        let broken = to.issue_token(steps.config, from.cached, from.truth.epoch, request.sign_in);
        steps.go(
            act("{a} reads and issues the CACHED token of identity {b}", replica, from.cached.identity),
            to,
            broken.and(Broken::when(dead, Promise::NoDeadReuse)),
        );
    } else if steps.config.single_flight {
        reads.phase = Phase::WantMint;
        steps.on(act("{a} reads: must mint", replica, 0), to);
    } else {
        send_mint(reads, from);
        steps.on(act("{a} reads (authorised), sends issue for identity {b}", replica, row.identity), to);
    }
}

/// The conditional update that decides whether a minted token may leave the house.
fn issue_token(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let (from, row, index) = (steps.from, steps.from.row, usize::from(replica));
    let other = from.requests[1 - index];
    let joined = other.phase == Phase::Joined;
    let mut to = *from;
    let usable = row.status == Status::Active && !row.blocked && !from.held(steps.config);
    let still_right = (from.generation(steps.config) == request.generation || !steps.has(Rule::MintGeneration))
        && (row.identity == request.identity || !steps.has(Rule::MintIdentity))
        && (usable || !steps.has(Rule::MintState));
    if !still_right {
        again(&mut to.requests[index]);
        if joined {
            again(&mut to.requests[1 - index]);
        }
        steps.on(act("{a}'s condition fails: token thrown away", replica, 0), to);
        return;
    }
    let token = token_of(request);
    to.requests[index] = Request::default();
    to.row.last_minted =
        if steps.has(Rule::MintTimeMax) { row.last_minted.max(request.answered) } else { request.answered };
    if request.may_store {
        to.cached = token;
    }
    let mut broken = to.issue_token(steps.config, token, request.epoch, request.sign_in);
    if joined {
        to.requests[1 - index] = Request::default();
        broken = broken.and(to.issue_token(steps.config, token, other.epoch, other.sign_in));
    }
    let text = "{a} stores (unless told not to) and issues a token of identity {b}";
    steps.go(act(text, replica, request.identity), to, broken);
}

/// The claim over no row, an unbound one, or a claim that ran out.
///
/// The service is stricter: it claims over the state that was read only.
fn claim(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let (from, row) = (steps.from, steps.from.row);
    let mut to = *from;
    let claims = &mut to.requests[usize::from(replica)];
    let takes_over = row.status == Status::Creating && row.claim_ran_out;
    let generation = from.generation(steps.config);
    let same = generation == request.generation || !steps.has(Rule::ClaimGeneration);
    let free = row.status == Status::NoRow || (same && !row.blocked && (takes_over || row.status == Status::Unbound));
    if !free {
        again(claims);
        steps.on(act("{a}'s claim fails", replica, 0), to);
        return;
    }
    let claim = row.claims_made + 1;
    claims.phase = Phase::CreateSent;
    claims.claim = claim;
    if !steps.has(Rule::ClaimGeneration) {
        // The claim goes by the generation of now, which the sign-in was never checked against.
        claims.generation = generation;
    }
    if row.status == Status::NoRow {
        to.apply_global_row();
    }
    if takes_over && steps.has(Rule::CountOrphan) {
        to.row.possible_orphans += 1;
    }
    to.row.status = Status::Creating;
    to.row.identity = 0;
    to.row.claims_made = claim;
    to.row.claim = claim;
    to.row.claim_ran_out = false;
    let text = if takes_over {
        "{a} takes over the claim that ran out, sends create"
    } else {
        "{a} claims the row, sends create"
    };
    steps.on(act(text, replica, 0), to);
}

/// Binds the new identity, or queues it for discard.
fn bind(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let (from, row, index) = (steps.from, steps.from.row, usize::from(replica));
    let mut to = *from;
    let own = row.claim == request.claim || !steps.has(Rule::BindClaim);
    let creating = row.status == Status::Creating;
    to.truth.known |= 1 << request.identity;
    if !own || (!creating && steps.has(Rule::BindState)) {
        if steps.has(Rule::Discard) {
            to.accept(steps.config, Kind::Discard, request.identity);
        }
        again(&mut to.requests[index]);
        steps.on(act("{a} lost: identity {b} queued for discard", replica, request.identity), to);
        return;
    }
    to.row.status = Status::Active;
    to.row.identity = request.identity;
    to.row.claim = 0;
    to.row.claim_ran_out = false;
    to.row.last_minted = request.answered;
    let stolen = Broken::when(!creating, Promise::MappingIsSafe);
    let current = from.generation(steps.config) == request.generation;
    if (current && !row.blocked) || !steps.has(Rule::BindGeneration) {
        let token = token_of(request);
        to.requests[index] = Request::default();
        to.cached = token;
        let broken = to.issue_token(steps.config, token, request.epoch, request.sign_in);
        let text = "{a} binds identity {b}, stores and issues its token";
        steps.go(act(text, replica, request.identity), to, stolen.and(broken));
    } else {
        again(&mut to.requests[index]);
        let text = "{a} binds identity {b}, throws the token away";
        steps.go(act(text, replica, request.identity), to, stolen);
    }
}

/// A create is refused, or its answer is lost; the replica lives and will give the claim back.
fn creation_fails(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let (from, index) = (steps.from, usize::from(replica));
    if !steps.faults() || from.budget.timeouts == 0 {
        return;
    }
    let mut to = *from;
    to.budget.timeouts -= 1;
    // Whatever ACS made is out of our sight from here on.
    to.requests[index] = Request { phase: Phase::Release, identity: 0, issued: 0, ..request };
    if request.phase == Phase::CreateSent {
        steps.on(act("ACS refuses {a}'s create, which surely had no effect", replica, 0), to);
    }
    to.requests[index].may_have_created = true;
    if request.phase == Phase::CreateSent {
        let deadline = steps.config.deadline(from.now);
        to.leave_behind(LateCall::Create { deadline });
    }
    steps.on(act("{a} times out on create, which may still act", replica, 0), to);
}

/// Gives a claim back, so that others need not wait until it runs out.
fn release(steps: &mut Steps<'_>, replica: u8, request: Request) {
    let row = steps.from.row;
    let mut to = *steps.from;
    to.requests[usize::from(replica)] = Request::default();
    if request.may_have_created && steps.has(Rule::ReleaseCounts) {
        to.row.possible_orphans += 1;
    }
    let own = row.status == Status::Creating && row.claim == request.claim;
    if !own && steps.has(Rule::ReleaseOwn) {
        steps.on(act("{a} has no claim left to give back", replica, 0), to);
        return;
    }
    to.row.status = Status::Unbound;
    to.row.identity = 0;
    to.row.claim = 0;
    to.row.claim_ran_out = false;
    let robbed = matches!(row.status, Status::Active | Status::Deleting | Status::Creating) && !own;
    steps.go(act("{a} gives the claim back", replica, 0), to, Broken::when(robbed, Promise::MappingIsSafe));
}
