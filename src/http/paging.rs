//! Pages of lists: their size, and the cursor of the next one.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::problem::Problem;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 1000;
/// The part of a query's hash in its cursors: enough to notice a cursor of another query.
const HASH_BYTES: usize = 6;

/// Reads the page size of a query.
pub(super) fn limit(limit: Option<i64>) -> Result<i64, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(Problem::invalid(format!("`limit`: must be 1 to {MAX_LIMIT}"))),
    }
}

/// Returns the cursor after a page, unless the page is the last.
pub(super) fn next<T>(items: &[T], limit: i64, query: &str, id: impl FnOnce(&T) -> String) -> Option<String> {
    let is_full = i64::try_from(items.len()).is_ok_and(|count| count == limit);
    items.last().filter(|_| is_full).map(|last| cursor(query, &id(last)))
}

/// A cursor is only valid for the same query.
fn cursor(query: &str, last: &str) -> String {
    let mut bytes = hash_prefix(query).to_vec();
    bytes.extend_from_slice(last.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads the position of a cursor.
pub(super) fn after<T>(
    cursor: Option<&str>,
    query: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let unknown = || Problem::invalid("`cursor`: is not a cursor of this service");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| unknown())?;
    let (found, last) = bytes.split_at_checked(HASH_BYTES).ok_or_else(unknown)?;
    let last = std::str::from_utf8(last).ok().and_then(parse).ok_or_else(unknown)?;
    if found == hash_prefix(query) {
        Ok(Some(last))
    } else {
        Err(Problem::invalid("`cursor`: belongs to another query"))
    }
}

fn hash_prefix(query: &str) -> [u8; HASH_BYTES] {
    let hash = Sha256::digest(query);
    std::array::from_fn(|index| hash[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_valid_for_their_query_only() {
        let given = cursor("users dev", "u_1");
        let read = |cursor, query| {
            after(cursor, query, |text| Some(text.to_owned())).map_err(|problem| problem.document("").detail)
        };
        assert_eq!(read(Some(&given), "users dev").unwrap().unwrap(), "u_1");
        assert_eq!(read(None, "users dev").unwrap(), None);
        assert!(read(Some(&given), "users main").unwrap_err().unwrap().contains("another query"));
        for bad in ["", "!", "AAAA"] {
            assert!(read(Some(bad), "users dev").unwrap_err().unwrap().contains("not a cursor"), "{bad}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some(1000)).unwrap(), 1000);
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
    }
}
