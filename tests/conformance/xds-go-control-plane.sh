#!/usr/bin/env bash
# The proxy beside a management server made of go-control-plane: snapshot and linear caches, SotW and
# delta; changes under load, the server killed and started again.
#   xds-go-control-plane.sh [BINARY]
# Environment:
#   PROXY           command to start the proxy with, {bootstrap} in it (default BINARY -c {bootstrap})
#   CACHE, MODE     of the server and of the protocol (default snapshot,linear and sotw,delta)
#   CAUSEWAY_CACHE  where the built server is kept (default causeway-conformance in the user's cache)
# Ends with 75 when the server cannot be built: it needs Go and, the first time, its modules.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
proxy=${PROXY:-$(realpath "${1:-$here/../../target/release/causeway}") -c {bootstrap\}}
cache=${CAUSEWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway-conformance}

command -v python3 >/dev/null || { echo "NOT RUN: python3 is not installed"; exit 75; }
command -v go >/dev/null || { echo "NOT RUN: Go is not installed"; exit 75; }
mkdir -p "$cache"
server=$cache/go-control-plane
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Compiling the messages takes half a minute once; Go's own cache makes it nothing afterwards.
if ! timeout 300 go build -C "$here/go-control-plane" -mod=readonly -buildvcs=false -o "$server" . >"$log" 2>&1; then
  echo "NOT RUN: the management server was not built"
  tail -5 "$log"
  exit 75
fi

export PYTHONDONTWRITEBYTECODE=1
# The limit only keeps a defect from stopping a pipeline for hours.
timeout --foreground 300 python3 "$here/xds_live.py" --proxy "$proxy" go --server "$server" \
  ${CACHE:+--cache "$CACHE"} ${MODE:+--mode "$MODE"}
