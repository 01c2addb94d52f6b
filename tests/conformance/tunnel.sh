#!/usr/bin/env bash
# Real ssh, scp and VNC, and a server that speaks first, through a WebSocket and `causeway tunnel`.
#   tunnel.sh [BINARY]
# A private sshd on loopback with keys made for the run, and a desktop of its own (TigerVNC). Ends with 75
# where there is no sshd and none can be installed; VNC alone is left out where only that is missing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

PATH=$PATH:/usr/sbin
need sshd openssh-server openssh-client || skip "no sshd here"
command -v ssh >/dev/null || skip "no ssh here"
sshd=$(command -v sshd)

read -r ssh_port rfb_port vnc_port management wildcard path < <(ports 6)

# --- sshd ----------------------------------------------------------------------------------------
if [ "$(id -u)" -eq 0 ]; then mkdir -p /run/sshd; fi
ssh-keygen -q -t ed25519 -N '' -f "$scratch/host"
ssh-keygen -q -t ed25519 -N '' -f "$scratch/user"
cp "$scratch/user.pub" "$scratch/authorized"
cat >"$scratch/sshd_config" <<CONFIG
ListenAddress 127.0.0.1:$ssh_port
HostKey $scratch/host
AuthorizedKeysFile $scratch/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
CONFIG
"$sshd" -D -e -f "$scratch/sshd_config" 2>"$scratch/sshd.log" &
ours+=($!)

# --- a server that speaks first, then echoes -----------------------------------------------------
python3 - "$rfb_port" <<'PYTHON' &
import socketserver, sys
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
class Rfb(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"RFB 003.008\n")
        while data := self.request.recv(65536):
            self.request.sendall(data)
Server(("127.0.0.1", int(sys.argv[1])), Rfb).serve_forever()
PYTHON
ours+=($!)

# --- the worker, with both as circuits -----------------------------------------------------------
token=tunnel-check
cat >"$scratch/worker.toml" <<TOML
[proxy_worker]
authority = "tunnel-check"
frontend_mode = "wildcard"
protocol = "http"
accepted_traffics = ["interactive"]

[proxy_worker.wildcard_domain]
domain = ".localhost"
bind_addr = { host = "127.0.0.1", port = $wildcard }

[secrets]
api_secret = "$token"

[causeway]
management = "127.0.0.1:$management"
path_frontend = "127.0.0.1:$path"
TOML
"$binary" serve -f "$scratch/worker.toml" >"$scratch/worker.log" 2>&1 &
worker=$!
ours+=($worker)
until_ok "the worker starts" curl -fsS "http://127.0.0.1:$management/ready"

# circuit LAST-DIGIT APP PORT
circuit() {
  cat <<JSON
{"id": "7c8356fe-e727-4548-9f26-2e4031fe30d$1", "app": "$2", "protocol": "tcp",
 "app_mode": "interactive", "frontend_mode": "wildcard", "subdomain": "$2", "open_to_public": true,
 "session_ids": ["5e550000-0000-4000-8000-000000000001"],
 "route_info": [{"session_id": "5e550000-0000-4000-8000-000000000001",
                 "kernel_host": "127.0.0.1", "kernel_port": $3, "traffic_ratio": 1.0}]}
JSON
}
curl -fsS -X POST -H "x-backendai-token: $token" -H "authorization: Bearer $token" \
  -H 'content-type: application/json' \
  -d "[$(circuit 1 sshd "$ssh_port"), $(circuit 2 banner "$rfb_port"), $(circuit 3 vnc "$vnc_port")]" \
  "http://127.0.0.1:$management/v1/circuits" >"$scratch/push.log" || fail "the circuits are taken"
prefix=ws://127.0.0.1:$path/5e550000-0000-4000-8000-000000000001

cat >"$scratch/ssh_config" <<CONFIG
Host *
    User $(id -un)
    IdentityFile $scratch/user
    IdentitiesOnly yes
    UserKnownHostsFile $scratch/known
    StrictHostKeyChecking accept-new
    LogLevel ERROR
Host by-path
    ProxyCommand $binary tunnel --stdio $prefix/sshd/
Host by-name
    ProxyCommand $binary tunnel --stdio -H "host: sshd.localhost" http://127.0.0.1:$wildcard/
CONFIG
over() { timeout 60 ssh -F "$scratch/ssh_config" "$@"; }

