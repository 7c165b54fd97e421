//! Rules that make the emulator misbehave on purpose.
//!
//! Rules are tried in order, and the first that fires decides. A rule with a `share` fires at random; if it does not, the next rule is tried.
//! A rule whose `count` is used up is removed. Rules for the Teams exchange are accepted but never fire, because that operation is not offered.
//! A delayed or held call whose client disconnects is never carried out; `late` is for calls that outlive their client.

use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::{call::Operation, refusal::Refusal};

/// The longest wait a rule may ask for.
const LONGEST_DELAY_MS: u64 = 3_600_000;

/// The rules in force, and a signal each time they are replaced.
#[derive(Default)]
pub(super) struct Faults {
    rules: Mutex<Vec<Rule>>,
    replaced: watch::Sender<()>,
}

/// A rule that fired for a call.
pub(super) struct Fault {
    pub(super) kind: Kind,
    replaced: watch::Receiver<()>,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// None stands for any operation.
    operation: Option<Operation>,
    kind: Kind,
    share: Option<f64>,
    remaining: Option<u64>,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Waits, then acts and answers.
    Delay(Duration),
    /// Waits until the rules are replaced or cleared, then acts and answers.
    Hold,
    /// Answers without acting.
    Status { status: StatusCode, retry_after_seconds: Option<u64> },
    /// Neither acts nor answers.
    Hang,
    /// Closes the connection without acting.
    DropBefore,
    /// Acts, then closes the connection without answering.
    DropAfter,
    /// Closes the connection at once, and acts later.
    Late(Duration),
}

impl Faults {
    pub(super) fn replace(&self, rules: Vec<Rule>) {
        let mut current = self.rules.lock();
        *current = rules;
        self.replaced.send_replace(());
    }

    pub(super) fn list(&self) -> Vec<Rule> {
        self.rules.lock().clone()
    }

    /// Finds the rule that fires for a call, if any.
    pub(super) fn draw(&self, operation: Operation) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let index = rules.iter().position(|rule| rule.fires(operation))?;
        let kind = rules[index].kind;
        if let Some(remaining) = &mut rules[index].remaining {
            *remaining -= 1;
            if *remaining == 0 {
                rules.remove(index);
            }
        }
        // Subscribed under the lock: the next replacement is the one that releases this call.
        Some(Fault { kind, replaced: self.replaced.subscribe() })
    }
}

impl Fault {
    /// Waits until the rules are replaced or cleared.
    pub(super) async fn released(&mut self) {
        // It fails only when the emulator is gone, which releases the call as well.
        let _ = self.replaced.changed().await;
    }
}

impl Rule {
    /// Reads `{"rules": […]}`; the error names the invalid member.
    pub(super) fn parse_all(body: &[u8]) -> Result<Vec<Self>, Refusal> {
        let bad_list = || bad("rules", "must be a list of objects");
        let body: Value = serde_json::from_slice(body).map_err(|_| bad_list())?;
        let rules = body.get("rules").and_then(Value::as_array).ok_or_else(bad_list)?;
        let parse = |(index, rule): (usize, &Value)| {
            let members = rule.as_object().ok_or_else(bad_list)?;
            Members { path: format!("rules[{index}]"), members }.rule()
        };
        rules.iter().enumerate().map(parse).collect()
    }

    /// Writes the rule as it was read, with the remaining count.
    pub(super) fn to_json(&self) -> Value {
        let mut rule = json!({ "operation": self.operation.map_or("*", Operation::name), "kind": self.kind.name() });
        match self.kind {
            Kind::Delay(delay) | Kind::Late(delay) => {
                rule["delayMs"] = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).into();
            }
            Kind::Status { status, retry_after_seconds } => {
                rule["status"] = status.as_u16().into();
                if let Some(seconds) = retry_after_seconds {
                    rule["retryAfterSeconds"] = seconds.into();
                }
            }
            Kind::Hold | Kind::Hang | Kind::DropBefore | Kind::DropAfter => {}
        }
        if let Some(share) = self.share {
            rule["share"] = share.into();
        }
        if let Some(remaining) = self.remaining {
            rule["count"] = remaining.into();
        }
        rule
    }

    fn fires(&self, operation: Operation) -> bool {
        self.operation.is_none_or(|own| own == operation) && self.share.is_none_or(|share| fastrand::f64() < share)
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Delay(_) => "delay",
            Self::Hold => "hold",
            Self::Status { .. } => "status",
            Self::Hang => "hang",
            Self::DropBefore => "drop_before",
            Self::DropAfter => "drop_after",
            Self::Late(_) => "late",
        }
    }
}

/// The members of a rule's JSON, and the path of the rule in the request.
struct Members<'a> {
    path: String,
    members: &'a Map<String, Value>,
}

