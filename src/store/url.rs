//! The database URL. The drivers never see it: they write unknown parameters and parts they cannot read to the log.
//!
//! Errors and logs name hosts, ports, databases and the names of known parameters, nothing else: a password that is not
//! percent-encoded can end up in any part of the URL.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{postgres::PgConnectOptions, sqlite::SqliteConnectOptions};

/// Parameters of libpq and of other drivers that have no counterpart here.
const UNSUPPORTED: [&str; 25] = [
    "cache",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "immutable",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "require_auth",
    "schema",
    "service",
    "sslcrl",
    "sslnegotiation",
    "sslpassword",
    "target_session_attrs",
    "tcp_user_timeout",
    "vfs",
];

/// What is wrong with a database URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("must begin with `postgres:` or `sqlite:`")]
    Scheme,
    #[error(
        "is not a valid Postgres URL: `postgres://user:password@host:port/database`, with every special character of user, \
         password, database and parameters percent-encoded"
    )]
    Encoding,
    #[error("names several hosts, which is not supported")]
    SeveralHosts,
    #[error("has the parameter `{0}`, which is not supported")]
    Unsupported(&'static str),
    #[error("has an unknown parameter: number {0} after the `?`")]
    Unknown(usize),
    #[error("has an invalid value for the parameter `{name}`, expected {expected}")]
    Value { name: &'static str, expected: &'static str },
    #[error("names a SQLite database in memory, which would forget every mapping")]
    Memory,
    #[error("must name a file after `sqlite:`, with `%`, `?` and `#` percent-encoded")]
    File,
}

/// What a database URL stands for.
pub(super) enum Target {
    Postgres(PgConnectOptions),
    Sqlite(SqliteConnectOptions),
}

/// Checks a database URL without connecting.
pub fn check_url(url: &SecretString) -> Result<(), UrlError> {
    parse(url).map(drop)
}

pub(super) fn parse(url: &SecretString) -> Result<Target, UrlError> {
    match url.expose_secret().split_once(':') {
        Some(("postgres" | "postgresql", rest)) => postgres(rest).map(Target::Postgres),
        Some(("sqlite", rest)) => sqlite(rest).map(Target::Sqlite),
        _ => Err(UrlError::Scheme),
    }
}

fn postgres(rest: &str) -> Result<PgConnectOptions, UrlError> {
    let rest = rest.strip_prefix("//").ok_or(UrlError::Encoding)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user_info, address) = authority.split_once('@').unwrap_or(("", authority));
    let (user, password) = match user_info.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user_info, None),
    };
    if address.contains(',') && !address.contains('@') {
        return Err(UrlError::SeveralHosts);
    }
    let (host, port) = host_and_port(address)?;
    let mut options = PgConnectOptions::new_without_pgpass().application_name(env!("CARGO_PKG_NAME"));
    if !user.is_empty() {
        options = options.username(&decode(user)?);
    }
    if let Some(password) = password {
        options = options.password(&decode(password)?);
    }
    if !database.is_empty() {
        options = options.database(&decode(database)?);
    }
    if !host.is_empty() {
        options = at_host(options, &host);
    }
    if let Some(port) = port {
        options = options.port(port);
    }
    for (index, pair) in pairs(query).enumerate() {
        let (name, value) = pair.ok_or(UrlError::Encoding)?;
        options = with_parameter(options, index, &name, &value)?;
    }
    Ok(options)
}