# --- ssh -----------------------------------------------------------------------------------------
for way in by-path by-name; do
  [ "$(over "$way" 'echo hello; exit 0')" = hello ] || fail "a command by $way"
  status=0
  over "$way" 'exit 42' || status=$?
  [ "$status" -eq 42 ] || fail "the exit code of a command by $way: $status"
  pass "ssh $way"
done

head -c 33554432 /dev/urandom >"$scratch/data"
sum=$(sha256sum <"$scratch/data")
# What ssh ends its input with travels as a half-close of its own protocol.
[ "$(over by-path sha256sum <"$scratch/data")" = "$sum" ] || fail "32 MiB up"
[ "$(over by-path "cat $scratch/data" | sha256sum)" = "$sum" ] || fail "32 MiB down"
[ "$(over by-path cat <"$scratch/data" | sha256sum)" = "$sum" ] || fail "32 MiB both ways"
pass "32 MiB up, down and both ways"
timeout 60 scp -q -F "$scratch/ssh_config" "$scratch/data" by-path:"$scratch/copied" || fail "scp"
cmp -s "$scratch/data" "$scratch/copied" || fail "what scp copied"
pass "scp"

# --- a server that speaks first, by a listening tunnel -------------------------------------------
"$binary" tunnel --listen 127.0.0.1:0 "$prefix/banner/" >"$scratch/tunnel.log" 2>&1 &
ours+=($!)
until_ok "the tunnel listens" grep -q 'listening on' "$scratch/tunnel.log"
at=$(sed -n 's/^listening on .*://p' "$scratch/tunnel.log")
python3 - "$at" <<'PYTHON' || fail "a server that speaks first"
import os, socket, sys, threading
def one():
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
    f = s.makefile("rb")
    assert f.readline() == b"RFB 003.008\n"
    data = os.urandom(3_000_000)
    threading.Thread(target=s.sendall, args=(data,)).start()
    assert f.read(len(data)) == data
    s.shutdown(socket.SHUT_WR)
    assert f.read() == b""
threads = [threading.Thread(target=one) for _ in range(8)]
failed = []
threading.excepthook = lambda e: failed.append(e)
[t.start() for t in threads]
[t.join() for t in threads]
sys.exit(bool(failed))
PYTHON
pass "8 connections to a server that speaks first"

# --- VNC: a desktop as it is, through a tunnel, and through a WebSocket as browsers have it ---------------
if need Xtigervnc tigervnc-standalone-server; then
  Xtigervnc ":$((vnc_port % 10000 + 1000))" -rfbport "$vnc_port" -localhost=1 -SecurityTypes None \
    -geometry 800x600 -depth 24 -nolisten tcp >"$scratch/vnc.log" 2>&1 &
  ours+=($!)
  until_ok "the desktop starts" python3 "$here/vnc.py" "127.0.0.1:$vnc_port"
  "$binary" tunnel --listen 127.0.0.1:0 "$prefix/vnc/" >"$scratch/vnc-tunnel.log" 2>&1 &
  ours+=($!)
  until_ok "the tunnel listens" grep -q 'listening on' "$scratch/vnc-tunnel.log"
  at=$(sed -n 's/^listening on //p' "$scratch/vnc-tunnel.log")
  seen=$(timeout 60 python3 "$here/vnc.py" "127.0.0.1:$vnc_port")
  for way in "$at" "$prefix/vnc/" "ws://127.0.0.1:$wildcard/ vnc.localhost"; do
    # shellcheck disable=SC2086 # address and host
    [ "$(timeout 60 python3 "$here/vnc.py" $way)" = "$seen" ] || fail "the desktop by $way"
  done
  pass "VNC by a tunnel, by path and by subdomain: $seen"
else
  echo "skipped: no VNC server here"
fi

# --- the end -------------------------------------------------------------------------------------
over by-path 'echo up; exec sleep 300' >"$scratch/last.log" 2>&1 &
last=$!
until_ok "a session is open" grep -q up "$scratch/last.log"
kill -TERM "$worker"
status=0
wait "$last" || status=$?
[ "$status" -ne 0 ] || fail "a session outlives its worker"
grep -q restarting "$scratch/last.log" || fail "it is told why it ends"
pass "a session is told that the worker ends"
echo "$passed passed, 0 failed"
