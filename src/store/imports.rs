//! Imports of many identities in one transaction: those that nothing stands in the way of.
//!
//! What is left over is imported one by one, which finds out why.

use chrono::{DateTime, Utc};

use super::{Error, Tx, identities::LONGEST_LIFE};
use crate::domain::{
    audit::{Action, Actor, Event, RequestContext},
    user::{AcsId, AppUser, UserId},
};

const ARE_IMPORTED: &str = "
    SELECT wanted.place FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[]) WITH ORDINALITY
        AS wanted (issuer_key, subject, acs_id, place)
    JOIN users u ON u.issuer_key = wanted.issuer_key AND u.subject = wanted.subject AND u.acs_id = wanted.acs_id
    WHERE u.state = 'active'";

const IS_IMPORTED: &str =
    "SELECT COUNT(*) FROM users WHERE issuer_key = $1 AND subject = $2 AND acs_id = $3 AND state = 'active'";

/// In the order of the users, so that no two imports wait for each other's rows.
const INSERT_MANY: &str = "
    INSERT INTO users (id, issuer_key, subject, acs_id, resource, state, generation, created_at, updated_at,
                       tokens_expire_at, epoch, sign_ins_valid_from)
    SELECT w.id, w.issuer_key, w.subject, w.acs_id, $5, 'active', 0, $6, $6, $7, g.epoch, g.sign_ins_valid_from
    FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[]) AS w (id, issuer_key, subject, acs_id), global_state g
    ORDER BY w.issuer_key, w.subject
    ON CONFLICT DO NOTHING RETURNING id";

const INSERT: &str = "
    INSERT INTO users (id, issuer_key, subject, acs_id, resource, state, generation, created_at, updated_at,
                       tokens_expire_at, epoch, sign_ins_valid_from)
    SELECT $1, $2, $3, $4, $5, 'active', 0, $6, $6, $7, g.epoch, g.sign_ins_valid_from FROM global_state g WHERE g.id = 1
    ON CONFLICT DO NOTHING";

/// After the insert, as for a single import: a deletion writes its operation before it frees the identity.
const TAKE_BACK_MANY: &str = "
    DELETE FROM users WHERE id = ANY($1) AND EXISTS (
        SELECT 1 FROM operations o WHERE o.acs_id = users.acs_id AND o.kind IN ('delete', 'discard')) RETURNING id";

const TAKE_BACK: &str = "
    DELETE FROM users WHERE id = $1 AND EXISTS (
        SELECT 1 FROM operations o WHERE o.acs_id = users.acs_id AND o.kind IN ('delete', 'discard'))";

impl Tx {
    /// Tells for each whether the identity is the user's already.
    pub async fn are_imported(&mut self, lines: &[(AppUser, AcsId)]) -> Result<Vec<bool>, Error> {
        let mut are = vec![false; lines.len()];
        match self {
            Self::Postgres(tx) => {
                let (issuers, subjects, identities) = columns(lines);
                let query = sqlx::query_scalar(ARE_IMPORTED).bind(issuers).bind(subjects).bind(identities);
                let places: Vec<i64> = query.fetch_all(&mut **tx).await?;
                for place in places {
                    if let Some(is) = usize::try_from(place - 1).ok().and_then(|place| are.get_mut(place)) {
                        *is = true;
                    }
                }
            }
            Self::Sqlite(tx) => {
                for ((user, acs_id), is) in lines.iter().zip(&mut are) {
                    let query = sqlx::query_scalar(IS_IMPORTED).bind(user.issuer.as_str()).bind(user.subject.as_str());
                    let count: i64 = query.bind(acs_id.as_str()).fetch_one(&mut **tx).await?;
                    *is = count > 0;
                }
            }
        }
        Ok(are)
    }

    /// Makes mappings for users without a row, with their audit rows; tells for each whether it was made.
    pub async fn import_identities(
        &mut self,
        lines: &[(AppUser, AcsId)],
        resource: &str,
        actor: &Actor,
        context: &RequestContext,
        now: DateTime<Utc>,
    ) -> Result<Vec<bool>, Error> {
        let ids: Vec<_> = lines.iter().map(|_| UserId::random()).collect();
        let made = match self {
            Self::Postgres(tx) => {
                let (issuers, subjects, identities) = columns(lines);
                let query = sqlx::query_scalar(INSERT_MANY).bind(names(&ids)).bind(issuers).bind(subjects);
                let query = query.bind(identities).bind(resource).bind(now).bind(now + LONGEST_LIFE);
                let mut made: Vec<String> = query.fetch_all(&mut **tx).await?;
                let condemned: Vec<String> =
                    sqlx::query_scalar(TAKE_BACK_MANY).bind(&made).fetch_all(&mut **tx).await?;
                made.retain(|id| !condemned.contains(id));
                let made: std::collections::HashSet<_> = made.into_iter().collect();
                ids.iter().map(|id| made.contains(id.as_str())).collect()
            }
            Self::Sqlite(tx) => {
                let mut made = Vec::with_capacity(lines.len());
                for ((user, acs_id), id) in lines.iter().zip(&ids) {
                    let query = sqlx::query(INSERT).bind(id.as_str()).bind(user.issuer.as_str());
                    let query = query.bind(user.subject.as_str()).bind(acs_id.as_str()).bind(resource).bind(now);
                    let inserted = query.bind(now + LONGEST_LIFE).execute(&mut **tx).await?.rows_affected() == 1;
                    let is_made = inserted
                        && sqlx::query(TAKE_BACK).bind(id.as_str()).execute(&mut **tx).await?.rows_affected() == 0;
                    made.push(is_made);
                }
                made
            }
        };
        let of_made = ids.iter().zip(lines).zip(&made).filter(|(_, made)| **made);
        let event = |((id, (_, acs_id)), _): ((&UserId, &(AppUser, AcsId)), _)| Event {
            acs_id: Some(acs_id.clone()),
            ..Event::new(Action::IdentityImported, actor.clone(), id.clone(), context.clone())
        };
        self.append_audit(of_made.map(event), now).await?;
        Ok(made)
    }
}

fn columns(lines: &[(AppUser, AcsId)]) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let issuers = lines.iter().map(|(user, _)| user.issuer.as_str()).collect();
    let subjects = lines.iter().map(|(user, _)| user.subject.as_str()).collect();
    (issuers, subjects, lines.iter().map(|(_, acs_id)| acs_id.as_str()).collect())
}

fn names(ids: &[UserId]) -> Vec<&str> {
    ids.iter().map(UserId::as_str).collect()
}
