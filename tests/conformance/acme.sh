#!/usr/bin/env bash
# Certificates that the worker gets by itself, from Pebble on loopback.
#   acme.sh [BINARY]
# Ends with 75 when there is no Pebble (Debian package pebble).
set -euo pipefail
for program in pebble pebble-challtestsrv python3 openssl curl; do
  if ! command -v "$program" >/dev/null; then
    echo "skipped: $program is not installed"
    exit 75
  fi
done
exec python3 "$(dirname "$0")/acme.py" "${1:-target/release/causeway}"
