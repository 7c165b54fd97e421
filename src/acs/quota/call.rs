//! The kinds of calls to ACS, and how urgent they are.

/// A kind of call that has a limit of its own at ACS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /identities` without a token.
    Create,
    /// `POST /identities` with a token.
    CreateWithToken,
    /// `POST /identities/{id}/:issueAccessToken`.
    Issue,
    /// `POST /identities/{id}/:revokeAccessTokens`.
    Revoke,
    /// `DELETE /identities/{id}`.
    Delete,
}

impl Call {
    pub(super) const ALL: [Self; 5] = [Self::Create, Self::CreateWithToken, Self::Issue, Self::Revoke, Self::Delete];

    /// Returns the name of the call in the database and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateWithToken => "create_with_token",
            Self::Issue => "issue",
            Self::Revoke => "revoke",
            Self::Delete => "delete",
        }
    }
}

/// How urgent a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Somebody waits for it.
    Interactive,
    /// Nobody waits for it: it comes after interactive calls and leaves a quarter of the limit to them.
    Background,
}
