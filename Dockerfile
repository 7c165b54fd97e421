# syntax=docker/dockerfile:1
# The default target is the service for production. `--target dev` also has the commands `dev`, `emulator` and `dev-issuer`.
FROM rust:1.95-bookworm AS source
WORKDIR /src
COPY . .

FROM source AS build
RUN cargo build --release --locked --no-default-features --bin acs-token-vendor

FROM source AS build-dev
RUN cargo build --release --locked --bin acs-token-vendor

FROM debian:bookworm-slim AS runtime
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home vendor \
 && install -d -o vendor /data
USER vendor
# The SQLite file is here if DATABASE_URL is not set: mount a volume.
WORKDIR /data
ENV VENDOR__SERVER__LISTEN=0.0.0.0:8080 \
    VENDOR__ADMIN__LISTEN=0.0.0.0:9090 \
    VENDOR__LOG__FORMAT=json
EXPOSE 8080 9090
ENTRYPOINT ["acs-token-vendor"]

FROM runtime AS dev
COPY --from=build-dev /src/target/release/acs-token-vendor /usr/local/bin/acs-token-vendor

FROM runtime AS production
COPY --from=build /src/target/release/acs-token-vendor /usr/local/bin/acs-token-vendor
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["acs-token-vendor", "healthcheck"]
CMD ["serve"]
