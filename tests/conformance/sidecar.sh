#!/usr/bin/env bash
# Two sidecars in two network namespaces: what an application sends is redirected to its proxy, goes
# to the other one over mutual TLS with SPIFFE identities from SDS (files), and on to the application
# there. HTTP and TCP.
#   sidecar.sh [BINARY]
# Needs root, ip, openssl, curl, python3, and iptables or nft (installed by apt where they are missing);
# ends with 75 where namespaces cannot be made.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"
chmod 755 "$scratch"
tag=$$
a=cwa$tag
b=cwb$tag

need openssl openssl || skip "no openssl here"
need curl curl || skip "no curl here"
command -v iptables >/dev/null || need nft nftables || skip "neither iptables nor nft here"
namespaces "$a" "$b"

# --- the network: a is 10.77.0.1, b is 10.77.0.2 -------------------------------------------------
ip link add "v$tag" netns "$a" type veth peer name "w$tag" netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev "v$tag"
ip -n "$b" addr add 10.77.0.2/24 dev "w$tag"
for space in "$a" "$b"; do ip -n "$space" link set lo up; done
ip -n "$a" link set "v$tag" up
ip -n "$b" link set "w$tag" up
in_a() { ip netns exec "$a" "$@"; }
in_b() { ip netns exec "$b" "$@"; }

# The proxy's own connections are not sent back to it: they are those of this user.
proxy_user=$(id -u nobody)
if command -v iptables >/dev/null; then
  in_a iptables -t nat -A OUTPUT -p tcp -d 10.77.0.2 -m owner ! --uid-owner "$proxy_user" \
    -j REDIRECT --to-ports 15001
  in_b iptables -t nat -A PREROUTING -p tcp -d 10.77.0.2 -j REDIRECT --to-ports 15006
else
  in_a nft -f - <<NFT
table ip nat { chain output { type nat hook output priority -100;
  ip daddr 10.77.0.2 meta skuid != $proxy_user tcp dport 1-65535 redirect to :15001 } }
NFT
  in_b nft -f - <<NFT
table ip nat { chain prerouting { type nat hook prerouting priority -100;
  ip daddr 10.77.0.2 tcp dport 1-65535 redirect to :15006 } }
NFT
fi

# --- identities ----------------------------------------------------------------------------------
cd "$scratch"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
  -days 2 -subj /O=mesh.test 2>/dev/null
for name in client server stranger; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$name.key" \
    -out "$name.csr" -subj /O=mesh.test 2>/dev/null
  openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out "$name.pem" \
    -extfile <(echo "subjectAltName=critical,URI:spiffe://mesh.test/ns/default/sa/$name") 2>/dev/null
