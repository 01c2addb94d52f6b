#!/usr/bin/env bash
# Connections to endpoints that come from the client's address (original_src), in two network
# namespaces: the address is that of a PROXY protocol header or of x-forwarded-for, with its port or
# without, and none of this machine. Listeners at addresses that are not there, too.
#   original-src.sh [BINARY]
# Needs root, ip, setpriv and python3; ends with 75 where namespaces cannot be made.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
chmod 755 "$scratch"
tag=$$
proxy=cwp$tag
origin=cwo$tag

namespaces "$proxy" "$origin"

# The proxy is 10.78.0.1, the origin 10.78.0.2. Clients are in 203.0.113.0/24 and 2001:db8:9::/64, which
# the origin answers by way of the proxy; what arrives there is taken, whoever it is for.
for space in "$proxy" "$origin"; do
  # While an address of the link is being tried out, neighbours are not asked for, and connections wait.
  ip netns exec "$space" sh -c 'for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >"$f"; done'
done
ip link add "v$tag" netns "$proxy" type veth peer name "w$tag" netns "$origin"
for space in "$proxy" "$origin"; do ip -n "$space" link set lo up; done
ip -n "$proxy" addr add 10.78.0.1/24 dev "v$tag"
ip -n "$proxy" addr add fd78::1/64 dev "v$tag" nodad
ip -n "$origin" addr add 10.78.0.2/24 dev "w$tag"
ip -n "$origin" addr add fd78::2/64 dev "w$tag" nodad
# Reached by connections with a mark only.
ip -n "$origin" addr add 10.79.0.2/32 dev lo
ip -n "$proxy" link set "v$tag" up
ip -n "$origin" link set "w$tag" up
ip -n "$origin" route add 203.0.113.0/24 via 10.78.0.1
ip -n "$origin" -6 route add 2001:db8:9::/64 via fd78::1
ip -n "$proxy" rule add iif "v$tag" lookup 100
ip -n "$proxy" route add local 0.0.0.0/0 dev lo table 100
ip -n "$proxy" -6 rule add iif "v$tag" lookup 100
ip -n "$proxy" -6 route add local ::/0 dev lo table 100
ip -n "$proxy" rule add fwmark 77 lookup 200
ip -n "$proxy" route add 10.79.0.2/32 via 10.78.0.2 table 200

for space in "$proxy" "$origin"; do
  # Paths that differ by direction are what this is about.
  ip netns exec "$space" sh -c 'for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$f"; done'
done

ip netns exec "$origin" python3 "$here/original_src.py" origin >"$scratch/origin.log" 2>&1 &
ours+=($!)
ip netns exec "$proxy" python3 "$here/original_src.py" config >"$scratch/config.json"
ip netns exec "$proxy" "$binary" -c "$scratch/config.json" --concurrency 2 >"$scratch/proxy.log" 2>&1 &
ours+=($!)
until_ok "the origin" ip netns exec "$proxy" python3 "$here/original_src.py" reachable
until_ok "the proxy" ip netns exec "$proxy" python3 "$here/original_src.py" ready 15000

ip netns exec "$proxy" timeout 60 python3 "$here/original_src.py" clients || fail "clients"
passed=$((passed + 7))
# One of them comes only now; for the others the listener is transparent.
ip -n "$proxy" addr add 203.0.113.200/32 dev lo
ip netns exec "$origin" timeout 60 python3 "$here/original_src.py" outside || fail "listeners elsewhere"
passed=$((passed + 1))

# Without the right to take foreign addresses a connection fails, and the log says why.
ip netns exec "$proxy" python3 "$here/original_src.py" config 1000 >"$scratch/weak.json"
ip netns exec "$proxy" setpriv --reuid "$(id -u nobody)" --clear-groups --bounding-set -all \
  "$binary" -c "$scratch/weak.json" --concurrency 1 -l debug >"$scratch/weak.log" 2>&1 &
ours+=($!)
until_ok "the proxy without rights" ip netns exec "$proxy" python3 "$here/original_src.py" ready 16000
ip netns exec "$proxy" timeout 60 python3 "$here/original_src.py" refused || fail "without rights"
until_ok "the reason" grep -q 'as the client: .*not permitted' "$scratch/weak.log"
pass "who may not take addresses says so"
echo "$passed passed, 0 failed"
