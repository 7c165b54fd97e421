//! The API's description: `/openapi.json` for programs, `/docs` for people.

use std::{fmt::Write, sync::Arc};

use axum::{
    Json, Router,
    http::{HeaderValue, header},
    routing::get,
};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, Content, HeaderBuilder, Ref, RefOr, ResponseBuilder,
        path::{Operation, PathItem},
        schema::{ObjectBuilder, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{api::ProblemDocument, domain::audit::Action, http::problem::Code};

/// The description of the API except for its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "acs-token-vendor",
        description = "A token-exchange service: verifies the sign-in tokens of an app's users, returns Azure Communication Services access tokens, and revokes them.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "The address of this description")),
    tags(
        (name = "For app users", description = "With the sign-in token of an app user."),
        (name = "For operators and backends", description = "With an operator's key."),
    ),
    components(schemas(Action, ProblemDocument)),
    modifiers(&Security)
)]
pub(in crate::http) struct Documentation;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let sign_in_token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("The sign-in token of an app user: a JWT of a configured identity provider."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("signInToken", SecurityScheme::Http(sign_in_token));
        let key = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An operator's key, `atv_<name>_<random>`; `ops-key new` creates one."))
            .build();
        components.add_security_scheme("operatorKey", SecurityScheme::Http(key));
    }
}

/// Adds the problem responses, which every operation has in common.
pub(in crate::http) fn add_problems(api: &mut openapi::OpenApi) {
    let components = api.components.get_or_insert_default();
    for (range, name, summary) in [
        ("4XX", "Refused", "The request was refused."),
        ("5XX", "Failed", "The request failed; with `Retry-After` for 503."),
    ] {
        let mut description = format!("{summary} The member `code` is one of:\n");
        for (status, code, title) in Code::ALL.iter().map(|code| code.describe()) {
            if status.as_str().starts_with(&range[..1]) {
                // Writing to a string does not fail.
                let _ = write!(description, "\n* `{code}` ({}): {title}", status.as_u16());
            }
        }
        let problem = Content::new(Some(Ref::from_schema_name("ProblemDocument")));
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", problem)
            .header("Retry-After", seconds("When to try again, in seconds; with 429 and 503."))
            .build();
        components.responses.insert(name.to_owned(), response.into());
        for operation in api.paths.paths.values_mut().flat_map(operations) {
            let responses = &mut operation.responses.responses;
            responses.insert(range.to_owned(), RefOr::Ref(Ref::from_response_name(name)));
        }
    }
}

fn seconds(description: &str) -> openapi::Header {
    let integer = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
    HeaderBuilder::new().schema(Some(integer)).description(Some(description)).build()
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, .. } = path;
    [get, put, post, delete].into_iter().flatten()
}

/// Serves the description, and the page for people where the settings want it.
pub(in crate::http) fn router(openapi: openapi::OpenApi, has_page: bool) -> Router {
    let openapi = Arc::new(openapi);
    let document = Router::new().route("/openapi.json", get(async move || Json((*openapi).clone())));
    if !has_page {
        return document;
    }
    // The page runs its own scripts and calls this service only.
    const POLICY: &str =
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'";
    let page: Router = SwaggerUi::new("/docs").config(Config::from("/openapi.json")).into();
    document.merge(
        page.layer(SetResponseHeaderLayer::overriding(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        )),
    )
}
