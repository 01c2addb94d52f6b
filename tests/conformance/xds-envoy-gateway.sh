#!/usr/bin/env bash
# The proxy beside Envoy Gateway without Kubernetes: it takes the place of the proxy that the gateway
# would start, serves a route, and follows a change of its endpoint.
#   xds-envoy-gateway.sh [BINARY]
# Environment:
#   PROXY           command to start the proxy with, {bootstrap} in it (default BINARY -c {bootstrap})
#   PORTS           the first of four ports to use (default 24290); the gateway itself takes 8081, 18000,
#                   18002, 19000 and 19001, which cannot be changed
#   BUILD_LIMIT     seconds that building the gateway may take (default 1800)
#   CAUSEWAY_CACHE  where the built gateway is kept (default causeway-conformance in the user's cache)
# Ends with 75 when the gateway cannot be built: it needs Go and, the first time, its modules.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
proxy=${PROXY:-$(realpath "${1:-$here/../../target/release/causeway}") -c {bootstrap\}}
cache=${CAUSEWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway-conformance}
version=v1.9.1
front=${PORTS:-24290} admin=$((front + 1)) first=$((front + 2)) second=$((front + 3))

for tool in python3 curl; do
  command -v "$tool" >/dev/null || { echo "NOT RUN: $tool is not installed"; exit 75; }
done
dir=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT

gateway=$cache/envoy-gateway-$version
if [ ! -x "$gateway" ]; then
  command -v go >/dev/null || { echo "NOT RUN: Go is not installed"; exit 75; }
  mkdir -p "$cache"
  # Compiling it takes a few minutes of two cores, once.
  if ! GOBIN=$dir timeout "${BUILD_LIMIT:-1800}" \
    go install "github.com/envoyproxy/gateway/cmd/envoy-gateway@$version" >"$dir/build.log" 2>&1; then
    echo "NOT RUN: Envoy Gateway was not built"
    tail -5 "$dir/build.log"
    exit 75
  fi
  mv "$dir/envoy-gateway" "$gateway"
fi

fill() {
  sed -e "s|@DIR@|$dir|g; s|@FRONT@|$front|; s|@ADMIN@|$admin|; s|@ORIGIN@|${2:-0}|" \
    "$here/envoy-gateway/$1"
}
# Waits until an answer of the route is as expected.
answers() {
  for _ in $(seq 150); do
    got=$(curl -s -m 2 -H "host: $1" "http://127.0.0.1:$front/" || true)
    if [ "$got" = "$2" ]; then return; fi
    sleep 0.2
  done
  echo "FAILED: $3: expected \"$2\", got \"$got\""
  tail -5 "$dir/proxy.log" "$dir/gateway.log"
  exit 1
}

mkdir "$dir/resources" "$dir/one" "$dir/two"
printf one >"$dir/one/index.html"
printf two >"$dir/two/index.html"
for origin in "one $first" "two $second"; do
  read -r name port <<<"$origin"
  python3 -m http.server "$port" --bind 127.0.0.1 --directory "$dir/$name" >/dev/null 2>&1 &
  pids+=($!)
done
"$gateway" certgen --local --config-home "$dir" >/dev/null
fill server.yaml >"$dir/server.yaml"
fill bootstrap.yaml >"$dir/bootstrap.yaml"
fill resources.yaml "$first" >"$dir/resources/all.yaml"
"$gateway" server --config-path "$dir/server.yaml" >"$dir/gateway.log" 2>&1 &
pids+=($!)
# shellcheck disable=SC2086 # a command with arguments
${proxy//\{bootstrap\}/$dir/bootstrap.yaml} >"$dir/proxy.log" 2>&1 &
pids+=($!)

answers app.test one "the route of the gateway"
status=$(curl -s -m 2 -o /dev/null -w '%{http_code}' -H 'host: other.test' "http://127.0.0.1:$front/")
[ "$status" = 404 ] || { echo "FAILED: a host without a route: $status"; exit 1; }
# Written beside and put in place, as an editor does.
fill resources.yaml "$second" >"$dir/next.yaml"
mv "$dir/next.yaml" "$dir/resources/all.yaml"
answers app.test two "a change of the endpoint"
echo "ok: Envoy Gateway $version: a route, a host without one, a change"
