#!/usr/bin/env bash
# Runs every example and compares what it prints with the expected output in its header.
#   examples.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
failed=0
for file in examples/*.rs; do
  name=$(basename "$file" .rs)
  expected=$(awk '/^\/\/! ```text$/ {inside = 1; next} /^\/\/! ```$/ {inside = 0} inside {print}' "$file" |
    sed 's|^//! \{0,1\}||')
  if [ -z "$expected" ]; then echo "FAIL $name: no expected output in its header"; failed=1; continue; fi
  actual=$(timeout 60 cargo run --quiet --example "$name") || { echo "FAIL $name: exit $?"; failed=1; continue; }
  if [ "$actual" = "$expected" ]; then
    echo "PASS $name"
  else
    echo "FAIL $name"
    diff <(echo "$expected") <(echo "$actual") || true
    failed=1
  fi
done
exit $failed
