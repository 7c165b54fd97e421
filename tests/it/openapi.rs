//! `openapi.yaml` is what the code says; `cargo run -- openapi > openapi.yaml` writes it anew.

use crate::support::{Answer, Database, TestApp};

#[test]
fn the_file_is_what_the_code_says() {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.yaml")).unwrap();
    let code = acs_token_vendor::http::openapi().to_yaml().unwrap();
    assert!(file == code, "openapi.yaml is out of date: cargo run -- openapi > openapi.yaml");
}

#[tokio::test]
async fn the_service_tells_the_same() {
    let app = TestApp::start(&Database::sqlite()).await;
    let answer = Answer::of(app.http.get(format!("{}/openapi.json", app.url)).send().await.unwrap()).await;
    assert_eq!(answer.json(), serde_json::to_value(acs_token_vendor::http::openapi()).unwrap());
}

#[test]
fn every_problem_of_an_operation_has_the_problem_type() {
    let api = serde_json::to_value(acs_token_vendor::http::openapi()).unwrap();
    let mut seen = 0;
    for (path, operations) in api["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let is_problem = response["content"].get("application/problem+json").is_some();
                assert_eq!(is_problem, status.as_str() >= "400", "{method} {path} {status}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10);
}
