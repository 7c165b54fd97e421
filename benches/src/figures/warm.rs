//! P1: cached tokens, against the warm ceiling and the Express server.

use anyhow::{Context, ensure};
use jsonwebtoken::Algorithm;

use super::{against_compared_build, ceiling_database, execute};
use crate::{
    Effort,
    environment::{Environment, NO_QUOTA, Setup, subjects},
    load::{self, Rounds, Target},
    report::{Figure, Finding, ratio},
};

const USERS: usize = 10_000;
const CONNECTIONS: usize = 32;

pub async fn measure(environment: &Environment, effort: Effort) -> anyhow::Result<Figure> {
    let http = &environment.http;
    let emulator = environment.emulator("p1-emulator", &["--no-limits"]).await?;
    let es256 = environment.issuer.sign_in_tokens(Algorithm::ES256, &subjects(USERS))?;
    let setup = Setup { database: "", emulator: &emulator.url, caches: true, more: NO_QUOTA };

    let sqlite = environment.sqlite("p1");
    let sqlite = environment.service("p1-sqlite", &Setup { database: &sqlite, ..setup.clone() }).await?;
    let express = environment.express(&environment.database("bench_p1_express").await?, &emulator.url).await?;
    let mut services = Vec::new();
    for build in environment.builds() {
        let name = format!("p1-{}", build.name);
        let database = environment.database(&format!("bench_{name}")).await?;
        services.push(environment.service_of(build, &name, &Setup { database: &database, ..setup.clone() }).await?);
        load::once_each(http, &services[services.len() - 1].url, &es256).await?;
        execute(&database, "VACUUM ANALYZE").await?;
    }
    load::once_each(http, &express.url, &es256).await?;
    let sample = load::once_each(http, &sqlite.url, &es256).await?;
    let token = sample["token"].as_str().context("no token")?;
    let identity = sample["user"]["communicationUserId"].as_str().context("no identity")?;
    let ceiling = ceiling_database(environment, "bench_p1_ceiling", USERS, identity, token).await?;
    let ceiling = environment.warm_ceiling(&ceiling, None).await?;
    let identities = environment.stats(&emulator.url).await?["identities"].clone();

    let mut figure = Figure {
        title: format!("warm `POST /token`, {CONNECTIONS} connections, {USERS} users"),
        findings: Vec::new(),
        series: Vec::new(),
    };
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let tokens = match algorithm {
            Algorithm::ES256 => es256.clone(),
            other => environment.issuer.sign_in_tokens(other, &subjects(USERS))?,
        };
        let tokens = environment.write_tokens("p1-tokens", &tokens)?;
        let target = |name: &str, url: &str| Target::new(format!("{name}, {algorithm:?}"), url, &tokens);
        let mut targets = vec![
            target("ceiling", &ceiling.url),
            target("Express", &express.url),
            target("service, SQLite", &sqlite.url),
        ];
        for (build, service) in environment.builds().iter().zip(&services) {
            targets.push(target(&format!("{}, Postgres", build.name), &service.url));
        }
        let results = load::in_turn(&targets, CONNECTIONS, effort).await?;
        let rate: Vec<_> = results.iter().map(Rounds::rate).collect();
        let p99: Vec<_> = results.iter().map(Rounds::p99).collect();
        let what = |text: &str| format!("{algorithm:?}: {text}");
        figure.findings.extend([
            Finding::info(what("requests/s on Postgres"), format!("{:.0}", rate[3].median())),
            Finding::at_least(what("requests/s ÷ ceiling's"), ratio(&rate[3], &rate[0]), 0.90, "×"),
            Finding::at_most(what("p99 ÷ ceiling's"), ratio(&p99[3], &p99[0]), 1.25, "×"),
            Finding::at_least(what("requests/s ÷ Express's"), ratio(&rate[3], &rate[1]), 8.0, "×"),
            Finding::info(what("requests/s on SQLite ÷ ceiling's"), format!("{:.2} ×", ratio(&rate[2], &rate[0]))),
        ]);
        figure.findings.extend(against_compared_build(&what("requests/s"), &rate[3], rate.get(4)));
        figure.findings.extend(against_compared_build(&what("p99"), &p99[3], p99.get(4)));
        figure.series.extend(rate);
        figure.series.extend(p99);
    }
    let after = environment.stats(&emulator.url).await?["identities"].clone();
    ensure!(identities == after, "an identity was created, so the load was not warm");
    Ok(figure)
}
