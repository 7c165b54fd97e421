//! Checks of what settings mean, alone and together. `serve` and `check-config` both run them.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use secrecy::ExposeSecret;
use url::Url;

use super::settings::{Errors, Raw, Settings};
use crate::{
    acs::{self, connection_string::ConnectionString},
    auth::{IssuerSettings, Issuers, Operators},
    domain::{address::is_on_this_machine, token::Lifetime, user::IssuerKey},
    store, tokens,
};

impl Raw {
    pub(super) fn check(self, mut errors: Errors) -> Result<Settings, Errors> {
        let found = &mut errors;
        self.positive(found);
        let listen = address("server.listen", &self.server.listen, found);
        let admin_listen = address("admin.listen", &self.admin.listen, found);
        if listen.is_some() && listen == admin_listen && listen.is_some_and(|address| address.port() != 0) {
            found
                .add("admin.listen", "must differ from `server.listen`, because probes and metrics must not be public");
        }
        origins(&self.server.cors_origins.0, found);
        if let Err(text) = self.server.trusted_networks() {
            found.add(
                "server.trusted_proxies",
                format!("`{text}` is not a valid network (expected, for example, `10.0.0.0/8`)"),
            );
        }
        let ops_listen = self.ops.listen.as_deref().and_then(|text| address("ops.listen", text, found));
        if self.users.tombstone_ttl < Duration::from_hours(24) {
            found.add("users.tombstone_ttl", "must be at least one day, longer than any sign-in token is valid");
        }
        let operators = Operators::parse(self.ops.keys).unwrap_or_else(|wrong| {
            for (key, message) in wrong {
                found.add(format!("ops.keys.{key}"), message);
            }
            Operators::default()
        });
        if let Err(error) = self.log.check_filter() {
            found.add("log.filter", error);
        }
        database(&self.database, found);
        let connection = connection(&self.acs, found);
        for (name, rate) in [
            ("user", self.limits.user),
            ("self_revoke", self.limits.self_revoke),
            ("failed_sign_ins", self.limits.failed_sign_ins),
        ] {
            if !rate.is_valid() {
                found.add(format!("limits.{name}.per"), "is too short for this number of requests");
            }
        }
        if !self.quota.allow_all() {
            found.add("quota", "every limit must be greater than zero");
        }
        if self.tokens.timeout > self.server.request_timeout {
            found.add("tokens.timeout", "must be at most `server.request_timeout`");
        }
        if !(tokens::LEAST_REUSE_MARGIN..Lifetime::HOUR.duration()).contains(&self.tokens.reuse_margin) {
            let message = "must be at least 15 minutes, because clients refresh ten minutes early and would get the same token again, \
                           and less than one hour, because otherwise no token would be reused";
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
            (Some(listen), Some(admin_listen), Some(connection)) if errors.0.is_empty() => Ok(Settings {
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
            _ => Err(errors),
        }
    }

    fn positive(&self, errors: &mut Errors) {
        for (key, is_zero) in [
            ("server.max_connections", self.server.max_connections == 0),
            ("server.max_in_flight", self.server.max_in_flight == 0),
            ("server.write_timeout", self.server.write_timeout.is_zero()),
            ("server.body_timeout", self.server.body_timeout.is_zero()),
            ("server.idle_timeout", self.server.idle_timeout.is_zero()),
            ("ops.max_in_flight", self.ops.max_in_flight == 0),
            ("worker.interval", self.worker.interval.is_zero()),
            ("worker.at_once", self.worker.at_once == 0),
            ("tokens.timeout", self.tokens.timeout.is_zero()),
            ("acs.timeout", self.acs.timeout.is_zero()),
        ] {
            if is_zero {
                errors.add(key, "must be greater than zero");
            }
        }
    }
}

pub(super) fn address(key: &str, text: &str, errors: &mut Errors) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        errors.add(key, format!("`{text}` is not a valid address (expected, for example, `127.0.0.1:8080`)"));
    }
    parsed
}

/// Origins as browsers write them: scheme and authority in lower case, no path, no trailing slash.
fn origins(origins: &[String], errors: &mut Errors) {
    for origin in origins {
        let as_browsers_write_it = Url::parse(origin).map(|url| url.origin().ascii_serialization());
        if as_browsers_write_it.as_ref() != Ok(origin) {
            let message = format!(
                "`{origin}` is not a valid origin (expected, for example, `https://app.example.com`, without a path, a slash at the \
                 end or `*`)"
            );
            errors.add("server.cors_origins", message);
        }
    }
}

