#!/usr/bin/env bash
# Keeps the cost of a request from growing unnoticed: user-space instructions per request, counted
# by callgrind. Two runs of different length are compared, so that start-up, configuration and the
# pages touched first cancel out. The figure does not depend on the machine's load, which is why a
# build may fail over it.
#   instructions.sh [BINARY]        budget and tolerance: instructions.json beside this file
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=${1:-target/release/causeway}
short=500
long=2500
tolerance=3

for tool in valgrind h2load python3; do
  if ! command -v "$tool" >/dev/null; then
    if [ -n "${CI:-}" ]; then echo "FAIL $tool is needed"; exit 1; fi
    echo "skipped: $tool is not installed"
    exit 0
  fi
done

scratch=$(mktemp -d)
origin=
proxy=
cleanup() {
  if [ -n "$proxy" ]; then kill -KILL "$proxy" 2>/dev/null || true; fi
  if [ -n "$origin" ]; then kill "$origin" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap cleanup EXIT

# Free ports, asked of the kernel; held by nobody for the moment between here and their use.
read -r origin_port port < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))')

python3 "$here/origin.py" "$origin_port" &
origin=$!

cat >"$scratch/bootstrap.yaml" <<YAML
static_resources:
  listeners:
  - name: main
    address: { socket_address: { address: 127.0.0.1, port_value: $port } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                route: { cluster: origin }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 30s
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $origin_port } } }
YAML

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# run REQUESTS: serves so many under callgrind, and prints the instructions of the whole process.
run() {
  local requests=$1 tries=600
  valgrind --tool=callgrind --callgrind-out-file="$scratch/callgrind.$requests" \
    "$binary" -c "$scratch/bootstrap.yaml" --concurrency 1 -l error --drain-time-s 1 --disable-hot-restart \
    >"$scratch/proxy.$requests" 2>&1 &
  proxy=$!
  until answers "$port"; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ] || ! kill -0 "$proxy" 2>/dev/null; then
      cat "$scratch/proxy.$requests" >&2
      echo "FAIL the proxy did not start under valgrind" >&2
      return 1
    fi
    sleep 0.2
  done
  h2load --h1 -t1 -c16 -n"$requests" "http://127.0.0.1:$port/" >"$scratch/load.$requests" 2>&1
  kill -TERM "$proxy"
  wait "$proxy" 2>/dev/null || true
  proxy=
  if ! grep -q " $requests succeeded" "$scratch/load.$requests"; then
    grep -E '^(requests|status)' "$scratch/load.$requests" >&2 || cat "$scratch/load.$requests" >&2
    echo "FAIL not every request succeeded" >&2
    return 1
  fi
  awk '/^(summary|totals):/ {n = $2} END {print n + 0}' "$scratch/callgrind.$requests"
}

until answers "$origin_port"; do sleep 0.1; done
run "$short" >"$scratch/short"
run "$long" >"$scratch/long"

python3 - "$here/instructions.json" "$(cat "$scratch/short")" "$(cat "$scratch/long")" $((long - short)) "$tolerance" <<'PY'
import json, sys

path, short, long, requests, tolerance = sys.argv[1], *map(int, sys.argv[2:])
if not 0 < short < long:
    sys.exit(f"FAIL callgrind counted {short} and {long} instructions: no run to compare")
figure = (long - short) // requests
budget = json.load(open(path)).get("http1", 0)
print(f"http1: {figure} user instructions per request, budget {budget or 'not set'}")
if not budget:
    print(f"set {{\"http1\": {figure}}} in {path}")
elif figure > budget * (100 + tolerance) / 100:
    sys.exit(f"FAIL http1: {100 * figure / budget - 100:.1f} % over its budget, {tolerance} % allowed")
elif figure < budget * (100 - tolerance) / 100:
    print(f"the budget can be lowered from {budget} to {figure}")
PY
