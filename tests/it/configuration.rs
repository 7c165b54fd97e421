//! Settings: all faults at once, each with its key; nothing is guessed and nothing tight is loosened by leaving it out.

use std::collections::HashMap;

use acs_token_vendor::config;

fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The least that a start needs, all by environment.
const LEAST: &[(&str, &str)] = &[
    ("COMMUNICATION_SERVICES_CONNECTION_STRING", "endpoint=https://r.communication.azure.com/;accesskey=c2VjcmV0"),
    ("VENDOR__ISSUERS__MAIN__ISSUER", "https://login.example.com"),
    ("VENDOR__ISSUERS__MAIN__AUDIENCE", "my-app"),
    ("VENDOR__ISSUERS__MAIN__POLICY__SCOPES", "chat,voip"),
];

fn with(more: &[(&str, &str)]) -> Result<config::Settings, config::Faults> {
    let mut variables = environment(LEAST);
    variables.extend(environment(more));
    config::load_from(None, variables)
}

fn keys(faults: &config::Faults) -> Vec<&str> {
    faults.0.iter().map(|fault| fault.key.as_str()).collect()
}

#[test]
fn the_example_file_is_good() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/vendor.example.toml");
    let connection = environment(&LEAST[..1]);
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
fn nothing_set_is_refused_with_what_to_add() {
    let faults = config::load_from(None, HashMap::new()).unwrap_err();
    assert_eq!(keys(&faults), ["acs.connection_string", "issuers"]);
    assert!(faults.to_string().contains("[[issuers.main.policy]]"));
}

#[test]
fn all_faults_are_told_together() {
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
    let faults = config::parse(toml).unwrap_err();
    let told = faults.to_string();
    for expected in [
        "nonsense: unknown section",
        "server.listen: `everywhere`",
        "server.cors_origins: `https://app.example.com/`",
        "server.cors_origins: `*`",
        "log.filter",
        "database.url",
        "acs.connection_string: the endpoint is plain http",
        "acs.api_version",
        "tokens: ",
        "issuers.Main: an issuer key",
        "issuers.Main.issuer: must be https",
        "issuers.Main.audience",
        "[[issuers.Main.policy]]",
        "issuers.second: `HS256`",
    ] {
        assert!(told.contains(expected), "no `{expected}` in:\n{told}");
    }
    assert!(!told.contains("c2VjcmV0"));
}

#[test]
fn unknown_members_are_refused() {
    for (name, expected) in [
        ("VENDOR__SERVER__LISTEM", "server: "),
        ("VENDOR__ISSUERS__MAIN__AUDIENCES", "issuers.main: "),
        ("VENDOR__ISSUERS__MAIN__POLICY__SCOPE", "issuers.main: "),
        ("VENDOR__SERVRE__LISTEN", "servre: "),
    ] {
        let told = with(&[(name, "x")]).unwrap_err().to_string();
        assert!(told.contains(expected), "{name}: {told}");
    }
}

#[test]
fn variables_of_others_do_no_harm() {
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
    let mut variables = environment(&LEAST[1..]);
    variables.insert("COMMUNICATION_SERVICES_CONNECTION_STRING_FILE".into(), path.into());
    config::load_from(None, variables.clone()).unwrap();
    variables.insert("DATABASE_URL_FILE".into(), "/does/not/exist".into());
    let faults = config::load_from(None, variables).unwrap_err();
    assert_eq!(keys(&faults), ["DATABASE_URL_FILE"]);
}

#[test]
fn one_issuer_cannot_be_two() {
    let faults = with(&[
        ("VENDOR__ISSUERS__OTHER__ISSUER", "https://login.example.com"),
        ("VENDOR__ISSUERS__OTHER__AUDIENCE", "b"),
        ("VENDOR__ISSUERS__OTHER__POLICY__SCOPES", "chat"),
    ])
    .unwrap_err();
    assert_eq!(keys(&faults), ["issuers.other.issuer"]);
}

#[test]
fn faults_show_no_secret() {
    let unclosed = "[acs]\nconnection_string = \"endpoint=https://r.example;accesskey=c2VjcmV0";
    let told = config::parse(unclosed).unwrap_err().to_string();
    assert!(told.contains("line 2") && !told.contains("c2VjcmV0"), "{told}");
    for (name, value) in [
        ("VENDOR__ACS", "endpoint=https://r.example;accesskey=c2VjcmV0"),
        ("VENDOR__DATABASE", "postgres://u:c2VjcmV0@db/vendor"),
        ("VENDOR__SERVER__DOCS", "c2VjcmV0"),
        ("VENDOR__DATABASE__MAX_CONNECTIONS", "c2VjcmV0"),
    ] {
        let told = config::load_from(None, environment(&[(name, value)])).unwrap_err().to_string();
        assert!(!told.contains("c2VjcmV0"), "{name}: {told}");
    }
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
        let told = with(&[("VENDOR__TOKENS__ENCRYPTION_KEYS", bad)]).unwrap_err().to_string();
        assert!(told.contains("tokens: ") && told.contains("encryption key"), "{bad}: {told}");
        assert!(!told.contains("c2hvcnQ="), "{told}");
    }
    for (margin, good) in [("14min", false), ("15min", true), ("59min", true), ("60min", false)] {
        assert_eq!(with(&[("VENDOR__TOKENS__REUSE_MARGIN", margin)]).is_ok(), good, "{margin}");
    }
    let told = with(&[("VENDOR__ACS__SECOND_ACCESS_KEY", "no base64!")]).unwrap_err().to_string();
    assert!(told.contains("acs.second_access_key: the key is not base64"), "{told}");
}

#[test]
fn connections_must_be_more_than_those_that_are_kept() {
    for (most, good) in [("0", false), ("4", false), ("5", true), ("100", true)] {
        let faults = with(&[("VENDOR__DATABASE__MAX_CONNECTIONS", most)]);
        assert_eq!(faults.as_ref().map_err(keys).err(), (!good).then(|| vec!["database.max_connections"]), "{most}");
    }
}
