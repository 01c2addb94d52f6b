# Short names for the commands people type. Each one works without `just`, too.

# Lists the recipes.
default:
    @just --list

# The demo: sample applications, circuits, and a URL to try for each.
demo:
    cargo run --release -- demo

# Every test.
test *arguments:
    cargo test --workspace {{ arguments }}

# What a reviewer should never have to say.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Lint and test.
check: lint test

# Formats the tree.
format:
    cargo fmt --all

# Rewrites the golden files; read the difference before you commit it.
golden:
    UPDATE_GOLDEN=1 cargo test --workspace
    git diff --stat -- tests/golden xds/tests

# Licences, bans and sources of the dependencies (needs cargo-deny, no network).
deny:
    cargo deny --offline check licenses bans sources

# What a request, a message and a round trip cost, against the budgets.
cost: build
    tests/conformance/cost.py target/release/causeway

# The demo, started and tried as a newcomer would.
try-demo: build
    tests/conformance/demo.sh target/release/causeway

# JupyterLab in a browser, then a kernel socket held idle for five minutes.
jupyter: build
    tests/conformance/jupyter.sh target/release/causeway

# The binary that is shipped, and that CI and the conformance scripts use.
build:
    cargo build --release

# The profile that releases are laid out by, made anew (docs/PERFORMANCE.md).
profile:
    .cargo/pgo/train.py

# Everything CI runs.
ci:
    .ci/run
