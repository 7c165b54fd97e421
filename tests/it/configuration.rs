//! Settings: all errors at once, each with its key; missing settings never loosen a restriction.

use std::collections::HashMap;

use acs_token_vendor::config;

use crate::support::process::run;

fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The minimum for a start, all by environment.
const MINIMUM: &[(&str, &str)] = &[
    ("COMMUNICATION_SERVICES_CONNECTION_STRING", "endpoint=https://r.communication.azure.com/;accesskey=c2VjcmV0"),
    ("VENDOR__ISSUERS__MAIN__ISSUER", "https://login.example.com"),
    ("VENDOR__ISSUERS__MAIN__AUDIENCE", "my-app"),
    ("VENDOR__ISSUERS__MAIN__POLICY__SCOPES", "chat,voip"),
];

fn with(more: &[(&str, &str)]) -> Result<config::Settings, config::Errors> {
    let mut variables = environment(MINIMUM);
    variables.extend(environment(more));
    config::load_from(None, variables)
}

fn keys(errors: &config::Errors) -> Vec<&str> {
    errors.0.iter().map(|error| error.key.as_str()).collect()
}

#[test]
fn the_example_file_is_good() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/vendor.example.toml");
    let connection = environment(&MINIMUM[..1]);
    config::load_from(Some(file.as_ref()), connection).unwrap();
}

#[test]
fn environment_alone_is_enough() {
    let settings = with(&[("DATABASE_URL", "postgres://localhost/vendor")]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.issuers.len(), 1);
    assert_eq!(settings.connection.endpoint.as_str(), "https://r.communication.azure.com");
    assert!(settings.server.cors_origins.0.is_empty());
    assert!(!settings.server.docs);
}

#[test]
fn missing_settings_are_refused_with_an_example() {
    let errors = config::load_from(None, HashMap::new()).unwrap_err();
    assert_eq!(keys(&errors), ["acs.connection_string", "issuers"]);
    assert!(errors.to_string().contains("[[issuers.main.policy]]"));
}

#[test]
fn all_errors_are_reported_together() {
    let toml = r#"
        [server]
        listen = "everywhere"
        cors_origins = ["https://app.example.com/", "*"]
        [log]
        filter = "a=b=c"
        [database]
        url = "mysql://x"
        [acs]
        connection_string = "endpoint=http://other.example;accesskey=c2VjcmV0"
        api_version = "latest"
        [tokens]
        lifetime = "30min"
        [issuers.Main]
        issuer = "http://login.example.com"
        audience = []
        policy = []
        [issuers.second]
        issuer = "https://login.example.com"
        audience = "a"
        algorithms = ["HS256"]
        [nonsense]
    "#;
    let errors = config::parse(toml).unwrap_err();
    let text = errors.to_string();
    for expected in [
        "nonsense: unknown section",
        "server.listen: `everywhere`",
        "server.cors_origins: `https://app.example.com/`",
        "server.cors_origins: `*`",
        "log.filter",
        "database.url",
        "acs.connection_string: the endpoint is plain http",
        "acs.api_version",
        "tokens.lifetime: the lifetime",
        "issuers.Main: an issuer key",
        "issuers.Main.issuer: must be https",
        "issuers.Main.audience",
        "[[issuers.Main.policy]]",
        "issuers.second.algorithms: each algorithm",
    ] {
        assert!(text.contains(expected), "no `{expected}` in:\n{text}");
    }
    assert!(!text.contains("c2VjcmV0"));
}

