#!/usr/bin/env bash
# The proxy beside sovereign, a management server that is polled with REST-JSON and nothing else.
#   xds-sovereign.sh [BINARY]
# Environment:
#   PROXY           command to start the proxy with, {bootstrap} in it (default BINARY -c {bootstrap})
#   CAUSEWAY_CACHE  where sovereign is installed (default causeway-conformance in the user's cache)
# Ends with 75 when sovereign cannot be installed (from PyPI, the first time) or does not start.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
proxy=${PROXY:-$(realpath "${1:-$here/../../target/release/causeway}") -c {bootstrap\}}
cache=${CAUSEWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway-conformance}
want=(sovereign==0.32.12)

command -v python3 >/dev/null || { echo "NOT RUN: python3 is not installed"; exit 75; }
mkdir -p "$cache"
venv=$cache/sovereign
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "${want[*]}" ]; then
  rm -rf "$venv"
  if ! { python3 -m venv "$venv" && timeout 180 "$venv/bin/pip" install -q --disable-pip-version-check "${want[@]}"; } >"$cache/sovereign.log" 2>&1; then
    echo "NOT RUN: sovereign was not installed"
    tail -5 "$cache/sovereign.log"
    exit 75
  fi
  printf '%s' "${want[*]}" >"$venv/.installed"
fi

export PYTHONDONTWRITEBYTECODE=1
timeout --foreground 200 python3 "$here/xds_live.py" --proxy "$proxy" sovereign --python "$venv/bin/python"