fn database(database: &store::Settings, errors: &mut Errors) {
    if let Err(error) = store::check_url(&database.url) {
        errors.add("database.url", error.to_string());
    }
    if database.max_connections.is_some_and(|most| most <= store::READ_CONNECTIONS) {
        let message = format!(
            "must be greater than {}, the number of connections reserved for batched reads",
            store::READ_CONNECTIONS
        );
        errors.add("database.max_connections", message);
    }
}

fn connection(acs: &acs::Settings, errors: &mut Errors) -> Option<ConnectionString> {
    let is_version = |text: &str| {
        let date = text.strip_suffix("-preview").unwrap_or(text);
        date.len() == 10
            && date.bytes().enumerate().all(|(i, c)| if i == 4 || i == 7 { c == b'-' } else { c.is_ascii_digit() })
    };
    if !is_version(&acs.api_version) {
        errors.add("acs.api_version", "is not a valid version (expected, for example, `2023-10-01`)");
    }
    let Some(text) = &acs.connection_string else {
        let message = "is missing: set `COMMUNICATION_SERVICES_CONNECTION_STRING`, or `COMMUNICATION_SERVICES_CONNECTION_STRING_FILE` to the path of a file";
        errors.add("acs.connection_string", message);
        return None;
    };
    let second = acs.second_access_key.as_ref().map(|text| text.expose_secret().parse());
    let second_access_key = second.transpose().unwrap_or_else(|error: acs::credential::AccessKeyError| {
        errors.add("acs.second_access_key", error.to_string());
        None
    });
    match text.expose_secret().parse::<ConnectionString>() {
        Ok(connection) => {
            if connection.endpoint.is_exposed() && !acs.allow_http {
                let message = "the endpoint is plain http on another machine, so tokens could be read in transit; \
                               `acs.allow_http = true` allows it";
                errors.add("acs.connection_string", message);
            }
            Some(ConnectionString { second_access_key, ..connection })
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            errors.add("acs.connection_string", format!("{error}{cause}"));
            None
        }
    }
}

fn issuers(issuers: Issuers, errors: &mut Errors) -> Vec<(IssuerKey, IssuerSettings)> {
    if issuers.is_empty() && !errors.0.iter().any(|error| error.key.starts_with("issuers")) {
        let message = "at least one identity provider is required, for example:\n    \
                       [issuers.main]\n    issuer = \"https://login.example.com\"\n    audience = \"my-app\"\n    \
                       [[issuers.main.policy]]\n    scopes = [\"chat\", \"voip\"]";
        errors.add("issuers", message);
    }
    let mut names = HashSet::new();
    let mut good = Vec::new();
    for (key, issuer) in issuers {
        let at = |member: &str| format!("issuers.{key}.{member}");
        match Url::parse(&issuer.issuer) {
            Ok(url) => transport(&at("issuer"), &url, issuer.allow_http, errors),
            Err(_) => errors.add(at("issuer"), "must be the URL that sign-in tokens have in `iss`"),
        }
        if let Some(url) = &issuer.jwks_url {
            transport(&at("jwks_url"), url, issuer.allow_http, errors);
        }
        if !names.insert(issuer.issuer.clone()) {
            errors.add(at("issuer"), "is already the issuer of another key");
        }
        if issuer.audience.0.is_empty() {
            errors.add(at("audience"), "must name at least one audience");
        }
        if issuer.algorithms.0.is_empty() {
            errors.add(at("algorithms"), "must name at least one algorithm");
        }
        if issuer.policy.is_empty() {
            let message = format!(
                "without a grant no user gets a token; this one grants everything to all users:\n    \
                 [[issuers.{key}.policy]]\n    scopes = [\"chat\", \"voip\"]\n    max_lifetime = \"24h\""
            );
            errors.add(at("policy"), message);
        }
        match IssuerKey::parse(&key) {
            Ok(key) => good.push((key, issuer)),
            Err(error) => errors.add(format!("issuers.{key}"), error.to_string()),
        }
    }
    good
}

/// Keys that arrive by plain http from another machine could be replaced in transit.
fn transport(key: &str, url: &Url, allow_http: bool, errors: &mut Errors) {
    match url.scheme() {
        "https" => {}
        "http" if is_on_this_machine(url) || allow_http => {}
        "http" => errors.add(key, "must be https, because keys fetched by plain http could be replaced in transit"),
        _ => errors.add(key, "must be an https URL"),
    }
}
