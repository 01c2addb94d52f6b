#!/usr/bin/env bash
# The external xDS kit: protocol scenarios compared with Envoy's traces, traffic beside a failing
# management server, and configurations of real ones.
#   xds-kit.sh [BINARY]
# Environment:
#   KITS_DIR        folder of the conformance kits (default ../shared/kits beside the repository)
#   PROXY           command to start the proxy with, {bootstrap} in it
#                   (default BINARY -c {bootstrap} --concurrency 1)
#   ONLY            of scenario,control,replay (default all)
#   MODE            of sotw,delta (default both)
#   LIMIT           configurations to replay, an even sample (default 60; 0 for all, which takes long)
#   OUT             folder for traces and logs (default one of its own, which is named at the end)
# Ends with 75 when the kit is not there or cannot be set up. Replaying needs root for a network
# namespace; without it that section is left out, which is told.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kits=${KITS_DIR:-$here/../../../shared/kits}
proxy=${PROXY:-$(realpath "${1:-$here/../../target/release/causeway}") -c {bootstrap\} --concurrency 1}
only=${ONLY:-scenario,control,replay}

[ -e "$kits/xds/scenario.py" ] || { echo "NOT RUN: the kits are not there"; exit 75; }
kits=$(realpath "$kits")
if [ -z "${KITS_PYTHON:-}" ]; then
  # Only assignments are taken from its output.
  while IFS= read -r line; do
    name=${line#export }
    name=${name%%=*}
    [ -n "${!name:-}" ] || export "${line#export }"
  done < <("$kits/setup.sh" | grep -E '^export [A-Z_]+=')
fi
[ -x "${KITS_PYTHON:-}" ] || { echo "NOT RUN: the kits were not set up"; exit 75; }
if [[ ",$only," == *,replay,* ]] && ! unshare -n true 2>/dev/null; then
  echo "skipped: replay, which needs a network namespace"
  only=$(echo ",$only," | sed 's/,replay,/,/; s/^,//; s/,$//')
fi

export PYTHONDONTWRITEBYTECODE=1
if [ -z "$only" ]; then exit 0; fi
exec "$KITS_PYTHON" "$here/xds_kit.py" --kits "$kits" --python "$KITS_PYTHON" --proxy "$proxy" --only "$only" \
  --mode "${MODE:-sotw,delta}" --limit "${LIMIT:-60}" ${OUT:+--out "$OUT"}
