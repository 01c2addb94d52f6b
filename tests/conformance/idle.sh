#!/usr/bin/env bash
# What is silent for long must live: WebSocket, HTTP stream and TCP connection without a byte in either
# direction for SECONDS of real time, and downloads that take as long. (The Python worker cuts WebSockets
# and downloads after 100 s.)
#   idle.sh [BINARY] [SECONDS]      SECONDS is 600 by default
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/causeway}")
seconds=${2:-600}

scratch=$(mktemp -d)
proxy=
cleanup() {
  if [ -n "$proxy" ]; then
    kill "$proxy" 2>/dev/null || true
    wait "$proxy" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap cleanup EXIT

read -r http tcp management port wildcard < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
ports = [s.getsockname()[1] for s in held]
# Two in a row for the port frontend.
for first in range(20000, 32000, 2):
    try:
        pair = [socket.create_server(("127.0.0.1", first + i)) for i in (0, 1)]
        break
    except OSError:
        pass
print(*ports[:3], first, ports[3])')

cat >"$scratch/worker.toml" <<TOML
[proxy_worker.port_proxy]
bind_host = "127.0.0.1"
bind_port_range = [$port, $((port + 1))]

[proxy_worker.wildcard_domain]
domain = ".localhost"
bind_addr = { host = "127.0.0.1", port = $wildcard }

[secrets]
api_secret = "idle-check"

[causeway]
management = "127.0.0.1:$management"
path_frontend = false
TOML
"$binary" serve -f "$scratch/worker.toml" >"$scratch/proxy.log" 2>&1 &
proxy=$!

status=0
python3 "$here/idle.py" --seconds "$seconds" --http "$http" --tcp "$tcp" --management "$management" \
  --port "$port" --wildcard "$wildcard" --secret idle-check --process "$proxy" || status=$?
if [ "$status" -ne 0 ]; then
  echo "--- the proxy's last lines"
  tail -20 "$scratch/proxy.log"
fi
exit "$status"
