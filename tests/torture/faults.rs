//! The checker checked: faults that are put into the service one at a time, each of which a short run has to find.
//!
//! `scripts/torture faults` does it, in a copy of the project; a fault that no longer fits the code is noticed every day.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use acs_token_vendor::config;

/// Something to do wrong.
struct Fault {
    name: &'static str,
    /// In which files, what, and what instead.
    edits: &'static [(&'static str, &'static str, &'static str)],
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "a mint is recorded whatever happened meanwhile",
        edits: &[
            (
                "src/store/tokens.rs",
                "WHERE id = $5 AND generation + (SELECT g.epoch",
                "WHERE id = $5 AND $6 >= 0 AND (SELECT g.epoch",
            ),
            ("src/store/tokens.rs", ") = $6 AND acs_id = $7", ") >= 0 AND acs_id = $7"),
            (
                "src/store/tokens.rs",
                "AND state = 'active' AND blocked_at IS NULL AND (held_until IS NULL OR held_until <= $1)\n                AND NOT EXISTS (",
                "AND NOT EXISTS (",
            ),
            (
                "src/store/tokens.rs",
                "o.kind = 'revoke' AND o.completed_at IS NULL)",
                "o.kind = 'revoke' AND o.completed_at IS NULL AND o.kind = 'none')",
            ),
        ],
    },
    Fault {
        name: "the hold ends with the confirmation",
        edits: &[(
            "src/jobs/run.rs",
            "tx.hold(&operation.user, now + CLOCK_MARGIN, no_reuse_before)",
            "tx.hold(&operation.user, now, no_reuse_before)",
        )],
    },
    Fault {
        name: "an access change neither steps the generation nor drops cached tokens",
        edits: &[
            ("src/store/access.rs", "SET generation = u.generation + 1,", "SET generation = u.generation,"),
            (
                "src/store/access.rs",
                "cached_tokens = NULL, cached_until_day = NULL,\n                claim_id",
                "claim_id",
            ),
        ],
    },
    Fault {
        name: "cached tokens outlive an access change",
        edits: &[
            (
                "src/store/access.rs",
                "cached_tokens = NULL, cached_until_day = NULL,\n                claim_id",
                "claim_id",
            ),
            (
                "src/tokens/cache.rs",
                "identity: acs_id.as_str(), generation }",
                "identity: acs_id.as_str(), generation: generation - generation }",
            ),
        ],
    },
    Fault {
        name: "cached tokens are issued for sign-ins of any age",
        edits: &[(
            "src/tokens/issue.rs",
            "if let Some(sign_in) = requester.sign_in_time {\n            self.refuse_older(user.sign_ins_valid_from",
            "if let Some(sign_in) = requester.sign_in_time.filter(|_| user.cached_tokens.is_none()) {\n            self.refuse_older(user.sign_ins_valid_from",
        )],
    },
    Fault {
        name: "the row of a deleted user is purged at once",
        edits: &[(
            "src/store/operations.rs",
            "UPDATE users SET state = 'unbound', acs_id = NULL, updated_at = $1\n    WHERE id = $2",
            "DELETE FROM users WHERE $1 IS NOT NULL AND id = $2",
        )],
    },
    Fault {
        name: "an access change is answered before it is committed",
        edits: &[(
            "src/users/access.rs",
            "tx.append_audit(changed.events, now).await?;\n        tx.commit().await?;",
            "tx.append_audit(changed.events, now).await?;\n        tokio::spawn(async move {\n            tokio::time::sleep(std::time::Duration::from_millis(300)).await;\n            tx.commit().await\n        });",
        )],
    },
    Fault {
        name: "an error of ACS counts as its confirmation",
        edits: &[(
            "src/jobs/run.rs",
            "Ok(()) | Err(acs::Error::NotFound) => Outcome::Confirmed,",
            "Ok(()) | Err(acs::Error::NotFound | acs::Error::Unavailable { .. }) => Outcome::Confirmed,",
        )],
    },
    Fault {
        name: "late calls are forgotten",
        edits: &[(
            "src/jobs/run.rs",
            "last_attempt_at.filter(|_| late_calls > 0)",
            "last_attempt_at.filter(|_| late_calls > 1_000_000)",
        )],
    },
    Fault {
        name: "the read ignores global revocations",
        edits: &[(
            "src/store/user_row.rs",
            "let is_stale = self.epoch < global.epoch;",
            "let is_stale = self.epoch < global.epoch && self.generation < 0;",
        )],
    },
    Fault {
        name: "a global revocation leaves tokens alive at ACS",
        edits: &[(
            "src/jobs/global.rs",
            "let operation = if user.may_have_live_tokens(now) {",
            "let operation = if user.may_have_live_tokens(now) && user.generation < 0 {",
        )],
    },
    Fault {
        name: "identities are bound without a claim",
        edits: &[
            (
                "src/tokens/issue.rs",
                "is_some_and(|until| now <= until);",
                "is_some_and(|until| now <= until && false);",
            ),
            ("src/store/identities.rs", r#" AND (claimed_until IS NULL OR claimed_until < $3)""#, r#"""#),
            (
                "src/store/identities.rs",
                "WHERE id = $9 AND state = 'creating' AND claim_id = $10\n        RETURNING",
                "WHERE id = $9 AND $10::UUID IS NOT NULL\n        RETURNING",
            ),
        ],
    },
    Fault {
        name: "a creation whose answer was lost is not counted",
        edits: &[(
            "src/tokens/create.rs",
            "may_have_acted.then(|| event",
            "(may_have_acted && claim.generation < 0).then(|| event",
        )],
    },
    Fault {
        name: "sign-in tokens are logged",
        edits: &[(
            "src/http/authenticate.rs",
            "match state.authenticator.authenticate(token).await {",
            "tracing::info!(token);\n    match state.authenticator.authenticate(token).await {",
        )],
    },
    Fault {
        name: "a sign-in of the second of a change gets in",
        edits: &[(
            "src/users/access.rs",
            "now.trunc_subsecs(0) + Duration::seconds(1)",
            "now.trunc_subsecs(0) + Duration::seconds(0)",
        )],
    },
];

