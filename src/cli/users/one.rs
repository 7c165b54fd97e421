//! The one user that a command is about.

use clap::Args;

use crate::{
    api::UserResponse,
    domain::user::{ParseError, UserRef},
};

#[derive(Debug, Args)]
pub(super) struct One {
    /// The user: `u_…` or `<issuer key>:<subject>`.
    #[arg(value_parser = user_ref)]
    pub(super) user: String,
}

/// The name that commands take.
pub(super) fn name(user: &UserResponse) -> String {
    format!("{}:{}", user.issuer, user.subject)
}

fn user_ref(text: &str) -> Result<String, ParseError> {
    UserRef::parse(text).map(|_| text.to_owned())
}
