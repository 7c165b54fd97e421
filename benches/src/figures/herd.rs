//! P3 and P4: everybody comes back at once, before tokens were minted and after.

use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::{
    load,
    report::{Figure, Finding, Series},
    world::{Setup, World, subjects},
};

const USERS: u32 = 20_000;
/// ACS's limits, ten times as high.
const LIMITS: [(&str, u32); 5] =
    [("create", 10_000), ("create_with_token", 10_000), ("issue", 10_000), ("revoke", 5_000), ("delete", 5_000)];
/// Two full windows of calls cannot begin sooner than one window apart, however fast everything else is.
const LEAST_S: f64 = 30.0;

pub async fn measure(world: &World) -> anyhow::Result<(Figure, Figure)> {
    let limits: Vec<_> = LIMITS.iter().map(|(call, calls)| format!("--limit={call}={calls}")).collect();
    let emulator = world.emulator("p3-emulator", &limits.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let budget = LIMITS.map(|(call, calls)| format!("{call} = {calls}")).join("\n");
    let database = world.database("bench_p3").await?;
    let more = format!("[quota]\n{budget}\n");
    let setup = Setup { database: &database, emulator: &emulator.url, reuse: true, more: &more };
    let mut replicas = Vec::new();
    for name in ["p3-first", "p3-second", "p3-third"] {
        replicas.push(world.service(name, &setup).await?);
    }
    let urls: Vec<_> = replicas.iter().map(|replica| replica.url.clone()).collect();
    let logins = world.issuer.logins(Algorithm::ES256, &subjects(USERS as usize))?;

    let cold = load::herd(&urls, logins.clone()).await?;
    let after_cold = world.stats(&emulator.url).await?;
    let warm = load::herd(&urls, logins).await?;
    let after_warm = world.stats(&emulator.url).await?;

    let count = |stats: &Value, name: &str| stats["calls"][name].as_f64().unwrap_or(f64::NAN);
    let calls = |stats: &Value| count(stats, "create") + count(stats, "issue");
    let throttled = after_cold["throttled"].as_f64().unwrap_or(f64::NAN);
    let users = f64::from(USERS);
    let minted = Figure {
        title: format!("{USERS} new users at once, three replicas, ACS's limits × 10"),
        findings: vec![
            Finding::at_least("users served", served(&cold), users, ""),
            Finding::at_most("time, of the limit's own minimum of 30 s", cold.took.as_secs_f64() / LEAST_S, 1.1, "×"),
            Finding::told(
                "time, of the limit's rate (60 s)",
                format!("{:.2} ×", cold.took.as_secs_f64() / (2.0 * LEAST_S)),
            ),
            Finding::at_most("429s of the emulator, of all calls", throttled / calls(&after_cold) * 100.0, 0.1, "%"),
            Finding::at_most("mints per user", (calls(&after_cold) - throttled) / users, 1.0, ""),
            Finding::told("times that somebody was told to come back", cold.sent_away.to_string()),
            Finding::told("connections that failed", cold.failed.to_string()),
        ],
        series: vec![Series::new("ours, all served", "seconds", vec![cold.took.as_secs_f64()])],
    };
    let reused = Figure {
        title: "the same herd again, tokens minted before".to_owned(),
        findings: vec![
            Finding::at_most("calls to ACS", calls(&after_warm) - calls(&after_cold), 0.0, ""),
            Finding::at_least("users served", served(&warm), users, ""),
            Finding::told("time", format!("{:.1} s", warm.took.as_secs_f64())),
            Finding::told("times that somebody was told to come back", warm.sent_away.to_string()),
        ],
        series: vec![Series::new("ours, all served", "seconds", vec![warm.took.as_secs_f64()])],
    };
    Ok((minted, reused))
}

fn served(herd: &load::Herd) -> f64 {
    u32::try_from(herd.served).map_or(f64::NAN, f64::from)
}
