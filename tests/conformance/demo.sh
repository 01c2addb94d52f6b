#!/usr/bin/env bash
# Starts the demo as a newcomer would, tries every curl line it prints, and stops it with Ctrl-C.
#   demo.sh [BINARY]
set -euo pipefail
# A job of its own process group gets SIGINT as the terminal would deliver it; without job control
# the shell starts background commands with SIGINT ignored.
set -m
binary=${1:-target/release/causeway}
scratch=$(mktemp -d)
demo=

cleanup() {
  if [ -n "$demo" ]; then kill -KILL "$demo" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap cleanup EXIT

fail() {
  echo "FAIL $1"
  echo "--- what the demo printed"
  cat "$scratch/out"
  exit 1
}

# The printed lines without colours and labels: from `curl` to the end of the line.
lines() {
  sed -E 's/\x1b\[[0-9;]*m//g' "$scratch/out" | grep -oE '(^|[[:space:]])curl .*' | sed -E 's/^[[:space:]]+//; s/[[:space:]]+(<-|←) .*//' || true
}

started=$(date +%s%N)
"$binary" demo >"$scratch/out" 2>&1 </dev/null &
demo=$!
# The promise is three seconds from start to the first lines; after them a moment for the last.
for _ in $(seq 30); do
  if [ -n "$(lines)" ]; then break; fi
  kill -0 "$demo" 2>/dev/null || fail "the demo ended by itself"
  sleep 0.1
done
[ -n "$(lines)" ] || fail "no curl line within 3 s"
echo "PASS curl lines printed after $((($(date +%s%N) - started) / 1000000)) ms"
sleep 0.3

# An error page is an answer to curl; to a newcomer it is a broken demo. This makes it exit 22.
echo fail >"$scratch/.curlrc"
export CURL_HOME=$scratch

count=0
while IFS= read -r line; do
  count=$((count + 1))
  status=0
  timeout 5 bash -c "$line" >"$scratch/answer" 2>"$scratch/error" </dev/null || status=$?
  if [ "$status" -ne 0 ]; then
    cat "$scratch/error"
    fail "exit $status from: $line"
  fi
  echo "PASS $line  [$(wc -c <"$scratch/answer") bytes]"
done < <(lines)

kill -INT "$demo"
for _ in $(seq 100); do
  if ! kill -0 "$demo" 2>/dev/null; then break; fi
  sleep 0.1
done
if kill -0 "$demo" 2>/dev/null; then fail "still running 10 s after Ctrl-C"; fi
status=0
wait "$demo" || status=$?
demo=
[ "$status" -eq 0 ] || fail "exit $status after Ctrl-C"
echo "PASS stopped by Ctrl-C"
echo "$((count + 2)) passed, 0 failed"
