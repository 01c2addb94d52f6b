#!/usr/bin/env bash
# Connections that the system redirects (SO_ORIGINAL_DST), in a network namespace of its own: TCP and
# HTTP, IPv4 and IPv6, and a listener that is chosen by where they were bound for.
#   original-dst.sh [BINARY]        needs root, nft and python3; ends with 75 without them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/causeway}")

if [ "$(id -u)" -ne 0 ] || ! command -v nft >/dev/null || ! unshare -n true 2>/dev/null; then
  echo "skipped: needs root, nft and network namespaces"
  exit 75
fi

# Clients come from 127.0.0.2 and fd00::2, so that what the proxy opens is not redirected again.
# shellcheck disable=SC2016
exec unshare -n bash -euo pipefail -c '
  ip link set lo up
  for host in 10.9.9.8 10.9.9.9; do ip addr add "$host/32" dev lo; done
  for host in fd00::2 fd00::9; do ip -6 addr add "$host/128" dev lo nodad; done
  nft -f - <<RULES
table ip redirected {
  chain output {
    type nat hook output priority -100;
    ip saddr 127.0.0.2 tcp dport 80 redirect to :15001
    ip saddr 127.0.0.2 tcp dport 8080 redirect to :15002
    ip saddr 127.0.0.2 tcp dport 9090 redirect to :15003
  }
}
table ip6 redirected {
  chain output {
    type nat hook output priority -100;
    ip6 saddr fd00::2 tcp dport 80 redirect to :15001
  }
}
RULES
  exec python3 "$0" "$1"
' "$here/original_dst.py" "$binary"
