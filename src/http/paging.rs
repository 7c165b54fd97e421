//! Pages: how many, and where the next one begins.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::problem::{Code, Problem};

/// How many items a page has where the query does not say.
const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 1000;
/// How much of the hash of a query a cursor carries: enough to notice another query by mistake.
const MARK_BYTES: usize = 6;

/// Reads how many items a page may have.
pub(super) fn limit(limit: Option<i64>) -> Result<i64, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(Problem::new(Code::InvalidRequest).detail(format!("`limit`: must be 1 to {MAX_LIMIT}"))),
    }
}

/// Writes where a page ended, good for the same query only.
pub(super) fn cursor(query: &str, last: &str) -> String {
    let mut bytes = mark(query).to_vec();
    bytes.extend_from_slice(last.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads where the page before ended.
pub(super) fn after<T>(
    cursor: Option<&str>,
    query: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let invalid = |detail| Problem::new(Code::InvalidRequest).detail(detail);
    let no_cursor = "`cursor`: is not one that this service gave";
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid(no_cursor))?;
    let (found, last) = bytes.split_at_checked(MARK_BYTES).ok_or_else(|| invalid(no_cursor))?;
    let last = std::str::from_utf8(last).ok().and_then(parse).ok_or_else(|| invalid(no_cursor))?;
    if found == mark(query) { Ok(Some(last)) } else { Err(invalid("`cursor`: belongs to another query")) }
}

fn mark(query: &str) -> [u8; MARK_BYTES] {
    let hash = Sha256::digest(query);
    std::array::from_fn(|index| hash[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_good_for_their_query_only() {
        let given = cursor("users dev", "u_1");
        let read = |cursor, query| after(cursor, query, |text| Some(text.to_owned())).map_err(|problem| problem.detail);
        assert_eq!(read(Some(&given), "users dev").unwrap().unwrap(), "u_1");
        assert_eq!(read(None, "users dev").unwrap(), None);
        assert!(read(Some(&given), "users main").unwrap_err().unwrap().contains("another query"));
        for bad in ["", "!", "AAAA"] {
            assert!(read(Some(bad), "users dev").unwrap_err().unwrap().contains("not one"), "{bad}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some(1000)).unwrap(), 1000);
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
    }
}
