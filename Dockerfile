# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin acs-token-vendor

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home vendor \
 && install -d -o vendor /data
COPY --from=build /src/target/release/acs-token-vendor /usr/local/bin/acs-token-vendor
USER vendor
# Where the SQLite file lies when there is no DATABASE_URL: mount a volume here.
WORKDIR /data
ENV VENDOR__SERVER__LISTEN=0.0.0.0:8080 \
    VENDOR__ADMIN__LISTEN=0.0.0.0:9090 \
    VENDOR__LOG__FORMAT=json
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["acs-token-vendor", "healthcheck"]
ENTRYPOINT ["acs-token-vendor"]
CMD ["serve"]
