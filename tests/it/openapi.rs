//! `openapi.yaml` is generated from the code: `cargo run -- openapi > openapi.yaml`.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{Answer, Database, TestApp, ops::key};

fn api() -> Value {
    serde_json::to_value(acs_token_vendor::http::openapi()).unwrap()
}

/// The operations of the API: path, method, description.
fn operations(api: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = api["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap();
            methods.iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

#[test]
fn the_file_is_up_to_date() {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml")).unwrap();
    let code = acs_token_vendor::http::openapi().to_yaml().unwrap();
    assert!(file == code, "openapi.yaml is out of date: cargo run -- openapi > openapi.yaml");
}

#[tokio::test]
async fn the_service_returns_the_same_description() {
    let app = TestApp::start(&Database::sqlite()).await;
    let answer = Answer::of(app.http.get(format!("{}/openapi.json", app.url)).send().await.unwrap()).await;
    assert_eq!(answer.json(), api());
}

#[test]
fn every_reference_resolves() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let api = api();
    let mut found = Vec::new();
    references(&api, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} is not local"));
        assert!(api.pointer(pointer).is_some(), "{reference} does not resolve");
    }
}

#[test]
fn every_operation_has_the_problem_responses_and_a_declared_tag_and_scheme() {
    let api = api();
    for (range, name) in [("4XX", "Refused"), ("5XX", "Failed")] {
        let content = &api["components"]["responses"][name]["content"]["application/problem+json"];
        assert_eq!(content["schema"]["$ref"], "#/components/schemas/ProblemDocument");
        for (path, method, operation) in operations(&api) {
            let reference = &operation["responses"][range]["$ref"];
            assert_eq!(*reference, format!("#/components/responses/{name}"), "{method} {path}");
        }
    }
    let tags: Vec<_> = api["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, method, operation) in operations(&api) {
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}");
        let scheme = operation["security"][0].as_object().unwrap().keys().next().unwrap();
        assert!(api["components"]["securitySchemes"].get(scheme).is_some(), "{method} {path}");
    }
}

/// Derived implementations of `Deserialize` also take an array for a struct.
#[tokio::test]
async fn no_route_takes_an_array_for_its_body() {
    let app = TestApp::start(&Database::sqlite()).await;
    let api = api();
    let mut routes = 0;
    for (path, method, operation) in operations(&api) {
        let Some(content) = operation["requestBody"]["content"].as_object() else { continue };
        let media_type = content.keys().next().unwrap();
        let is_for_users = operation["security"][0].get("signInToken").is_some();
        let credential = if is_for_users { app.issuer.sign_in("alice") } else { key("operator") };
        let method: Method = method.to_uppercase().parse().unwrap();
        for body in [json!([]), json!([null]), json!([["chat"]]), json!([["test:a"], true]), json!(["a", "b", "c"])] {
            let url = format!("{}{}", app.url, path.replace("{user}", "test:a"));
            let request = app.http.request(method.clone(), url).bearer_auth(&credential);
            let request = request.header(header::CONTENT_TYPE, media_type).body(body.to_string());
            let answer = Answer::of(request.send().await.unwrap()).await;
            assert!(answer.text.contains("must be a JSON object"), "{method} {path} {body}: {answer:?}");
            if media_type == "application/json" {
                answer.assert_problem(400, "invalid_request");
            }
        }
        routes += 1;
    }
    assert!(routes >= 11, "{routes}");
    assert_eq!(app.database.count("SELECT COUNT(*) FROM users").await, 0);
}
