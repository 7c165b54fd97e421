//! Settings held against each other and against the world: what passes here is what `serve` runs with.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use secrecy::ExposeSecret;
use url::Url;

use super::{Faults, Raw, Settings};
use crate::{
    acs::{self, connection_string::ConnectionString},
    auth::{IssuerSettings, Issuers, Operators},
    domain::{address::is_on_this_machine, token::Lifetime, user::IssuerKey},
    http, service, store,
};

impl Raw {
    pub(super) fn check(self, mut faults: Faults) -> Result<Settings, Faults> {
        let found = &mut faults;
        let listen = address("server.listen", &self.server.listen, found);
        let admin_listen = address("admin.listen", &self.admin.listen, found);
        if listen.is_some() && listen == admin_listen && listen.is_some_and(|address| address.port() != 0) {
            found.add("admin.listen", "must differ from `server.listen`: probes are never public");
        }
        origins(&self.server.cors_origins.0, found);
        if let Err(text) = self.server.trusted_networks() {
            found.add("server.trusted_proxies", format!("`{text}` is no network such as `10.0.0.0/8`"));
        }
        let ops_listen = self.ops.listen.as_deref().and_then(|text| address("ops.listen", text, found));
        if self.worker.at_once == 0 || self.worker.interval.is_zero() {
            found.add("worker", "`interval` and `at_once` must be more than nothing");
        }
        if self.users.tombstone_ttl < Duration::from_hours(24) {
            found.add("users.tombstone_ttl", "must be at least a day, longer than any login lives");
        }
        let operators = Operators::parse(self.ops.keys).unwrap_or_else(|wrong| {
            for (key, message) in wrong {
                found.add(format!("ops.keys.{key}"), message);
            }
            Operators::default()
        });
        if let Err(error) = self.log.check() {
            found.add("log.filter", error);
        }
        database(&self.database, found);
        let connection = connection(&self.acs, found);
        server(&self.server, found);
        if self.ops.max_in_flight == 0 {
            found.add("ops.max_in_flight", "must be more than nothing");
        }
        for (name, rate) in [
            ("user", self.limits.user),
            ("self_revoke", self.limits.self_revoke),
            ("failed_sign_ins", self.limits.failed_sign_ins),
        ] {
            if !rate.is_valid() {
                found.add(format!("limits.{name}.per"), "must be longer");
            }
        }
        if !self.quota.allow_all() {
            found.add("quota", "every limit must be more than nothing");
        }
        if self.tokens.timeout.is_zero() || self.tokens.timeout > self.server.request_timeout {
            found.add("tokens.timeout", "must be more than nothing and at most `server.request_timeout`");
        }
        if !(service::LEAST_REUSE_MARGIN..Lifetime::HOUR.duration()).contains(&self.tokens.reuse_margin) {
            let message = "must be at least 15 minutes, or clients that refresh ten minutes early would ask in a loop, and under an hour, \
                           or nothing would be reused";
            found.add("tokens.reuse_margin", message);
        }
        if self.auth.leeway > Duration::from_mins(5) {
            found.add("auth.leeway", "must be at most 5 minutes");
        }
        if self.auth.key_refresh < Duration::from_secs(1) {
            found.add("auth.key_refresh", "must be at least one second");
        }
        let issuers = issuers(self.issuers, found);
        match (listen, admin_listen, connection) {
            (Some(listen), Some(admin_listen), Some(connection)) if faults.0.is_empty() => Ok(Settings {
                listen,
                admin_listen,
                server: self.server,
                log: self.log,
                database: self.database,
                acs: self.acs,
                connection,
                quota: self.quota,
                limits: self.limits,
                tokens: self.tokens,
                users: self.users,
                audit: self.audit,
                worker: self.worker,
                ops_listen,
                ops_max_in_flight: self.ops.max_in_flight,
                operators,
                auth: self.auth,
                issuers,
                shutdown: self.shutdown,
            }),
            _ => Err(faults),
        }
    }
}

fn server(server: &http::Settings, faults: &mut Faults) {
    for (name, is_nothing) in [
        ("max_connections", server.max_connections == 0),
        ("max_in_flight", server.max_in_flight == 0),
        ("write_timeout", server.write_timeout.is_zero()),
        ("body_timeout", server.body_timeout.is_zero()),
        ("idle_timeout", server.idle_timeout.is_zero()),
    ] {
        if is_nothing {
            faults.add(format!("server.{name}"), "must be more than nothing");
        }
    }
}

pub(super) fn address(key: &str, text: &str, faults: &mut Faults) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        faults.add(key, format!("`{text}` is no address such as `127.0.0.1:8080`"));
    }
    parsed
}

