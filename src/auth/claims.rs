//! The standard claims of RFC 7519 section 4.1, checked against our own clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::jose::Error;

/// What the claims of a token must say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The one issuer, byte for byte.
    pub issuer: &'a str,
    /// Audiences of which the token must name one.
    pub audiences: &'a [String],
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// Checks `iss`, `aud`, `exp`, `nbf` and `iat`.
///
/// # Errors
/// [`Error::Claim`] with the first claim that is not as expected.
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
    if time(claims, "iat")?.is_some_and(|iat| iat > now + leeway) {
        return Err(Error::Claim("iat"));
    }
    Ok(())
}

/// Reads a claim that is a NumericDate (RFC 7519 section 2), rounded down to whole seconds.
///
/// # Errors
/// [`Error::Claim`] when it is there but no such number.
pub fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<DateTime<Utc>>, Error> {
    // Everything after the year 9999 is a mistake, and would overflow what is reckoned with it.
    const LAST_SECOND: i64 = 253_402_300_799;
    let Some(value) = claims.get(name) else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked below, and `as` saturates")]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|float| float.floor() as i64));
    let in_range = seconds.filter(|seconds| (0..=LAST_SECOND).contains(seconds));
    in_range.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).map(Some).ok_or(Error::Claim(name))
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
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn fault(change: &Value) -> Option<Error> {
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
    fn what_is_as_expected_passes() {
        for change in [
            json!({}),
            json!({"aud": "vendor"}),
            json!({"exp": NOW - 29}),
            json!({"nbf": NOW + 30}),
            json!({"iat": NOW + 30}),
            json!({"iat": null}),
            json!({"exp": f64::from(1_700_000_060) + 0.5}),
        ] {
            assert_eq!(fault(&change), None, "{change}");
        }
    }

    #[test]
    fn each_fault_names_its_claim() {
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
            (json!({"exp": -1}), "exp"),
            (json!({"exp": 1e300}), "exp"),
            (json!({"nbf": NOW + 31}), "nbf"),
            (json!({"iat": NOW + 31}), "iat"),
            (json!({"iat": "now"}), "iat"),
        ] {
            assert_eq!(fault(&change), Some(Error::Claim(claim)), "{change}");
        }
    }
}
