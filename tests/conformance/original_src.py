#!/usr/bin/env python3
"""What `original-src.sh` runs in its namespaces: the origin, the configuration, and clients."""
import json
import socket
import socketserver
import sys
import urllib.request

ORIGIN, ORIGIN6, MARKED = "10.78.0.2", "fd78::2", "10.79.0.2"
PORT = 8080
FILTERS = "type.googleapis.com/envoy.extensions.filters"
DEADLINE = 10


class Origin(socketserver.StreamRequestHandler):
    """Tells every request whom its connection seems to come from."""

    def handle(self):
        while True:
            line = self.rfile.readline()
            while line and line != b"\r\n":
                line = self.rfile.readline()
            if not line:
                return
            host, port = self.client_address[:2]
            host = host.removeprefix("::ffff:")
            body = f"{host} {port}".encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def at(address, port):
    return {"address": {"socket_address": {"address": address, "port_value": port}}}


def cluster(name, address):
    endpoint = {"endpoint": at(address, PORT)}
    return {"name": name, "connect_timeout": "2s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def typed(kind, **fields):
    return {"name": kind, "typed_config": {"@type": f"{FILTERS}.{kind}", **fields}}


def tcp(to):
    return typed("network.tcp_proxy.v3.TcpProxy", stat_prefix="t", cluster=to)


def http(to, *before, **more):
    action = {"route": {"cluster": to}} if to else {
        "direct_response": {"status": 200, "body": {"inline_string": "here"}}}
    routes = {"virtual_hosts": [{"name": "v", "domains": ["*"],
                                 "routes": [{"match": {"prefix": "/"}, **action}]}]}
    return typed("network.http_connection_manager.v3.HttpConnectionManager", stat_prefix="h",
                 route_config=routes, http_filters=[*before, typed("http.router.v3.Router")], **more)


def config(shift):
    header = typed("listener.proxy_protocol.v3.ProxyProtocol")

    def source(**fields):
        return typed("listener.original_src.v3.OriginalSrc", **fields)

    def listener(name, port, last, filters, address="127.0.0.1", **more):
        return {"name": name, **at(address, port + shift), "listener_filters": filters,
                "filter_chains": [{"filters": [last]}], **more}

    xff = http("o", typed("http.original_src.v3.OriginalSrc"))
    listeners = [
        listener("http", 15001, http("o"), [header, source()]),
        listener("port", 15002, tcp("o"), [header, source(bind_port=True)]),
        listener("six", 15003, tcp("o6"), [header, source()]),
        listener("mark", 15004, tcp("marked"), [header, source(mark=77)]),
        listener("plain", 15005, tcp("marked"), [header, source()]),
        listener("xff", 15006, xff, []),
        listener("own", 15007, http("o"), []),
        listener("other", 15008, tcp("o6"), [header, source()]),
    ]
    if not shift:
        listeners += [
            listener("free", 15010, http(None), [], address="203.0.113.200", freebind=True),
            listener("all", 15011, http(None), [], address="203.0.113.201", transparent=True,
                     additional_addresses=[at("203.0.113.202", 15012)]),
        ]
    return {"admin": at("127.0.0.1", 15000 + shift), "static_resources": {
        "listeners": listeners,
        "clusters": [cluster("o", ORIGIN), cluster("o6", ORIGIN6), cluster("marked", MARKED)]}}


class Client:
    """One connection, perhaps in another one's name."""

    def __init__(self, port, named=None, address="127.0.0.1"):
        self.socket = socket.create_connection((address, port), timeout=DEADLINE)
        self.file = self.socket.makefile("rb")
        if named:
            client, number = named
            family = "TCP6" if ":" in client else "TCP4"
            to = "fd78::1" if family == "TCP6" else "10.78.0.1"
            self.socket.sendall(f"PROXY {family} {client} {to} {number} 80\r\n".encode())

    def ask(self, more=""):
        """Whom the origin sees; None where there is no answer."""
        try:
            self.socket.sendall(f"GET / HTTP/1.1\r\nhost: a\r\n{more}\r\n".encode())
            status = self.file.readline()
        except ConnectionError:
            return None
        if not status:
            return None
        length = 0
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self.file.read(length).decode()
        return body if status.split()[1] == b"200" else status.decode()


def check(what, found, wanted):
    assert found == wanted, f"{what}: {found!r} and not {wanted!r}"


def clients():
    one, two = "203.0.113.9", "203.0.113.10"
    pairs = [(name, Client(15001, (name, 5000 + i))) for i in range(4) for name in (one, two)]
    for _ in range(5):
        for name, client in pairs:
            check("each client's own address", client.ask().split()[0], name)
    print("PASS requests come from the address of the PROXY protocol, whoever asks in between")
    own = [Client(15007) for _ in range(8)]
    for client in own:
        check("a listener without the filter", client.ask().split()[0], "10.78.0.1")
    for name, client in pairs:
        check("after others have asked", client.ask().split()[0], name)
    print("PASS others share no connection with them")
    check("with its port", Client(15002, (one, 5555)).ask(), f"{one} 5555")
    print("PASS the port is the client's where that is wanted")
    check("IPv6", Client(15003, ("2001:db8:9::7", 5555)).ask().split()[0], "2001:db8:9::7")
    check("families that differ", Client(15008, (one, 5555)).ask(), None)
    print("PASS IPv6, and nobody's address where the families differ")
    check("a mark", Client(15004, (one, 5001)).ask().split()[0], one)
    print("PASS connections are marked")
    check("no mark", Client(15005, (one, 5002)).ask(), None)
    print("PASS and without the mark there is no way")
    client = Client(15006)
    for name in (one, two, one):
        check("x-forwarded-for", client.ask(f"x-forwarded-for: {name}\r\n").split()[0], name)
    print("PASS requests of one connection come from whom x-forwarded-for names")


def outside():
    for address, port in (("203.0.113.200", 15010), ("203.0.113.201", 15011), ("203.0.113.202", 15012)):
        check(address, Client(port, address=address).ask(), "here")
    print("PASS listeners at addresses that are not there, two of one listener")


def refused():
    check("without rights", Client(16002, ("203.0.113.9", 5555)).ask(), None)
    check("without rights", Client(16001, ("203.0.113.9", 5555)).ask().split()[1], "503")
    check("in its own name", Client(16007).ask().split()[0], "10.78.0.1")


def main(what, *rest):
    if what == "origin":
        Server(("::", PORT), Origin).serve_forever()
    elif what == "config":
        json.dump(config(int(rest[0]) if rest else 0), sys.stdout)
    elif what == "ready":
        urllib.request.urlopen(f"http://127.0.0.1:{rest[0]}/ready", timeout=DEADLINE).read()
    elif what == "reachable":
        socket.create_connection((ORIGIN, PORT), timeout=DEADLINE).close()
    else:
        {"clients": clients, "outside": outside, "refused": refused}[what]()


main(*sys.argv[1:])
