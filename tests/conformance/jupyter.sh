#!/usr/bin/env bash
# JupyterLab as a session service: pushed as two circuits through the management port, used by a
# real browser on its port and on its subdomain, then left alone with an open kernel socket.
#   jupyter.sh [BINARY]
# Environment, most of it as the kits' `setup.sh --apps` prints it (asked for when missing):
#   KITS_DIR      folder of the conformance kits   (default ../shared/kits)
#   JUPYTER       the jupyter executable
#   KITS_PYTHON   a Python that has `websockets`
#   NODE_PATH     holds playwright-core
#   CHROME        the browser                      (default /usr/bin/chromium)
#   IDLE          seconds of silence on the kernel socket (default 300)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/causeway}")
kits=${KITS_DIR:-$here/../../../shared/kits}
idle=${IDLE:-300}

if [ -z "${JUPYTER:-}" ] || [ -z "${KITS_PYTHON:-}" ] || [ -z "${NODE_PATH:-}" ]; then
  # Only assignments are taken from its output.
  while IFS= read -r line; do
    name=${line#export }
    name=${name%%=*}
    [ -n "${!name:-}" ] || export "${line#export }"
  done < <("$kits/setup.sh" --apps | grep -E '^export [A-Z_]+=')
fi

scratch=$(mktemp -d)
jupyter=
proxy=
cleanup() {
  for process in "$proxy" "$jupyter"; do
    if [ -n "$process" ]; then kill "$process" 2>/dev/null || true; fi
  done
  for process in "$proxy" "$jupyter"; do
    if [ -n "$process" ]; then wait "$process" 2>/dev/null || true; fi
  done
  rm -rf "$scratch"
}
trap cleanup EXIT

read -r lab management port wildcard path api < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
print(*(s.getsockname()[1] for s in held))')
token=jupyter-check

# --- the one place that knows how the worker is configured ---------------------------------------
configure() {
  cat >"$scratch/worker.toml" <<TOML
[proxy_worker]
authority = "jupyter-check"
frontend_mode = "port"
protocol = "http"
accepted_traffics = ["interactive"]
api_bind_addr = { host = "127.0.0.1", port = $api }

[proxy_worker.port_proxy]
bind_host = "127.0.0.1"
bind_port_range = [$port, $port]

[proxy_worker.wildcard_domain]
domain = ".localhost"
bind_addr = { host = "127.0.0.1", port = $wildcard }

[secrets]
api_secret = "$token"
jwt_secret = "unused-here"

[permit_hash]
secret = "unused-here"

[causeway]
management = "127.0.0.1:$management"
path_frontend = "127.0.0.1:$path"
TOML
}
serve() { exec "$binary" serve -f "$scratch/worker.toml"; }
# -------------------------------------------------------------------------------------------------

# circuit ID MODE KEY: the Circuit that announces the lab in one mode.
circuit() {
  cat <<JSON
{
  "id": "$1",
  "app": "jupyterlab",
  "protocol": "http",
  "worker": "00000000-0000-4000-8000-000000000001",
  "app_mode": "interactive",
  "frontend_mode": "$2",
  "envs": {},
  "arguments": null,
  "open_to_public": true,
  "allowed_client_ips": null,
  "port": $([ "$2" = port ] && echo "$3" || echo null),
  "subdomain": $([ "$2" = wildcard ] && echo "\"$3\"" || echo null),
  "user_id": "00000000-0000-4000-8000-000000000002",
  "endpoint_id": null,
  "runtime_variant": null,
  "route_info": [{
    "route_id": null,
    "session_id": "00000000-0000-4000-8000-000000000003",
    "session_name": "lab",
    "kernel_host": "127.0.0.1",
    "kernel_port": $lab,
    "protocol": "http",
    "traffic_ratio": 1.0
  }],
  "session_ids": ["00000000-0000-4000-8000-000000000003"],
  "created_at": "2026-01-01T00:00:00.000000Z",
  "updated_at": "2026-01-01T00:00:00.000000Z"
}
JSON
}

push() {
  local status
  status=$(circuit "$@" | curl -sS -o "$scratch/answer" -w '%{http_code}' --max-time 30 \
    -H "X-BackendAI-Token: $token" -H 'Content-Type: application/json' --data-binary @- \
    "http://127.0.0.1:$management/v1/circuits")
  case $status in
    2??) echo "PASS circuit pushed: $2 $3" ;;
    *) echo "FAIL circuit $2 $3: $status $(cat "$scratch/answer")"; return 1 ;;
  esac
}

# wait_for NAME PROCESS LOG URL
wait_for() {
  for _ in $(seq 400); do
    if curl -s -o /dev/null --max-time 2 "$4"; then return 0; fi
    if ! kill -0 "$2" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "FAIL $1 did not start"
  tail -20 "$3"
  return 1
}

mkdir "$scratch/notebooks"
# The server's own pings are off: with one every 30 s the socket would never be idle.
"$JUPYTER" lab --no-browser --allow-root --ip=127.0.0.1 --port="$lab" --ServerApp.port_retries=0 \
  --IdentityProvider.token=check --ServerApp.allow_remote_access=True \
  --ServerApp.tornado_settings='{"ws_ping_interval": 0}' \
  --ServerApp.root_dir="$scratch/notebooks" >"$scratch/jupyter.log" 2>&1 &
jupyter=$!
configure
serve >"$scratch/proxy.log" 2>&1 &
proxy=$!
wait_for causeway "$proxy" "$scratch/proxy.log" "http://127.0.0.1:$management/livez"
wait_for JupyterLab "$jupyter" "$scratch/jupyter.log" "http://127.0.0.1:$lab/api"

push 00000000-0000-4000-8000-00000000000a port "$port"
push 00000000-0000-4000-8000-00000000000b wildcard lab

failed=0
browse() {
  echo "--- browser on $1"
  node "$kits/conform/real-apps/jupyter.js" --url "$1" --token check --chrome "${CHROME:-/usr/bin/chromium}" ||
    failed=1
}
browse "http://127.0.0.1:$port/"
browse "http://lab.localhost:$wildcard/"

echo "--- kernel socket, idle for $idle s, on the port and on the subdomain"
"$KITS_PYTHON" "$here/kernel_idle.py" --port "$port" --token check --idle "$idle" &
first=$!
"$KITS_PYTHON" "$here/kernel_idle.py" --port "$wildcard" --host lab.localhost --token check --idle "$idle" &
second=$!
wait "$first" || failed=1
wait "$second" || failed=1

if [ "$failed" -ne 0 ]; then
  echo "--- the proxy's last lines"
  tail -20 "$scratch/proxy.log"
  echo "FAILED"
  exit 1
fi
echo "passed"
