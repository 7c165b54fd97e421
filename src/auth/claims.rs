//! The standard claims of RFC 7519 section 4.1.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::jose::Error;

/// What the claims of a token must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer, byte for byte.
    pub issuer: &'a str,
    /// Accepted audiences; the token must name one of them.
    pub audiences: &'a [String],
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// Checks `iss`, `aud`, `exp`, `nbf` and `iat`; the error names the first claim that is not as expected.
pub fn check(claims: &Map<String, Value>, expected: Expected<'_>, now: DateTime<Utc>) -> Result<(), Error> {
    let leeway = chrono::Duration::from_std(expected.leeway).unwrap_or_default();
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err(Error::Claim("iss"));
    }
    if !names_one_of(claims.get("aud"), expected.audiences) {
        return Err(Error::Claim("aud"));
    }
    if time(claims, "exp")?.is_none_or(|exp| now >= exp + leeway) {
        return Err(Error::Claim("exp"));
    }
    if time(claims, "nbf")?.is_some_and(|nbf| nbf > now + leeway) {
        return Err(Error::Claim("nbf"));
    }
    if time(claims, "iat")?.is_some_and(|iat| !is_set(iat) || iat > now + leeway) {
        return Err(Error::Claim("iat"));
    }
    Ok(())
}

/// Reads a claim that is a `NumericDate` (RFC 7519 section 2), rounded down to whole seconds; times before 1970 are read as
/// 1970. A claim that is `null` counts as missing.
pub(super) fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<DateTime<Utc>>, Error> {
    // Later times than the year 9999 are mistakes, and would overflow calculations.
    const LAST_SECOND: i64 = 253_402_300_799;
    let Some(value) = claims.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and the range is checked below")]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|float| float.floor() as i64));
    let in_range = seconds.filter(|seconds| *seconds <= LAST_SECOND);
    in_range.and_then(|seconds| DateTime::from_timestamp(seconds.max(0), 0)).map(Some).ok_or(Error::Claim(name))
}

/// Tells whether a time means something: some identity providers write 0 for a time that they do not know.
pub(super) fn is_set(time: DateTime<Utc>) -> bool {
    time > DateTime::UNIX_EPOCH
}

fn names_one_of(aud: Option<&Value>, audiences: &[String]) -> bool {
    let is_ours = |text: &str| audiences.iter().any(|audience| audience == text);
    match aud {
        Some(Value::String(text)) => is_ours(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(is_ours),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn error(change: &Value) -> Option<Error> {
        let mut claims = json!({"iss": "https://i", "aud": ["x", "vendor"], "exp": NOW + 60, "iat": NOW})
            .as_object()
            .unwrap()
            .clone();
        for (name, value) in change.as_object().unwrap() {
            claims.insert(name.clone(), value.clone());
        }
        claims.retain(|_, value| !value.is_null());
        let audiences = ["vendor".to_owned()];
        let expected = Expected { issuer: "https://i", audiences: &audiences, leeway: Duration::from_secs(30) };
        check(&claims, expected, DateTime::from_timestamp(NOW, 0).unwrap()).err()
    }

    #[test]
    fn valid_claims_pass() {
        for change in [
            json!({}),
            json!({"aud": "vendor"}),
            json!({"exp": NOW - 29}),
            json!({"nbf": NOW + 30}),
            json!({"iat": NOW + 30}),
            json!({"iat": null}),
            json!({"nbf": 0}),
            json!({"nbf": -1}),
            json!({"exp": f64::from(1_700_000_060) + 0.5}),
        ] {
            assert_eq!(error(&change), None, "{change}");
        }
    }

    #[test]
    fn errors_name_the_claim() {
        for (change, claim) in [
            (json!({"iss": null}), "iss"),
            (json!({"iss": "https://i/"}), "iss"),
            (json!({"iss": ["https://i"]}), "iss"),
            (json!({"aud": null}), "aud"),
            (json!({"aud": []}), "aud"),
            (json!({"aud": "vendor2"}), "aud"),
            (json!({"exp": null}), "exp"),
            (json!({"exp": NOW - 30}), "exp"),
            (json!({"exp": "never"}), "exp"),
            (json!({"exp": 0}), "exp"),
            (json!({"exp": -1}), "exp"),
            (json!({"exp": -1e300}), "exp"),
            (json!({"exp": u64::MAX}), "exp"),
            (json!({"exp": 1e300}), "exp"),
            (json!({"nbf": NOW + 31}), "nbf"),
            (json!({"iat": NOW + 31}), "iat"),
            (json!({"iat": "now"}), "iat"),
            (json!({"iat": 0}), "iat"),
            (json!({"iat": -1}), "iat"),
            (json!({"nbf": "now"}), "nbf"),
            (json!({"nbf": 1e300}), "nbf"),
        ] {
            assert_eq!(error(&change), Some(Error::Claim(claim)), "{change}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (NOW - 90..NOW + 90).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            proptest::collection::vec(any::<String>(), 0..3).prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn times_are_in_range_and_checks_never_panic(name in "(iss|aud|exp|nbf|iat)", value in any_value()) {
            let claims = Map::from_iter([("t".to_owned(), value.clone())]);
            if let Ok(Some(time)) = time(&claims, "t") {
                prop_assert!((0..=253_402_300_799).contains(&time.timestamp()) && value.is_number());
                if let Some(seconds) = value.as_i64() {
                    prop_assert_eq!(time.timestamp(), seconds.max(0));
                }
            }
            let _ = error(&json!({ name: value }));
        }
    }
}
