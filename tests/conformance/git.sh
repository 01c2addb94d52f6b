#!/usr/bin/env bash
# Real `git` over HTTPS: a large push and a clone, by HTTP/1.1 and by HTTP/2.
#   git.sh [BINARY]
# The repository is served by git's own CGI program. Ends with 75 where git or openssl is missing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

need git git || skip "no git here"
need openssl openssl || skip "no openssl here"
need curl curl || skip "no curl here"
read -r origin https management < <(ports 3)

# Nothing of whoever runs this.
export HOME=$scratch GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=check GIT_AUTHOR_EMAIL=check@test \
  GIT_COMMITTER_NAME=check GIT_COMMITTER_EMAIL=check@test GIT_TERMINAL_PROMPT=0

# --- the repository ------------------------------------------------------------------------------
mkdir "$scratch/served"
git init -q --bare -b main "$scratch/served/project.git"
git -C "$scratch/served/project.git" config http.receivepack true
python3 "$here/git_origin.py" "$origin" "$scratch/served" 2>"$scratch/origin.log" &
ours+=($!)
until_ok "the origin answers" curl -fsS "http://127.0.0.1:$origin/project.git/HEAD"

# --- the proxy -----------------------------------------------------------------------------------
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$scratch/key.pem" \
  -out "$scratch/cert.pem" -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
cat >"$scratch/bootstrap.yaml" <<YAML
admin: {address: {socket_address: {address: 127.0.0.1, port_value: $management}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: $https}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - {certificate_chain: {filename: $scratch/cert.pem}, private_key: {filename: $scratch/key.pem}}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: git
          route_config:
            virtual_hosts:
            - name: git
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: origin, timeout: 0s}}]
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: origin
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $origin}}}
YAML
"$binary" serve -c "$scratch/bootstrap.yaml" >"$scratch/proxy.log" 2>&1 &
ours+=($!)
until_ok "the proxy starts" curl -fsS "http://127.0.0.1:$management/ready"

# --- push and clone ------------------------------------------------------------------------------
url=https://localhost:$https/project.git
export GIT_SSL_CAINFO=$scratch/cert.pem
git init -q -b main "$scratch/work"
for version in HTTP/1.1 HTTP/2; do
  head -c 67108864 /dev/urandom >"$scratch/work/data"
  for number in $(seq 200); do echo "$version $number" >"$scratch/work/file-$number"; done
  git -C "$scratch/work" add .
  git -C "$scratch/work" commit -q -m "over $version"
  speak=(-c "http.version=$version")
  timeout 120 git -C "$scratch/work" "${speak[@]}" push -q "$url" main 2>"$scratch/push.log" ||
    fail "a push over $version"
  pass "64 MiB pushed over $version, as a chunked request"
  rm -rf "$scratch/copy"
  GIT_CURL_VERBOSE=1 timeout 120 git "${speak[@]}" clone -q "$url" "$scratch/copy" 2>"$scratch/clone.log" ||
    fail "a clone over $version"
  grep -qE "(Recv header:|<) $version 200" "$scratch/clone.log" || fail "$version was spoken"
  cmp -s "$scratch/work/data" "$scratch/copy/data" || fail "what was cloned over $version"
  [ "$(git -C "$scratch/copy" rev-parse HEAD)" = "$(git -C "$scratch/work" rev-parse HEAD)" ] ||
    fail "the commit that was cloned over $version"
  pass "cloned over $version"
done
timeout 60 git clone -q --depth 1 "$url" "$scratch/shallow" 2>"$scratch/clone.log" || fail "a shallow clone"
[ "$(git -C "$scratch/shallow" rev-list --count HEAD)" = 1 ] || fail "a shallow clone is shallow"
pass "a shallow clone"
timeout 60 git ls-remote "https://localhost:$https/nothing.git" 2>"$scratch/none.log" && fail "a repository that is not there"
grep -q "not found" "$scratch/none.log" || fail "git is told that it is not there"
pass "a repository that is not there"
echo "$passed passed, 0 failed"
