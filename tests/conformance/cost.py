#!/usr/bin/env python3
"""Keeps the cost of a unit of work from growing unnoticed: user-space instructions, allocations and
system calls for each request, message or round trip.

    cost.py [BINARY] [--only http1,http2,http2up,tls,websocket,tcp,circuit] [--without-calls]

Two runs of different length are compared, so that start-up, configuration, connections and the
pages touched first cancel out. None of the figures depends on the speed of the machine, which is
why a build may fail over them: budgets are in cost.json beside this file. Instructions and
allocations are counted by callgrind, system calls by strace. Those that wait for events are left
out: how many events one wait brings depends on how the machine is loaded.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import scale

HERE = os.path.dirname(os.path.abspath(__file__))
BUDGETS = os.path.join(HERE, "cost.json")
SHORT = 500
# Messages are cheap: more of them, or what the process does by the clock would show.
LONG = {"http1": 2500, "http2": 2500, "http2up": 2500, "tls": 2500, "websocket": 8500, "tcp": 8500,
        "circuit": 2500}
CONNECTIONS = 16
# Percent above its budget at which a figure fails. Instructions hardly move; system calls do where
# a read finds nothing, which is a matter of timing.
TOLERANCE = {"instructions": 3, "allocations": 3, "syscalls": 8}
# Of anything in a unit: what happens once in a while, by time and not by work.
STRAY = 0.05
ALLOCATORS = re.compile(r"_rjem_(je_)?(malloc|mallocx|calloc|realloc|rallocx|aligned_alloc|posix_memalign)$")
WAITS = {"epoll_wait", "epoll_pwait", "futex", "clock_nanosleep", "restart_syscall"}
UNITS = {"http1": "request", "http2": "request", "http2up": "request", "tls": "request", "websocket": "message",
         "tcp": "round trip", "circuit": "request"}
START_LIMIT = 120
# Of the worker that serves the circuit.
KEY = "key-of-permits"


def free_ports(count):
    """Asked of the kernel; held by nobody for the moment between here and their use."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def bootstrap(ports, origin, folder):
    def listener(name, port, network_filter, tls=None):
        chain = {"filters": [network_filter]}
        if tls:
            chain["transport_socket"] = tls
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [chain]}

    def message(kind, **fields):
        return {"@type": "type.googleapis.com/envoy.extensions." + kind, **fields}

    def manager(cluster):
        return {"name": "envoy.filters.network.http_connection_manager", "typed_config": message(
            "filters.network.http_connection_manager.v3.HttpConnectionManager", stat_prefix="main",
            upgrade_configs=[{"upgrade_type": "websocket"}],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]},
            http_filters=[{"name": "envoy.filters.http.router",
                           "typed_config": message("filters.http.router.v3.Router")}])}

    def cluster(name, **more):
        address = {"socket_address": {"address": "127.0.0.1", "port_value": origin}}
        return {"name": name, "type": "STATIC", "connect_timeout": "30s", "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}, **more}

    http = manager("origin")
    tcp = {"name": "envoy.filters.network.tcp_proxy", "typed_config": message(
        "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="tcp", cluster="origin")}
    tls = {"name": "envoy.transport_sockets.tls", "typed_config": message(
        "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={"tls_certificates": [{
            "certificate_chain": {"filename": folder + "/cert.pem"},
            "private_key": {"filename": folder + "/key.pem"}}]})}
    http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": message(
        "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})}
    return {"static_resources": {
        "listeners": [listener("http", ports["http"], http), listener("tls", ports["tls"], http, tls),
                      listener("tcp", ports["tcp"], tcp), listener("up", ports["up"], manager("up"))],
        "clusters": [cluster("origin"), cluster("up", typed_extension_protocol_options=http2)]}}


def h2load(url, count, *options):
    done = subprocess.run(["h2load", *options, "-t1", "-n%d" % count, url], capture_output=True, text=True, timeout=600)
    if " %d succeeded" % count not in done.stdout:
        sys.exit("FAIL not every request succeeded: %s" % (done.stdout + done.stderr)[-400:])