fn with_parameter(
    options: PgConnectOptions,
    index: usize,
    name: &str,
    value: &str,
) -> Result<PgConnectOptions, UrlError> {
    const NUMBER: &str = "a number";
    Ok(match name {
        "sslmode" | "ssl-mode" => options.ssl_mode(value.parse().map_err(|_| UrlError::Value {
            name: "sslmode",
            expected: "disable, allow, prefer, require, verify-ca or verify-full",
        })?),
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" => options.ssl_root_cert(value),
        "sslcert" | "ssl-cert" => options.ssl_client_cert(value),
        "sslkey" | "ssl-key" => options.ssl_client_key(value),
        "statement-cache-capacity" => options.statement_cache_capacity(
            value.parse().map_err(|_| UrlError::Value { name: "statement-cache-capacity", expected: NUMBER })?,
        ),
        "host" => at_host(options, value),
        "hostaddr" => {
            let address: IpAddr =
                value.parse().map_err(|_| UrlError::Value { name: "hostaddr", expected: "an IP address" })?;
            options.host(&address.to_string())
        }
        "port" => options.port(value.parse().map_err(|_| UrlError::Value { name: "port", expected: NUMBER })?),
        "dbname" => options.database(value),
        "user" => options.username(value),
        "password" => options.password(value),
        "application_name" => options.application_name(value),
        _ => {
            if let Some(setting) = name.strip_prefix("options[").and_then(|name| name.strip_suffix(']')) {
                return Ok(options.options([(setting, value)]));
            }
            return Err(unknown(index, name));
        }
    })
}

fn sqlite(rest: &str) -> Result<SqliteConnectOptions, UrlError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut create = true;
    for (index, pair) in pairs(query).enumerate() {
        let (name, value) = pair.ok_or(UrlError::File)?;
        match (name.as_str(), value.as_str()) {
            ("mode", "memory") => return Err(UrlError::Memory),
            ("mode", "rwc") => create = true,
            ("mode", "rw") => create = false,
            ("mode", _) => return Err(UrlError::Value { name: "mode", expected: "rw or rwc" }),
            _ => return Err(unknown(index, &name)),
        }
    }
    let path = percent_decode_str(path).decode_utf8().map_err(|_| UrlError::File)?;
    if path.contains(":memory:") {
        return Err(UrlError::Memory);
    }
    // SQLite reads a name that begins with `file:` as a URL of its own.
    if path.is_empty() || path.contains('\0') || path.starts_with("file:") || rest.contains('#') {
        return Err(UrlError::File);
    }
    Ok(SqliteConnectOptions::new().filename(&*path).create_if_missing(create))
}

fn unknown(index: usize, name: &str) -> UrlError {
    match UNSUPPORTED.iter().find(|known| **known == name) {
        Some(known) => UrlError::Unsupported(known),
        None => UrlError::Unknown(index + 1),
    }
}

/// A directory is that of the server's socket.
fn at_host(options: PgConnectOptions, host: &str) -> PgConnectOptions {
    if host.starts_with('/') { options.socket(host) } else { options.host(host) }
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), UrlError> {
    // An IPv6 address stands in brackets because it has colons.
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(UrlError::Encoding)?;
        if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
            return Err(UrlError::Encoding);
        }
        (host.to_owned(), port)
    } else {
        let (host, port) = address.split_at(address.find(':').unwrap_or(address.len()));
        (decode(host)?, port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err(UrlError::Encoding),
        Some("") => None,
        Some(digits) => Some(digits.parse().map_err(|_| UrlError::Encoding)?),
    };
    Ok((host, port))
}

fn pairs(query: &str) -> impl Iterator<Item = Option<(String, String)>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(Into::into);
        let is_plain = |c: u8| is_plain(c) || matches!(c, b'/' | b':' | b'[' | b']');
        (is_encoded(name, is_plain) && is_encoded(value, is_plain)).then_some(())?;
        Some((decode(name)?, decode(value)?))
    })
}

/// Decodes a part of a URL in which every special character must be percent-encoded.
fn decode(part: &str) -> Result<String, UrlError> {
    if !is_encoded(part, is_plain) {
        return Err(UrlError::Encoding);
    }
    percent_decode_str(part).decode_utf8().map(Into::into).map_err(|_| UrlError::Encoding)
}

