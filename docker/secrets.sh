#!/bin/sh
# Makes what compose.yml needs: .env and secrets/. What is there already is never changed.
set -eu
cd "$(dirname "$0")"
umask 077

random() {
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

# The folder is closed to others on this machine; its files are open, since the containers' users are not its owner.
secret() {
    [ -e "secrets/$1" ] && return
    printf '%s\n' "$2" > "secrets/$1.partial"
    chmod 644 "secrets/$1.partial"
    mv "secrets/$1.partial" "secrets/$1"
}

[ -e .env ] || cp .env.example .env
mkdir -p secrets
secret api_key "$(random)"
secret secret_key "$(random)"
secret postgres_password "$(random)"
secret database_url "postgresql://wanapi:$(cat secrets/postgres_password)@postgres:5432/wanapi"
secret aws_credentials "[default]
aws_access_key_id = wanapi
aws_secret_access_key = $(random)"

case ",$(sed -n 's/^COMPOSE_PROFILES=//p' .env)," in
*,cpu-simulator,*)
    echo "docker/.env is of an older release: move it away, run this again, and set what you had changed." >&2
    exit 1
    ;;
esac
