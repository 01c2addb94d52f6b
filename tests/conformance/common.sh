# What scripts here begin with. Sourced, with the arguments of the script: binary, scratch directory, what
# was started and is stopped at the end, and how results are told.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/causeway}")
scratch=$(mktemp -d)
ours=()
spaces=()

cleanup() {
  for process in "${ours[@]}"; do kill "$process" 2>/dev/null || true; done
  for space in "${spaces[@]}"; do
    # Whatever runs in it was started here; a shell that waits for one passes no signal on.
    ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null || true
    ip netns del "$space" 2>/dev/null || true
  done
  wait 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT

passed=0
pass() {
  echo "PASS $1"
  passed=$((passed + 1))
}
fail() {
  echo "FAIL $1"
  tail -n 20 "$scratch"/*.log 2>/dev/null || true
  exit 1
}
skip() {
  echo "skipped: $1"
  exit 75
}
# until_ok WHAT COMMAND...: tries for ten seconds.
until_ok() {
  local what=$1
  shift
  for _ in $(seq 100); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "$what"
}
# need COMMAND PACKAGE...: whether the command is there, once the packages are, where they can be installed.
need() {
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return; fi
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
      >"$scratch/apt.log" 2>&1 || true
  fi
  command -v "$command" >/dev/null
}
# namespaces NAME...: network namespaces, until the end; without the right to make them the script is skipped.
namespaces() {
  [ "$(id -u)" -eq 0 ] || skip "not root"
  need ip iproute2 || skip "no ip here"
  local space
  for space in "$@"; do
    ip netns add "$space" 2>/dev/null || skip "no network namespaces here"
    spaces+=("$space")
  done
}
# ports COUNT: free ones.
ports() {
  python3 -c '
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))' "$1"
}