/// How much each fault is looked for: in a run of so many operations, then in so many random sequences.
const OPERATIONS: &str = "5000";
const SEQUENCES: &str = "15";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn faults_fit_the_code() {
    for fault in FAULTS {
        for (file, what, _) in fault.edits {
            let text = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(text.matches(what).count(), 1, "{}: {file} does not have this once:\n{what}", fault.name);
        }
    }
}

#[test]
#[ignore = "builds the service once for each fault: scripts/torture faults"]
fn every_fault_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("project");
    copy_project(&copy);
    let environment = config::environment();
    let only = environment.get("TORTURE_FAULT");
    let mut missed = Vec::new();
    for fault in FAULTS.iter().filter(|fault| only.is_none_or(|only| fault.name.contains(only.as_str()))) {
        let begun = Instant::now();
        let originals: Vec<_> = fault.edits.iter().map(|(file, ..)| (copy.join(file), root().join(file))).collect();
        for (file, what, instead) in fault.edits {
            let path = copy.join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replacen(what, instead, 1)).unwrap();
        }
        let (builds, said) = cargo(&copy, &["--no-run", "--test", "torture"]);
        assert!(builds, "`{}` does not build:\n{said}", fault.name);
        let found =
            [["torture", "promises_hold_for_a_while"], ["it", "model_based"]].iter().find_map(|[tests, name]| {
                let (passed, said) = cargo(&copy, &["--test", tests, name, "--", "--nocapture"]);
                (!passed).then(|| format!("{tests}: {}", reason(&said)))
            });
        println!("{} ({:.0?}): {}", fault.name, begun.elapsed(), found.as_deref().unwrap_or("NOT FOUND"));
        if found.is_none() {
            missed.push(fault.name);
        }
        for (path, original) in originals {
            fs::copy(original, path).unwrap();
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The first promise that broke.
fn reason(said: &str) -> String {
    let line = said.lines().skip_while(|line| !line.contains("panicked")).nth(1);
    line.unwrap_or("it failed").chars().take(160).collect()
}

fn cargo(project: &Path, arguments: &[&str]) -> (bool, String) {
    let target = root().join("target/faults");
    let mut command = Command::new("cargo");
    command.args(["test", "--offline", "--locked"]).args(arguments).current_dir(project);
    command.env("CARGO_TARGET_DIR", target).env("TORTURE_OPERATIONS", OPERATIONS).env("PROPTEST_CASES", SEQUENCES);
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

fn copy_project(to: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    for file in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|file| !file.is_empty()) {
        let target: PathBuf = to.join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(root().join(file), target).unwrap();
    }
}
