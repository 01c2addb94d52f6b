#!/usr/bin/env bash
# JupyterLab launched by the real Coordinator and used by a real browser: from the Coordinator's link over
# /setup and the permit cookie into the lab, then a cell, files and a terminal; by port and by subdomain.
#   jupyter-coordinator.sh [BINARY] [VERSION...]     default: 26.9.6 and 25.19.2
# Environment: that of coordinator.sh (with REAL_HOME only its version), and of jupyter.sh
# (JUPYTER, NODE_PATH, CHROME).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-$here/../../target/release/causeway}
shift || true
kits=${KITS_DIR:-$here/../../../shared/kits}

if [ -z "${JUPYTER:-}" ] || [ -z "${NODE_PATH:-}" ]; then
  # Only assignments are taken from its output.
  while IFS= read -r line; do
    name=${line#export }
    name=${name%%=*}
    [ -n "${!name:-}" ] || export "${line#export }"
  done < <("$kits/setup.sh" --apps | grep -E '^export [A-Z_]+=')
fi

if [ $# -eq 0 ]; then
  if [ -n "${REAL_HOME:-}" ]; then set -- ""; else set -- 26.9.6 25.19.2; fi
fi
failed=0
for version in "$@"; do
  ONLY=jupyter VERBOSE=1 "$here/coordinator.sh" "$binary" ${version:+"$version"} || failed=1
done
exit "$failed"