impl Members<'_> {
    const KNOWN: [&'static str; 7] = ["operation", "kind", "status", "retryAfterSeconds", "delayMs", "share", "count"];

    fn rule(&self) -> Result<Rule, Refusal> {
        if let Some(unknown) = self.members.keys().find(|name| !Self::KNOWN.contains(&name.as_str())) {
            return Err(self.bad(unknown, "is not a member of a rule"));
        }
        let share = match self.get("share") {
            None => None,
            Some(value) => {
                let share = value.as_f64().filter(|share| (0.0..=1.0).contains(share));
                Some(share.ok_or_else(|| self.bad("share", "must be a number from 0 to 1"))?)
            }
        };
        Ok(Rule {
            operation: self.operation()?,
            kind: self.kind()?,
            share,
            remaining: self.number("count", 1, u64::MAX)?,
        })
    }

    fn operation(&self) -> Result<Option<Operation>, Refusal> {
        let name = self.get("operation").and_then(Value::as_str);
        match name {
            Some("*") => Ok(None),
            _ => Operation::ALL
                .into_iter()
                .find(|operation| name == Some(operation.name()))
                .map(Some)
                .ok_or_else(|| self.bad("operation", "must be create, issue, revoke, delete, exchange or *")),
        }
    }

    fn kind(&self) -> Result<Kind, Refusal> {
        let wait = || {
            let ms = self.number("delayMs", 0, LONGEST_DELAY_MS)?;
            ms.map(Duration::from_millis).ok_or_else(|| self.bad("delayMs", "is required by this kind"))
        };
        match self.get("kind").and_then(Value::as_str) {
            Some("delay") => Ok(Kind::Delay(wait()?)),
            Some("late") => Ok(Kind::Late(wait()?)),
            Some("hold") => Ok(Kind::Hold),
            Some("hang") => Ok(Kind::Hang),
            Some("drop_before") => Ok(Kind::DropBefore),
            Some("drop_after") => Ok(Kind::DropAfter),
            Some("status") => Ok(Kind::Status {
                status: self
                    .number("status", 400, 599)?
                    .and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok())
                    .ok_or_else(|| self.bad("status", "is required by this kind"))?,
                retry_after_seconds: self.number("retryAfterSeconds", 0, u64::from(u32::MAX))?,
            }),
            _ => Err(self.bad("kind", "must be delay, hold, status, hang, drop_before, drop_after or late")),
        }
    }

    fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| self.bad(name, &format!("must be a whole number from {least} to {most}")))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn bad(&self, member: &str, problem: &str) -> Refusal {
        bad(&format!("{}.{member}", self.path), problem)
    }
}

fn bad(member: &str, problem: &str) -> Refusal {
    Refusal::validation(format!("{member} {problem}.")).at(member.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Vec<Rule>, Refusal> {
        Rule::parse_all(format!(r#"{{"rules":[{text}]}}"#).as_bytes())
    }

    #[test]
    fn bad_rules_are_named() {
        for (rule, member) in [
            (r#"{"kind":"hang"}"#, "operation"),
            (r#"{"operation":"*"}"#, "kind"),
            (r#"{"operation":"*","kind":"delay"}"#, "delayMs"),
            (r#"{"operation":"*","kind":"status"}"#, "status"),
            (r#"{"operation":"*","kind":"status","status":200}"#, "status"),
            (r#"{"operation":"*","kind":"hang","share":1.5}"#, "share"),
            (r#"{"operation":"*","kind":"hang","count":0}"#, "count"),
            (r#"{"operation":"*","kind":"hang","cuont":1}"#, "cuont"),
        ] {
            let target = rules(rule).unwrap_err().detail.target.unwrap();
            assert_eq!(target, format!("rules[0].{member}"));
        }
        assert!(Rule::parse_all(b"[]").is_err());
    }

    #[test]
    fn rules_fire_in_order_until_spent() {
        let text = r#"{"operation":"issue","kind":"hang","count":1},{"operation":"*","kind":"drop_before","share":0},
            {"operation":"*","kind":"late","delayMs":5}"#;
        let faults = Faults::default();
        faults.replace(rules(text).unwrap());
        let draw = |operation| faults.draw(operation).map(|fault| fault.kind.name());
        assert_eq!(draw(Operation::Create), Some("late"));
        assert_eq!(draw(Operation::Issue), Some("hang"));
        assert_eq!(draw(Operation::Issue), Some("late"));
        assert_eq!(faults.list().len(), 2);
    }

    #[test]
    fn share_is_roughly_met() {
        let faults = Faults::default();
        faults.replace(rules(r#"{"operation":"*","kind":"hang","share":0.25}"#).unwrap());
        let fired = (0..4000).filter(|_| faults.draw(Operation::Issue).is_some()).count();
        assert!((800..1200).contains(&fired), "{fired}");
    }
}
