//! The API's description: `/openapi.json` for programs, `/docs` for people.

use std::sync::Arc;

use axum::{Json, Router, http::HeaderValue, http::header, routing::get};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// What the description says beyond the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "acs-token-vendor",
        description = "Vends Azure Communication Services access tokens to an app's users, and takes them back.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Security)
)]
pub(in crate::http) struct Documentation;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut openapi::OpenApi) {
        let login = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("The app user's own login: a JWT of a configured identity provider."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("login", SecurityScheme::Http(login));
        let key = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An operator's key, `atv_<name>_<random>`; `ops-key new` makes one."))
            .build();
        components.add_security_scheme("operatorKey", SecurityScheme::Http(key));
    }
}

/// Serves the description, and the page for people where wanted.
pub(in crate::http) fn router(openapi: openapi::OpenApi, page: bool) -> Router {
    let openapi = Arc::new(openapi);
    let document = Router::new().route("/openapi.json", get(async move || Json((*openapi).clone())));
    if !page {
        return document;
    }
    // The page runs its own scripts and calls this very service, and nothing else.
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
