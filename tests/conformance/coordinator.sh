#!/usr/bin/env bash
# The worker beside the real, unmodified Coordinator: launches, restarts of everything, lost events,
# routes, marks of use, and taking over from the Python worker and back.
#   coordinator.sh [BINARY] [VERSION]     VERSION of Backend.AI, by default 26.9.6; 25.19.2 also works
# Environment:
#   KITS_DIR        folder of the conformance kits (default ../shared/kits beside the repository)
#   REAL_HOME       use this installation of the kit, with REAL_VERSION and REAL_BASE_PORT, and leave it;
#                   else one is made (packages by apt as root, Python and PyPI by itself) and removed
#   ONLY            scenarios to run, with commas (`coordinator.py --list` names them; default all but jupyter)
#   VERBOSE         1 prints every check
# Ends with 75 when the Coordinator itself cannot be brought up (its packages are downloads).
set -euo pipefail
started=$SECONDS
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/causeway}")
kit=$(realpath "${KITS_DIR:-$here/../../../shared/kits}/coordinator")
[ -x "$binary" ] || { echo "FAIL no binary $binary"; exit 1; }

own= up=
if [ -z "${REAL_HOME:-}" ]; then
  if [ "$(id -u)" -ne 0 ] && ! ls -d /usr/lib/postgresql/*/bin >/dev/null 2>&1; then
    echo "skipped: PostgreSQL is not installed, and only root can install it"
    exit 0
  fi
  own=1
  # PostgreSQL runs under an account of its own, which must be able to pass through.
  REAL_HOME=$(mktemp -d /tmp/causeway-coordinator.XXXXXX)
  chmod 711 "$REAL_HOME"
  export REAL_VERSION=${2:-26.9.6}
else
  [ ! -e "$REAL_HOME/env" ] || . "$REAL_HOME/env"
  export REAL_VERSION=${2:-${REAL_VERSION:-26.9.6}}
fi
export REAL_HOME
# A hundred free ports in a row, below those that the system gives to connections.
export REAL_BASE_PORT=${REAL_BASE_PORT:-$(python3 -c '
import random, socket
def free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
bases = list(range(12000, 32000, 100))
random.shuffle(bases)
print(next(b for b in bases if all(free(b + i) for i in range(100))))')}

cleanup() {
  local status=$?
  if [ -n "$own" ]; then
    "$kit/down.sh" --purge 2>/dev/null || true
  elif [ -n "$up" ]; then
    "$kit/down.sh" 2>/dev/null || true
  fi
  echo "$REAL_VERSION: $((SECONDS - started)) s in all"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

running() { bash -c '. "$1/lib.sh"; alive coordinator' - "$kit"; }
if ! running; then up=1; fi
# Once more if it fails: most of its work is downloads.
if ! "$kit/up.sh" >/dev/null && ! { sleep 5; "$kit/up.sh" >/dev/null; }; then
  echo "NOT RUN: the Coordinator $REAL_VERSION did not come up"
  for log in pip py apt coordinator; do
    if [ -s "$REAL_HOME/run/$log.log" ]; then echo "--- $log.log"; tail -5 "$REAL_HOME/run/$log.log"; fi
  done
  # Of its own kind: it says nothing about the worker.
  exit 75
fi
echo "Coordinator $REAL_VERSION up after $((SECONDS - started)) s"

# The limit only keeps a defect from stopping a pipeline for hours.
timeout --foreground 400 python3 "$here/coordinator.py" --kit "$kit" --binary "$binary" \
  ${ONLY:+--only "$ONLY"} ${VERBOSE:+--verbose}