done
chmod 644 ./*.key

# secrets FILE IDENTITY: the certificate of an identity and what its peers are checked by, as SDS.
secrets() {
  cat >"$1.new" <<YAML
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: own
  tls_certificate:
    certificate_chain: {filename: $scratch/$2.pem}
    private_key: {filename: $scratch/$2.key}
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: roots
  validation_context: {trusted_ca: {filename: $scratch/ca.pem}}
YAML
  mv "$1.new" "$1"
}
secrets a.sds client
secrets b.sds server

# tls FILE PEER: the common part of a TLS context that only takes this peer.
tls() {
  cat <<YAML
            common_tls_context:
              tls_certificate_sds_secret_configs:
              - {name: own, sds_config: {path_config_source: {path: $scratch/$1}}}
              combined_validation_context:
                default_validation_context:
                  match_typed_subject_alt_names:
                  - san_type: URI
                    matcher: {exact: spiffe://mesh.test/ns/default/sa/$2}
                validation_context_sds_secret_config:
                  {name: roots, sds_config: {path_config_source: {path: $scratch/$1}}}
YAML
}
# http CLUSTER MORE: a connection manager that sends everything to one cluster.
http() {
  cat <<YAML
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: $1
          $2
          route_config:
            virtual_hosts:
            - {name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: $1}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
YAML
}
tcp() {
  cat <<YAML
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: $1
          cluster: $1
YAML
}
original_dst='{name: envoy.filters.listener.original_dst, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}'

cat >a.yaml <<YAML
node: {id: a, cluster: mesh}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
static_resources:
  listeners:
  - name: outbound
    address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
    listener_filters: [$original_dst]
    filter_chains:
    - filter_chain_match: {destination_port: 8080}
      filters:
$(http peer "")
    - filter_chain_match: {destination_port: 9090}
      filters:
$(tcp peer)
  clusters:
  - name: peer
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 2s
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
$(tls a.sds server | sed 's/^    //')
YAML

inbound_tls() {
  cat <<YAML
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
            "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
            require_client_certificate: true
$(tls b.sds client)
YAML
}
app() {
  cat <<YAML
  - name: $1
    type: STATIC
    connect_timeout: 2s
    load_assignment:
      cluster_name: $1
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $2}}}}]}]
YAML
}
cat >b.yaml <<YAML
node: {id: b, cluster: mesh}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
static_resources:
  listeners:
  - name: inbound
    address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
    listener_filters: [$original_dst]
    filter_chains:
    - filter_chain_match: {destination_port: 8080}
$(inbound_tls)
      filters:
$(http web "forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {uri: true}")
    - filter_chain_match: {destination_port: 9090}
$(inbound_tls)
      filters:
$(tcp bytes)
  clusters:
$(app web 8080)
$(app bytes 9090)
YAML

# --- the applications in b, and both proxies -----------------------------------------------------
cat >apps.py <<'PYTHON'
import http.server, socketserver, threading
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = ("seen " + self.headers.get("x-forwarded-client-cert", "nothing")).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        pass
class Bytes(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello\n")
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
threading.Thread(target=Threads(("127.0.0.1", 8080), Web).serve_forever).start()
Threads(("127.0.0.1", 9090), Bytes).serve_forever()
PYTHON
in_b python3 apps.py >apps.log 2>&1 &
ours+=($!)
as_proxy=(setpriv --reuid "$proxy_user" --clear-groups)
in_b "${as_proxy[@]}" "$binary" -c b.yaml --concurrency 2 >b.log 2>&1 &
ours+=($!)
in_a "${as_proxy[@]}" "$binary" -c a.yaml --concurrency 2 >a.log 2>&1 &
ours+=($!)
for space in "$a" "$b"; do
  until_ok "the proxy in $space" ip netns exec "$space" curl -fsS http://127.0.0.1:15000/ready
done

get() { in_a curl -sS -m 5 -o "$scratch/body" -w '%{http_code}' "http://10.77.0.2:8080/$1"; }
answers() { [ "$(get "$2")" = "$1" ]; }

# --- checks --------------------------------------------------------------------------------------
until_ok "an answer through both" answers 200 first
grep -q 'URI=spiffe://mesh.test/ns/default/sa/client' body || fail "who called: $(cat body)"
pass "HTTP, and the application is told who calls"

cat >talk.py <<'PYTHON'
import os, socket, sys, threading
s = socket.create_connection(("10.77.0.2", 9090), timeout=20)
f = s.makefile("rb")
assert f.readline() == b"hello\n"
data = os.urandom(8_000_000)
threading.Thread(target=s.sendall, args=(data,)).start()
assert f.read(len(data)) == data
if len(sys.argv) > 1:
    # Stays open until it is told to go on.
    print("open", flush=True)
    while not os.path.exists(sys.argv[1]):
        threading.Event().wait(0.05)
    s.sendall(b"still")
    assert f.read(5) == b"still"
s.shutdown(socket.SHUT_WR)
assert f.read() == b""
PYTHON
in_a timeout 60 python3 talk.py || fail "bytes through both"
pass "TCP, 8 MB both ways and a half-close"

# Past the proxy of a, in clear text: the one of b takes nothing that does not prove who it is.
if in_a "${as_proxy[@]}" curl -sS -m 5 -o body http://10.77.0.2:8080/ 2>curl.log; then
  fail "clear text is taken: $(cat body)"
fi
if in_a "${as_proxy[@]}" curl -sS -m 5 -k -o body https://10.77.0.2:8080/ 2>curl.log; then
  fail "a client without a certificate is taken: $(cat body)"
fi
pass "who does not prove who it is, is not let in"

in_a timeout 60 python3 talk.py "$scratch/go" >open.log 2>&1 &
open=$!
until_ok "a connection is open" grep -q open open.log
secrets a.sds stranger
until_ok "another identity is refused" answers 503 stranger
secrets a.sds client
until_ok "the first identity is taken again" answers 200 again
touch "$scratch/go"
wait "$open" || fail "a connection that was open while certificates changed"
pass "identities change while connections live"
echo "$passed passed, 0 failed"
