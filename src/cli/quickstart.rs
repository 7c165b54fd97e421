//! `quickstart`: the steps of Microsoft's "create and manage access tokens" quickstart, as one command.

use std::collections::HashMap;

use anyhow::{Context, bail};

use crate::{
    acs::{self, Client, connection_string::ConnectionString},
    app,
    domain::{
        clock::Clock,
        scope::{Scope, Scopes},
        token::Lifetime,
        user::AcsId,
    },
};

const VARIABLE: &str = "COMMUNICATION_SERVICES_CONNECTION_STRING";

pub(super) async fn run(environment: &HashMap<String, String>) -> anyhow::Result<()> {
    let text = environment.get(VARIABLE).with_context(|| {
        format!("set {VARIABLE} to the connection string of your resource (Azure portal, the resource's \"Keys\" page)")
    })?;
    let connection: ConnectionString = text.parse().with_context(|| format!("invalid {VARIABLE}"))?;
    if connection.endpoint.is_exposed() {
        bail!("{VARIABLE} has a plain http endpoint on another machine, where tokens can be read on the way");
    }
    let http = app::client_builder(connection.endpoint.is_loopback()).build()?;
    let client = Client::new(http, connection, &acs::Settings::default(), Clock::default());
    println!("Azure Communication Services - access tokens quickstart");
    println!("Resource: {}\n", client.endpoint());

    let mut created = Vec::new();
    let outcome = steps(&client, &mut created).await;
    if outcome.is_err() {
        for id in &created {
            // Only the first failure is reported.
            let _ = client.delete(id).await;
        }
    }
    outcome
}

async fn steps(client: &Client, created: &mut Vec<AcsId>) -> anyhow::Result<()> {
    let voip: Scopes = [Scope::Voip].into_iter().collect();

    let user = client.create().await.context("could not create an identity")?;
    created.push(user.clone());
    println!("Created an identity with ID: {user}");

    let token = client.issue(&user, &voip, Lifetime::HOUR).await.context("could not issue a token")?;
    println!("Issued an access token with scope `{voip}` that expires at {}", token.expires_on);

    let (other, token) =
        client.create_with_token(&voip, Lifetime::HOUR).await.context("could not create an identity with a token")?;
    created.push(other.clone());
    println!(
        "Issued an access token without naming a user: expires at {}, for the new identity {other}",
        token.expires_on
    );

    client.revoke(&user).await.context("could not revoke the tokens")?;
    println!("Revoked all access tokens of {user}");

    for id in created.drain(..) {
        client.delete(&id).await.context("could not delete an identity")?;
        println!("Deleted the identity {id}");
    }
    Ok(())
}
