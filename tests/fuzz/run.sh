#!/usr/bin/env bash
# Runs fuzz targets from their seeds, one at a time, with bounded memory.
#   run.sh TARGET|all SECONDS
# Environment: FUZZ_TARGET_DIR  where it is built (default tests/fuzz/target)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wanted=$1
seconds=$2
targets=(discovery_sotw discovery_delta resource resource_text bootstrap head path formatter filter)
[ "$wanted" = all ] || targets=("$wanted")
cd "$here/../.."
# The code has no `unsafe`, so the sanitizers would only slow it down.
for target in "${targets[@]}"; do
  mkdir -p "$here/corpus/$target"
  cargo +nightly fuzz run --fuzz-dir "$here" --sanitizer none --target-dir "${FUZZ_TARGET_DIR:-$here/target}" \
    "$target" "$here/corpus/$target" "$here/seeds/$target" -- \
    -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=30 -max_len=8192 -print_final_stats=1
done