/// Origins as browsers write them: scheme and authority in lower case, no path, no trailing slash.
fn origins(origins: &[String], faults: &mut Faults) {
    for origin in origins {
        let as_browsers_write_it = Url::parse(origin).map(|url| url.origin().ascii_serialization());
        if as_browsers_write_it.as_ref() != Ok(origin) {
            let message = format!(
                "`{origin}` is no origin such as `https://app.example.com` (no path, no slash at the end, no `*`)"
            );
            faults.add("server.cors_origins", message);
        }
    }
}

fn database(database: &store::Settings, faults: &mut Faults) {
    let url = database.url.expose_secret();
    if !["postgres:", "postgresql:", "sqlite:"].iter().any(|scheme| url.starts_with(scheme)) {
        faults.add("database.url", "must begin with `postgres:` or `sqlite:`");
    }
    if database.max_connections.is_some_and(|most| most <= store::KEPT_CONNECTIONS) {
        let message =
            format!("must be more than the {} that tokens are found and recorded over", store::KEPT_CONNECTIONS);
        faults.add("database.max_connections", message);
    }
}

fn connection(acs: &acs::Settings, faults: &mut Faults) -> Option<ConnectionString> {
    let is_version = |text: &str| {
        let date = text.strip_suffix("-preview").unwrap_or(text);
        date.len() == 10
            && date.bytes().enumerate().all(|(i, c)| if i == 4 || i == 7 { c == b'-' } else { c.is_ascii_digit() })
    };
    if !is_version(&acs.api_version) {
        faults.add("acs.api_version", "must be a version such as `2023-10-01`");
    }
    if acs.timeout.is_zero() {
        faults.add("acs.timeout", "must be more than nothing");
    }
    let Some(text) = &acs.connection_string else {
        let message = "is needed: `COMMUNICATION_SERVICES_CONNECTION_STRING`, or the file named by `COMMUNICATION_SERVICES_CONNECTION_STRING_FILE`";
        faults.add("acs.connection_string", message);
        return None;
    };
    let second = acs.second_access_key.as_ref().map(|text| text.expose_secret().parse());
    let second_access_key = second.transpose().unwrap_or_else(|error: acs::credential::AccessKeyError| {
        faults.add("acs.second_access_key", error.to_string());
        None
    });
    match text.expose_secret().parse::<ConnectionString>() {
        Ok(connection) => {
            if connection.endpoint.is_exposed() && !acs.allow_http {
                let message = "the endpoint is plain http to another machine, where tokens can be read on the way; \
                               `acs.allow_http = true` takes it all the same";
                faults.add("acs.connection_string", message);
            }
            Some(ConnectionString { second_access_key, ..connection })
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            faults.add("acs.connection_string", format!("{error}{cause}"));
            None
        }
    }
}

fn issuers(issuers: Issuers, faults: &mut Faults) -> Vec<(IssuerKey, IssuerSettings)> {
    if issuers.is_empty() && !faults.0.iter().any(|fault| fault.key.starts_with("issuers")) {
        let message = "at least one identity provider is needed, for example:\n    \
                       [issuers.main]\n    issuer = \"https://login.example.com\"\n    audience = \"my-app\"\n    \
                       [[issuers.main.policy]]\n    scopes = [\"chat\", \"voip\"]";
        faults.add("issuers", message);
    }
    let mut names = HashSet::new();
    let mut good = Vec::new();
    for (key, issuer) in issuers {
        let at = |member: &str| format!("issuers.{key}.{member}");
        match Url::parse(&issuer.issuer) {
            Ok(url) => transport(&at("issuer"), &url, issuer.allow_http, faults),
            Err(_) => faults.add(at("issuer"), "must be the URL that logins have in `iss`"),
        }
        if let Some(url) = &issuer.jwks_url {
            transport(&at("jwks_url"), url, issuer.allow_http, faults);
        }
        if !names.insert(issuer.issuer.clone()) {
            faults.add(at("issuer"), "is the issuer of another key already: a login must belong to one");
        }
        if issuer.audience.0.is_empty() {
            faults.add(at("audience"), "must name at least one audience");
        }
        if issuer.algorithms.0.is_empty() {
            faults.add(at("algorithms"), "must name at least one algorithm");
        }
        if issuer.policy.is_empty() {
            let message = format!(
                "without a grant nobody gets a token; this one grants everybody everything:\n    \
                 [[issuers.{key}.policy]]\n    scopes = [\"chat\", \"voip\"]\n    max_lifetime = \"24h\""
            );
            faults.add(at("policy"), message);
        }
        match IssuerKey::parse(&key) {
            Ok(key) => good.push((key, issuer)),
            Err(error) => faults.add(format!("issuers.{key}"), error.to_string()),
        }
    }
    good
}

/// Keys that arrive by plain http from another machine could be anybody's.
fn transport(key: &str, url: &Url, allow_http: bool, faults: &mut Faults) {
    match url.scheme() {
        "https" => {}
        "http" if is_on_this_machine(url) || allow_http => {}
        "http" => faults.add(key, "must be https, or anybody on the way could sign logins"),
        _ => faults.add(key, "must be an https URL"),
    }
}