#[test]
fn unknown_members_are_refused() {
    for (name, expected) in [
        ("VENDOR__SERVER__LISTEM", "server.listem: unknown setting, expected one of listen, "),
        ("VENDOR__ISSUERS__MAIN__AUDIENCES", "issuers.main.audiences: unknown setting"),
        ("VENDOR__ISSUERS__MAIN__POLICY__SCOPE", "issuers.main.policy.scope: unknown setting"),
        ("VENDOR__SERVRE__LISTEN", "servre: unknown section"),
    ] {
        let text = with(&[(name, "x")]).unwrap_err().to_string();
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn variables_of_others_are_ignored() {
    with(&[
        ("VENDOR_PORT", "tcp://10.0.0.1:80"),
        ("SERVER__LISTEN", "x"),
        ("CONFIG", "x"),
        ("KUBERNETES_PORT_FILE", "x"),
    ])
    .unwrap();
}

#[test]
fn secrets_come_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("connection");
    std::fs::write(&path, "endpoint=https://r.communication.azure.com;accesskey=c2VjcmV0\n").unwrap();
    let path = path.to_str().unwrap();
    let mut variables = environment(&MINIMUM[1..]);
    variables.insert("COMMUNICATION_SERVICES_CONNECTION_STRING_FILE".into(), path.into());
    config::load_from(None, variables.clone()).unwrap();
    variables.insert("DATABASE_URL_FILE".into(), "/does/not/exist".into());
    let errors = config::load_from(None, variables).unwrap_err();
    assert_eq!(keys(&errors), ["DATABASE_URL_FILE"]);
}

#[test]
fn one_issuer_cannot_be_two() {
    let errors = with(&[
        ("VENDOR__ISSUERS__OTHER__ISSUER", "https://login.example.com"),
        ("VENDOR__ISSUERS__OTHER__AUDIENCE", "b"),
        ("VENDOR__ISSUERS__OTHER__POLICY__SCOPES", "chat"),
    ])
    .unwrap_err();
    assert_eq!(keys(&errors), ["issuers.other.issuer"]);
}

#[test]
fn errors_show_no_secret() {
    let unclosed = "[acs]\nconnection_string = \"endpoint=https://r.example;accesskey=c2VjcmV0";
    let text = config::parse(unclosed).unwrap_err().to_string();
    assert!(text.contains("line 2") && !text.contains("c2VjcmV0"), "{text}");
    for (name, value) in [
        ("VENDOR__ACS", "endpoint=https://r.example;accesskey=c2VjcmV0"),
        ("VENDOR__DATABASE", "postgres://u:c2VjcmV0@db/vendor"),
        ("VENDOR__SERVER__DOCS", "c2VjcmV0"),
        ("VENDOR__DATABASE__MAX_CONNECTIONS", "c2VjcmV0"),
    ] {
        let text = config::load_from(None, environment(&[(name, value)])).unwrap_err().to_string();
        assert!(!text.contains("c2VjcmV0"), "{name}: {text}");
    }
}

/// Settings of every type.
const SETTINGS: [&str; 46] = [
    "server.listen",
    "server.cors_origins",
    "server.trusted_proxies",
    "server.request_timeout",
    "server.header_timeout",
    "server.body_timeout",
    "server.idle_timeout",
    "server.max_connections",
    "server.max_in_flight",
    "server.docs",
    "admin.listen",
    "log.format",
    "log.filter",
    "database.url",
    "database.max_connections",
    "database.acquire_timeout",
    "acs.connection_string",
    "acs.second_access_key",
    "acs.api_version",
    "acs.timeout",
    "acs.max_call_age",
    "acs.allow_http",
    "quota.per",
    "quota.at_once",
    "quota.issue",
    "limits.user",
    "limits.user.requests",
    "limits.user.per",
    "tokens.lifetime",
    "tokens.timeout",
    "tokens.encryption_keys",
    "tokens.reuse_margin",
    "users.self_delete",
    "users.tombstone_ttl",
    "audit.retention",
    "worker.interval",
    "worker.at_once",
    "ops.listen",
    "ops.max_in_flight",
    "ops.keys.hook.roles",
    "auth.leeway",
    "issuers.main.jwks_url",
    "issuers.main.algorithms",
    "issuers.main.sign_in_time",
    "issuers.main.policy",
    "shutdown.drain",
];

/// A secret in the wrong place must not be shown, whatever type that place has. Only addresses, networks and origins that are
/// strings are quoted, because they are not secrets.
#[test]
fn errors_never_show_a_value_of_the_wrong_type() {
    const SECRET: &str = "c2VjcmV0";
    const QUOTED: [&str; 5] =
        ["server.listen", "admin.listen", "ops.listen", "server.cors_origins", "server.trusted_proxies"];
    let forms = [
        format!("\"{SECRET}\""),
        format!("[\"{SECRET}\"]"),
        format!("[[\"{SECRET}\"]]"),
        format!("[{{ x = \"{SECRET}\" }}]"),
        format!("{{ x = \"{SECRET}\" }}"),
        format!("{{ x = [\"{SECRET}\"] }}"),
    ];
    let mut refused = 0;
    for key in SETTINGS {
        for form in &forms {
            if QUOTED.contains(&key) && !form.contains('x') && !form.contains("[[") {
                continue;
            }
            if let Err(errors) = config::parse(&format!("{key} = {form}")) {
                let text = errors.to_string();
                assert!(!text.contains(SECRET), "{key} = {form}: {text}");
                let section = key.split('.').next().unwrap();
                refused += usize::from(errors.0.iter().any(|error| error.key.starts_with(section)));
            }
        }
    }
    // All but a few forms are of the wrong type; those that are not were accepted.
    assert!(refused > SETTINGS.len() * 4, "{refused}");
}

#[test]
fn messages_name_the_expected_and_the_found_type() {
    for (toml, expected) in [
        ("server.max_connections = \"many\"", "server.max_connections: expected an integer, found a string"),
        ("server.max_connections = -1", "server.max_connections: not a valid value, expected an integer"),
        ("server.docs = 3", "server.docs: expected a boolean, found an integer"),
        ("server.request_timeout = 3", "server.request_timeout: expected a duration, found an integer"),
        ("server.request_timeout = \"3 lightyears\"", "server.request_timeout: not a valid value, expected a duration"),
        ("log.format = \"xml\"", "log.format: expected one of text, json"),
        ("log = 3", "log: expected a table, found an integer"),
        ("server.cors_origins = 3", "server.cors_origins: expected a list of strings, or a string with commas"),
        (
            "limits.user = { requests = 0, per = \"1min\" }",
            "limits.user.requests: not a valid value, expected an integer greater",
        ),
        ("limits.user = { requests = 3 }", "limits.user.per: is missing"),
        ("issuers.main.audience = \"a\"", "issuers.main.issuer: is missing"),
        ("issuers.main = \"a\"", "issuers.main: expected a table, found a string"),
        ("issuers = \"a\"", "issuers: expected a table, found a string"),
        ("[server]\nlisten = \"a\"\nlisten = \"b\"", "VENDOR__CONFIG: line 3: duplicate key"),
    ] {
        let text = config::parse(toml).unwrap_err().to_string();
        assert!(text.contains(&format!("\n  {expected}")), "no `{expected}` in:\n{text}");
    }
}

#[test]
fn broken_toml_is_reported_by_line_and_not_shown() {
    let good =
        "[acs]\nconnection_string = \"endpoint=https://r.example;accesskey=c2VjcmV0\"\n[database]\nurl = \"x\"\n";
    for at in 0..good.len() {
        for broken in ["\"", "\n", "=", "[", "'", "\u{7}"] {
            let toml = format!("{}{broken}{}", &good[..at], &good[at..]);
            let text = config::parse(&toml).unwrap_err().to_string();
            assert!(!text.contains("c2VjcmV0"), "{toml}: {text}");
        }
    }
}

#[test]
fn environment_values_are_read_as_the_type_of_their_setting() {
    let settings = with(&[
        ("VENDOR__SERVER__MAX_CONNECTIONS", "5"),
        ("VENDOR__SERVER__DOCS", "true"),
        ("VENDOR__SERVER__CORS_ORIGINS", "https://a.example, https://b.example,"),
        ("VENDOR__ISSUERS__MAIN__AUDIENCE", "12"),
        ("VENDOR__LIMITS__USER__REQUESTS", "7"),
        ("VENDOR__LIMITS__USER__PER", "1min"),
        ("VENDOR__CONFIG", "server.max_connections = 9\nserver.max_in_flight = 9"),
    ])
    .unwrap();
    assert_eq!((settings.server.max_connections, settings.server.max_in_flight, settings.server.docs), (5, 9, true));
    assert_eq!(settings.server.cors_origins.0, ["https://a.example", "https://b.example"]);
    assert_eq!(settings.issuers[0].1.audience.0, ["12"]);
    assert_eq!(settings.limits.user.requests.get(), 7);
}

#[test]
fn settings_show_no_secret() {
    let shown = format!("{:?}", with(&[("DATABASE_URL", "postgres://u:hunter2@localhost/vendor")]).unwrap());
    assert!(!shown.contains("c2VjcmV0") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn encryption_keys_are_checked_at_the_start() {
    let good = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    assert!(with(&[]).unwrap().tokens.encryption_keys.is_empty());
    assert!(!with(&[("VENDOR__TOKENS__ENCRYPTION_KEYS", good)]).unwrap().tokens.encryption_keys.is_empty());
    with(&[("VENDOR__TOKENS__ENCRYPTION_KEYS", &format!("{good},{good}"))]).unwrap();
    for bad in ["", "c2hvcnQ=", "not base64", &format!("{good},c2hvcnQ=")] {
        let text = with(&[("VENDOR__TOKENS__ENCRYPTION_KEYS", bad)]).unwrap_err().to_string();
        assert!(text.contains("tokens.encryption_keys: ") && text.contains("encryption key"), "{bad}: {text}");
        assert!(!text.contains("c2hvcnQ="), "{text}");
    }
    for (margin, good) in [("14min", false), ("15min", true), ("59min", true), ("60min", false)] {
        assert_eq!(with(&[("VENDOR__TOKENS__REUSE_MARGIN", margin)]).is_ok(), good, "{margin}");
    }
    let text = with(&[("VENDOR__ACS__SECOND_ACCESS_KEY", "no base64!")]).unwrap_err().to_string();
    assert!(text.contains("acs.second_access_key: the key is not base64"), "{text}");
}

#[test]
fn connections_must_exceed_the_reserved_ones() {
    for (most, good) in [("0", false), ("2", false), ("3", true), ("100", true)] {
        let errors = with(&[("VENDOR__DATABASE__MAX_CONNECTIONS", most)]);
        assert_eq!(errors.as_ref().map_err(keys).err(), (!good).then(|| vec!["database.max_connections"]), "{most}");
    }
}

/// A password that is not percent-encoded can end up in any part of a URL, and drivers log what they do not know.
#[test]
fn no_part_of_a_database_password_is_shown() {
    const SECRETS: [&str; 2] = ["sesame", "hunter"];
    let server = config::environment().get("TEST_POSTGRES_URL").cloned();
    let address = server.as_deref().and_then(|url| url.rsplit_once('@')).map_or("127.0.0.1:1/vendor", |(_, rest)| rest);
    let refused = ["@", "/", "#", "?", ":", "%", "%4", "[", " ", "&/", "?a=", "1/", "\\"]
        .map(|part| format!("postgres://vendor:sesame{part}hunter@{address}"))
        .into_iter()
        .chain(["1/hunter", "1?a=hunter", "1#hunter"].map(|part| format!("postgres://sesame:{part}@{address}")))
        .chain(
            [
                "password=sesame&hunter",
                "password=sesame&hunter=1",
                "sslpassword=sesame",
                "sslmode=sesame",
                "port=sesame",
                "hunter=sesame",
                "target_session_attrs=sesame",
                "password=sesame#hunter",
            ]
            .map(|query| format!("postgres://vendor@{address}?{query}")),
        )
        .chain(
            ["sqlite:vendor.db?key=sesame", "sqlite:vendor.db?hunter", "sqlite:sesame#", "mysql://sesame:hunter@db"]
                .map(Into::into),
        );
    let accepted = ["sesame%40hunter", "sesame%2Fhunter%25", "sesame!hunter"]
        .map(|password| format!("postgres://vendor:{password}@{address}"))
        .into_iter()
        .chain([format!("postgres://vendor@{address}?password=sesame%26hunter")]);
    let command = |name: &str, url: &str| {
        let mut variables = MINIMUM.to_vec();
        variables.push(("DATABASE_URL", url));
        variables.push(("VENDOR__DATABASE__ACQUIRE_TIMEOUT", "1s"));
        variables.push(("VENDOR__LOG__FILTER", "trace"));
        variables.push(("HOME", "/does/not/exist"));
        let (is_good, out, err) = run(&[name], &variables);
        for secret in SECRETS {
            assert!(!out.contains(secret) && !err.contains(secret), "{name} {url} shows a secret:\n{out}\n{err}");
        }
        (is_good, err)
    };
    for url in refused {
        let (is_good, text) = command("check-config", &url);
        assert!(!is_good && text.contains("\n  database.url: "), "{url}: {text}");
        assert_eq!(command("serve", &url), (false, text), "{url}");
    }
    for url in accepted {
        let (is_good, text) = command("check-config", &url);
        assert!(is_good, "{url}: {text}");
        command("migrate", &url);
    }
}