def read_exactly(sock, count):
    got = b""
    while len(got) < count:
        piece = sock.recv(count - len(got))
        if not piece:
            sys.exit("FAIL a connection ended early")
        got += piece
    return got


def echoes(port, count, opening, opened, sent, answer):
    """Round trips over some connections, each in its turn, so that every run has the same order."""
    socks = []
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if opening:
            sock.sendall(opening)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += read_exactly(sock, 1)
            if not head.startswith(opened):
                sys.exit("FAIL the connection was not switched: %r" % head[:80])
        socks.append(sock)
    for n in range(count):
        sock = socks[n % CONNECTIONS]
        sock.sendall(sent)
        if answer(read_exactly(sock, answer(None))) is False:
            sys.exit("FAIL not the answer that was expected")
    for sock in socks:
        sock.close()


def load(workload, ports, count):
    if workload == "http1":
        h2load("http://127.0.0.1:%d/" % ports["http"], count, "--h1", "-c%d" % CONNECTIONS)
    elif workload == "http2":
        h2load("http://127.0.0.1:%d/" % ports["http"], count, "-c2", "-m8")
    elif workload == "http2up":
        h2load("http://127.0.0.1:%d/" % ports["up"], count, "-c2", "-m8")
    elif workload == "circuit":
        # As a browser asks for an interactive app: with its owner's permit, and a cookie of the app.
        digest = hmac.new(KEY.encode(), scale.circuit_id(0).encode(), hashlib.sha256).hexdigest()
        permit = base64.b64encode(digest.encode()).decode()
        h2load("http://127.0.0.1:%d/" % ports["http"], count, "--h1", "-c%d" % CONNECTIONS, "-H",
               ":authority: c1.apps.test", "-H", "cookie: appproxy_permit=%s; theme=dark" % permit)
    elif workload == "tls":
        h2load("https://127.0.0.1:%d/" % ports["tls"], count, "--h1", "-c%d" % CONNECTIONS)
    elif workload == "websocket":
        frame = b"\x82\xc0" + b"mask" + b"x" * 64
        opening = (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
                   b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        echoes(ports["http"], count, opening, b"HTTP/1.1 101", frame,
               lambda got: len(frame) if got is None else got == frame)
    elif workload == "tcp":
        from origin import ANSWER
        echoes(ports["tcp"], count, None, None, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
               lambda got: len(ANSWER) if got is None else got == ANSWER)


def worker(folder, ports):
    """The configuration of a worker whose circuits want permits."""
    path = folder + "/worker.toml"
    with open(path, "w") as file:
        file.write("""[secrets]
api_secret = "%s"
jwt_secret = "not used"
[permit_hash]
secret = "%s"
[causeway]
management = "127.0.0.1:%d"
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = { host = "127.0.0.1", port = %d }
""" % (scale.TOKEN, KEY, ports["management"], ports["http"]))
    return path


class Proxy:
    def __init__(self, tool, binary, folder, ports, workload):
        self.log = open(folder + "/proxy.log", "w+")
        if workload == "circuit":
            command = [binary, "serve", "-f", worker(folder, ports)]
        else:
            command = [binary, "-c", folder + "/bootstrap.json", "--drain-time-s", "1", "--disable-hot-restart"]
        self.process = subprocess.Popen([*tool, *command, "--concurrency", "1", "-l", "error"],
                                        stdout=self.log, stderr=self.log)
        port = ports["management" if workload == "circuit" else "http"]
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    sys.exit("FAIL the proxy did not start: %s" % self.log.read()[-800:])
                time.sleep(0.1)
        if workload == "circuit":
            circuits = [{**scale.circuit(i, ports["origin"]), "open_to_public": False} for i in range(2)]
            scale.announce(port, circuits, self.process.pid)

    def stop(self):
        # The tool's own child gets the signal where there is one: strace passes none on.
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        for pid in map(int, children or [self.process.pid]):
            os.kill(pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("FAIL the proxy did not stop")


def callgrind(path):
    """The instructions of a run, and how often it asked for memory."""
    names, asked, called, total = {}, 0, None, 0
    with open(path) as lines:
        for line in lines:
            if line.startswith("cfn="):
                number, _, name = line[4:].strip().partition(" ")
                if name:
                    names[number] = name
                called = names.get(number, "")
            elif line.startswith("fn="):
                number, _, name = line[3:].strip().partition(" ")
                if name:
                    names[number] = name
            elif line.startswith("calls=") and called and ALLOCATORS.search(called):
                asked += int(line[6:].split()[0])
            elif line.startswith(("summary:", "totals:")):
                total = int(line.split()[1])
    return {"instructions": total, "allocations": asked}


def calls(path):
    """The system calls of a run, but for those that wait."""
    count = 0
    with open(path) as lines:
        for line in lines:
            columns = line.split()
            if len(columns) >= 5 and columns[0][0].isdigit() and columns[-1] not in WAITS | {"total"}:
                count += int(columns[3])
    return {"syscalls": count}


def measure(workload, binary, ports, folder, with_calls):
    figures, most = {}, LONG[workload]
    for length in (SHORT, most):
        out = "%s/%s.%d" % (folder, workload, length)
        tools = [(["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out], callgrind)]
        if with_calls:
            tools.append((["strace", "-f", "-c", "-o", out + ".calls"], calls))
        for tool, read in tools:
            proxy = Proxy(tool, binary, folder, ports, workload)
            try:
                load(workload, ports, length)
            finally:
                proxy.stop()
            for name, value in read(out if read is callgrind else out + ".calls").items():
                figures.setdefault(name, []).append(value)
    return {name: (long - short) / (most - SHORT) for name, (short, long) in figures.items()}


def judge(workload, figures, budgets):
    """Prints the figures beside their budgets. Whether all are within."""
    within = True
    for name, figure in figures.items():
        budget = budgets.get(workload, {}).get(name)
        shown = "%.0f" % figure if name == "instructions" else "%.2f" % max(figure, 0)
        print("%s: %s %s per %s, budget %s" % (workload, shown, name, UNITS[workload], "not set" if budget is None else budget), flush=True)
        if figure <= 0 and name != "allocations":
            print("FAIL %s: nothing was counted" % workload)
            within = False
        elif budget is not None and figure > budget * (100 + TOLERANCE[name]) / 100 + STRAY:
            print("FAIL %s: %s over the budget, of which %d %% more are allowed" % (workload, name, TOLERANCE[name]))
            within = False
        elif budget and figure < budget * (100 - TOLERANCE[name]) / 100:
            print("the budget can be lowered from %s to %s" % (budget, shown))
    return within


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default="target/release/causeway")
    parser.add_argument("--only", default=",".join(UNITS))
    parser.add_argument("--without-calls", action="store_true", help="where strace may not be used")
    options = parser.parse_args()
    needed = ["valgrind", "h2load", "openssl", "pgrep"] + ([] if options.without_calls else ["strace"])
    missing = [tool for tool in needed if not shutil.which(tool)]
    if missing:
        # Where a build is judged, nothing is skipped.
        sys.exit("FAIL needed: " + ", ".join(missing)) if os.environ.get("CI") else print("skipped, needed:", *missing)
        return
    if not options.without_calls and subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode:
        print("system calls are not counted: nothing may be traced here")
        options.without_calls = True
    with open(BUDGETS) as file:
        budgets = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"],
                       check=True, capture_output=True)
        origin, *rest = free_ports(6)
        ports = dict(zip(("http", "tls", "tcp", "up", "management"), rest), origin=origin)
        with open(folder + "/bootstrap.json", "w") as file:
            json.dump(bootstrap(ports, origin, folder), file)
        server = subprocess.Popen([sys.executable, os.path.join(HERE, "origin.py"), str(origin)])
        try:
            within = True
            for workload in options.only.split(","):
                figures = measure(workload, os.path.abspath(options.binary), ports, folder, not options.without_calls)
                within &= judge(workload, figures, budgets)
        finally:
            server.terminate()
            server.wait()
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
