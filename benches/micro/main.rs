//! The cost of single steps of a request: signing a call, verifying a sign-in token, encrypting, a problem document.
//!
//! `cargo bench -p acs-token-vendor-benches`

#[expect(dead_code, reason = "the other benchmarks need more of it")]
#[path = "../src/issuer.rs"]
mod issuer;

use std::{hint::black_box, sync::Arc};

use acs_token_vendor::{
    acs::{
        self,
        retry::Upstream,
        signing::{Parts, sign},
    },
    app,
    auth::Authenticator,
    config,
    domain::clock::Clock,
    encryption::{Aad, KeyRing},
    http::{self, Api, Limits, Ops},
    metrics::Metrics,
    service::{self, Service, upstream::Upstream},
};
use anyhow::Context;
use axum::{Router, body::Body, http::Request};
use criterion::{Criterion, Throughput};
use jsonwebtoken::Algorithm;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use issuer::{AUDIENCE, Issuer};

/// The length of ACS's tokens.
const TOKEN_BYTES: usize = 1100;

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let issuer = runtime.block_on(Issuer::start(folder.path()))?;
    let (authenticator, router) = runtime.block_on(service(&issuer, folder.path()))?;

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
    criterion.bench_function("problem document", |bencher| {
        let request = || Request::get("/nothing").body(Body::empty()).unwrap_or_default();
        bencher.to_async(&runtime).iter(|| router.clone().oneshot(request()));
    });
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

/// Builds the parts that work without a network.
async fn service(issuer: &Issuer, folder: &std::path::Path) -> anyhow::Result<(Arc<Authenticator>, Router)> {
    let settings = config::parse(&format!(
        "[database]\nurl = \"sqlite:{}\"\n\
         [acs]\nconnection_string = \"endpoint=http://127.0.0.1:1/;accesskey=c2VjcmV0\"\n\
         [issuers.main]\nissuer = \"{}\"\naudience = \"{AUDIENCE}\"\njwks_url = \"{}\"\n\
         algorithms = [\"RS256\", \"ES256\"]\npolicy = {{ scopes = \"chat\" }}\n",
        folder.join("vendor.db").display(),
        issuer.url,
        issuer.jwks_url(),
    ))?;
    let clock = Clock::default();
    let store = app::open_store(&settings.database).await?;
    store.migrate().await?;
    let http = app::http_client(&settings)?;
    let metrics = Arc::new(Metrics::default());
    let acs = acs::Client::new(http.clone(), settings.connection, &settings.acs, clock.clone());
    let upstream = Upstream::new(acs, store.clone(), clock.clone(), &settings.quota, Arc::clone(&metrics));
    let issuers = settings.issuers.iter().map(|(key, _)| key.clone()).collect();
    let authenticator = Arc::new(Authenticator::new(&settings.auth, settings.issuers, &http, &clock));
    let api = Api {
        service: Service::new(service::Parts {
            store,
            upstream,
            clock,
            settings: settings.tokens,
            users: settings.users,
            issuers,
            metrics: Arc::clone(&metrics),
        }),
        authenticator: Arc::clone(&authenticator),
        operators: Arc::new(settings.operators),
        metrics,
        limits: Arc::new(Limits::new(&settings.limits, false)),
    };
    let routers = http::routers(&api, &settings.server, Ops { own_listener: false, max_in_flight: 64 }, Router::new());
    Ok((authenticator, routers.public))
}
