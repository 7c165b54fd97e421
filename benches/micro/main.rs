//! The cost of single steps of a request: signing a call, verifying a sign-in token, encrypting.
//!
//! `cargo bench -p acs-token-vendor-benches`

#[expect(dead_code, reason = "the other benchmarks need more of it")]
#[path = "../src/issuer.rs"]
mod issuer;

use std::hint::black_box;

use acs_token_vendor::{
    acs::signing::{Parts, sign},
    app,
    auth::Authenticator,
    config,
    domain::clock::Clock,
    encryption::{Aad, KeyRing},
};
use anyhow::Context;
use criterion::{Criterion, Throughput};
use jsonwebtoken::Algorithm;
use tokio::runtime::Runtime;

use issuer::{AUDIENCE, Issuer};

/// The length of ACS's tokens.
const TOKEN_BYTES: usize = 1100;

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let issuer = runtime.block_on(Issuer::start(folder.path()))?;
    let authenticator = authenticator(&issuer, folder.path())?;

    let mut criterion = Criterion::default().configure_from_args();
    signing(&mut criterion)?;
    for algorithm in [Algorithm::RS256, Algorithm::ES256] {
        let token = issuer.sign_in_token(algorithm, "somebody")?;
        runtime.block_on(authenticator.authenticate(&token))?;
        criterion.bench_function(&format!("verify a sign-in token/{algorithm:?}"), |bencher| {
            bencher.to_async(&runtime).iter(|| authenticator.authenticate(black_box(&token)));
        });
    }
    encryption(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn signing(criterion: &mut Criterion) -> anyhow::Result<()> {
    let key = "c2VjcmV0LWFjY2Vzcy1rZXktb2YtYS1iZW5jaG1hcms=".parse()?;
    let parts = Parts {
        method: "POST",
        target: "/identities/8:acs:3f1c8a9e-0f5b-4a5c-9f3d-0d7f0a1b2c3d_0000/:issueAccessToken?api-version=2023-10-01",
        host: "name.communication.azure.com",
        date: "Tue, 24 Nov 2026 10:00:00 GMT",
        body: br#"{"scopes":["chat","voip"],"expiresInMinutes":1440}"#,
    };
    criterion.bench_function("sign a call for ACS", |bencher| bencher.iter(|| sign(&key, black_box(parts))));
    Ok(())
}

fn encryption(criterion: &mut Criterion) -> anyhow::Result<()> {
    let keys = KeyRing::random().context("no randomness")?;
    let token = "t".repeat(TOKEN_BYTES);
    let aad = Aad { user: "0199a3c0-0000-7000-8000-000000000000", identity: "8:acs:somebody", generation: 7 };
    let encrypted = keys.encrypt(&token, &aad).context("no randomness")?;
    let mut group = criterion.benchmark_group("a token");
    group.throughput(Throughput::Bytes(u64::try_from(TOKEN_BYTES)?));
    group.bench_function("encrypt", |bencher| bencher.iter(|| keys.encrypt(black_box(&token), &aad)));
    group.bench_function("decrypt", |bencher| bencher.iter(|| keys.decrypt(black_box(&encrypted), &aad)));
    group.finish();
    Ok(())
}

fn authenticator(issuer: &Issuer, folder: &std::path::Path) -> anyhow::Result<Authenticator> {
    let settings = config::parse(&format!(
        "[database]\nurl = \"sqlite:{}\"\n\
         [acs]\nconnection_string = \"endpoint=http://127.0.0.1:1/;accesskey=c2VjcmV0\"\n\
         [issuers.main]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\njwks_url = \"{}\"\n\
         algorithms = [\"RS256\", \"ES256\"]\npolicy = {{ scopes = \"chat\" }}\n",
        folder.join("vendor.db").display(),
        issuer.url,
        issuer.jwks_url(),
    ))?;
    let http = app::http_client(&settings)?;
    Ok(Authenticator::new(&settings.auth, settings.issuers, &http, &Clock::default()))
}