/// Characters that RFC 3986 allows in user information: unreserved ones and sub-delimiters.
fn is_plain(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&c)
}

fn is_encoded(part: &str, is_plain: impl Fn(u8) -> bool) -> bool {
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'%'
            && bytes.next().is_some_and(|c| c.is_ascii_hexdigit())
            && bytes.next().is_some_and(|c| c.is_ascii_hexdigit());
        if !escaped && !is_plain(byte) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(url: &str) -> Result<Target, UrlError> {
        parse(&url.to_owned().into())
    }

    fn postgres(url: &str) -> PgConnectOptions {
        match read(url) {
            Ok(Target::Postgres(options)) => options,
            Ok(Target::Sqlite(_)) => panic!("{url} is not for SQLite"),
            Err(error) => panic!("{url} {error}"),
        }
    }

    fn refused(url: &str) -> UrlError {
        read(url).err().unwrap_or_else(|| panic!("{url} was accepted"))
    }

    #[test]
    fn the_parts_of_a_postgres_url_are_read() {
        let options = postgres("postgres://us%65r:p%40ss@db.example:5433/my%2Ddb?sslmode=verify-full&options[a.b]=c");
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 5433));
        assert_eq!((options.get_username(), options.get_database()), ("user", Some("my-db")));
        assert_eq!(options.get_options(), Some("-c a.b=c"));
        assert_eq!(postgres("postgresql://u@[::1]:7/d").get_host(), "::1");
        let socket = postgres("postgres://u@%2Frun%2Fpg/d");
        assert_eq!(socket.get_socket().unwrap().to_str(), Some("/run/pg"));
        assert_eq!(postgres("postgres:///d?host=/run/pg&user=u&port=7").get_port(), 7);
    }

    #[test]
    fn a_sqlite_url_names_a_file() {
        for (url, file) in [("sqlite:a.db", "a.db"), ("sqlite:///a%3Fb.db?mode=rwc", "/a?b.db")] {
            assert!(
                matches!(read(url), Ok(Target::Sqlite(options)) if options.get_filename().to_str() == Some(file)),
                "{url}"
            );
        }
        for url in ["sqlite::memory:", "sqlite://:memory:", "sqlite:a?mode=memory"] {
            assert_eq!(refused(url), UrlError::Memory, "{url}");
        }
        for url in ["sqlite:", "sqlite:file:a", "sqlite:a#b", "sqlite:a%00b", "sqlite:%ff"] {
            assert_eq!(refused(url), UrlError::File, "{url}");
        }
    }

    #[test]
    fn unknown_parameters_are_named_only_if_they_are_those_of_a_driver() {
        assert_eq!(refused("postgres://h/d?sslmode=require&sslpassword=x"), UrlError::Unsupported("sslpassword"));
        assert_eq!(refused("postgres://h/d?sslmode=require&secret=x"), UrlError::Unknown(2));
        assert_eq!(refused("sqlite:a?secret=x"), UrlError::Unknown(1));
        assert_eq!(refused("postgres://h1,h2/d"), UrlError::SeveralHosts);
        assert_eq!(refused("mysql://h/d"), UrlError::Scheme);
    }

    proptest! {
        #[test]
        fn reading_never_panics(rest in any::<String>(), query in any::<String>(), scheme in "(postgres|postgresql|sqlite):(//)?") {
            let _ = read(&rest);
            let _ = read(&format!("{scheme}{rest}?{query}"));
        }

        /// A password is either refused, or does not change what the other parts are.
        #[test]
        fn a_password_stays_in_its_part(password in any::<String>()) {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            for password in [encoded.to_string(), password] {
                if let Ok(Target::Postgres(options)) = read(&format!("postgres://user:{password}@host:7/db")) {
                    prop_assert_eq!((options.get_host(), options.get_port()), ("host", 7));
                    prop_assert_eq!((options.get_username(), options.get_database()), ("user", Some("db")));
                }
            }
        }
    }
}
