#!/usr/bin/env python3
"""Days of traffic in less time: what leaks, what breaks off, what is not counted back.

    soak.py BINARY [--minutes 20] [--names 200000] [--connections 1000000] [--cpu 40]

A worker with a hundred circuits (HTTP, gRPC and TCP, by subdomain, path with TLS, and port) and a process from an Envoy
bootstrap stand between one program's clients and kernels, of which many behave badly: they leave in the middle, answer partly,
early or too much, end connections that they had promised to keep, are slow or never say anything. Meanwhile circuits, clusters and
endpoints change, come and go, statistics and dumps are read, and the access log is moved away. Then come NAMES circuits that
live for a moment, and CONNECTIONS short connections.

What must hold: WebSockets, event streams, TCP connections and gRPC streams whose circuit nobody touches live from the first moment
to the last, without a loss; every answer is that of the kernel and the request which it is for; every body is whole, or visibly
cut; in the end every gauge of what is active is 0, every request has its line in the access log, nothing is left of circuits that
are gone; memory, descriptors and threads are those of the beginning; the log holds no panic and no line that is not
expected. Everything together takes CPU percent of a core: the rate follows.
"""
import argparse
import asyncio
import collections
import json
import os
import random
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from soak_wire import (BLOCK, DATA, GONE, HEADERS, RST, UPGRADE, Cut, Http2, Kernel, Wrong, chunk, echo, grpc_server,  # noqa: E402
                       head, message, pieces, read_message, reset, summed)
from storm import KIND, NO_LIMIT, at, until  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN = "soak"
DEADLINE = 60
PORTS = 30
CHURNED = 1000
PHASE_MB = 16
# Seconds with hardly a request, a change or a scrape, before it is measured.
REST = 30
# Lines at level WARN that say what these clients and kernels do.
EXPECTED = re.compile(r"connection of a TCP proxy failed|endpoint is (un)?healthy|endpoint is ejected|no longer ejected")


def uuid(n, kind=0):
    return f"00000000-0000-4000-{8000 + kind}-{n:012d}"


def circuit(n, kernel, protocol="http", port=None, app="soak", kernels=1):
    return {"id": uuid(n), "app": app, "protocol": protocol, "app_mode": "interactive", "worker": uuid(0), "user_id": uuid(0),
            "frontend_mode": "port" if port else "wildcard", "port": port, "subdomain": None if port else f"c{n}",
            "open_to_public": True, "envs": {}, "session_ids": [uuid(n, 1)],
            "route_info": [route(n, kernel, i) for i in range(kernels)]}


def route(n, kernel, i=0):
    return {"session_id": uuid(n, 1), "route_id": uuid(n, 2 + i), "kernel_host": f"127.0.0.{1 + i}", "kernel_port": kernel, "traffic_ratio": 1.0}


class Proxy:
    """A process under watch."""

    def __init__(self, name, command, directory):
        self.name, self.log, self.samples = name, os.path.join(directory, name + ".log"), []
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pid = self.process.pid

    def ask(self, path, method="GET", body=None, limit=DEADLINE):
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"X-BackendAI-Token": TOKEN, "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=limit) as answer:
            return answer.read().decode()

    async def call(self, *args):
        return await asyncio.to_thread(self.ask, *args)

    async def ready(self):
        def listening():
            with open(self.log) as f:
                said = f.read()
            if self.process.poll() is not None:
                sys.exit(f"FAIL {self.name} has ended:\n{said[-2000:]}")
            found = re.search(r"management=Some\(127\.0\.0\.1:(\d+)\)", said)
            return found and int(found[1])
        self.admin = await until("the management port is told", listening)
        return self

    def sample(self, started):
        with open(f"/proc/{self.pid}/status") as f:
            status = dict(line.split(":", 1) for line in f)
        now = (time.monotonic() - started, int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{self.pid}/fd")), int(status["Threads"]))
        self.samples.append(now)
        return now

    def ticks(self):
        with open(f"/proc/{self.pid}/stat") as f:
            return sum(map(int, f.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def stats(self):
        return dict(line.rsplit(": ", 1) for line in self.ask("/stats").splitlines() if ": " in line)

    def active(self):
        """Gauges of what is under way, that are not 0."""
        return {k: v for k, v in self.stats().items() if re.search(r"(cx|rq|upgrades|cx_http\d|pending)_active$|_parked$", k) and v != "0"
                and not k.startswith("http.admin.")}

    def odd(self):
        lines = collections.Counter()
        with open(self.log) as f:
            for line in f:
                if re.search(r"\b(WARN|ERROR)|panick|backtrace", line) and not EXPECTED.search(line):
                    lines[re.sub(r"\d+", "#", re.sub(r"^\S+\s+", "", line.strip()))[:300]] += 1
        return lines


def slope(points):
    """Of a straight line through them, for an hour."""
    n = len(points)
    if n < 3:
        return 0.0
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    over = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / over * 3600 if over else 0.0


class Soak:
    def __init__(self, args, directory):
        self.args, self.directory = args, directory
        self.started, self.counts, self.failures = time.monotonic(), collections.Counter(), []
        self.rate, self.over, self.paused = 40.0, False, False
        self.tasks, self.long, self.numbers = set(), [], {}
        self.nonce, self.version, self.rotated = 0, 0, 0
        self.trust = ssl.create_default_context()
        self.trust.check_hostname, self.trust.verify_mode = False, ssl.CERT_NONE
        self.h2 = ssl.create_default_context()
        self.h2.check_hostname, self.h2.verify_mode = False, ssl.CERT_NONE
        self.h2.set_alpn_protocols(["h2"])

    def say(self, what):
        print(f"{time.monotonic() - self.started:7.0f} s  {what}", flush=True)

    def fail(self, what):
        self.failures.append(what)
        if len(self.failures) <= 50:
            self.say(f"FAIL {what}")

    # --- set-up -------------------------------------------------------------------------------------
    async def begin(self):
        self.kernels = [await Kernel(f"k{n}").open() for n in range(3)]
        self.grpc = await grpc_server()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        self.echo = server.sockets[0].getsockname()[1]
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        self.wildcard, self.path, management, self.short = [s.getsockname()[1] for s in held]
        for self.first in range(21000, 32000, PORTS):
            try:
                held += [socket.create_server(("127.0.0.1", self.first + n)) for n in range(PORTS)]
                break
            except OSError:
                continue
        for s in held:
            s.close()
        self.origin = subprocess.Popen([sys.executable, HERE + "/origin.py", str(self.short)])
        self.worker = Proxy("worker", self.worker_command(management), self.directory)
        self.envoy = Proxy("bootstrap", self.bootstrap_command(), self.directory)
        self.proxies = [await self.worker.ready(), await self.envoy.ready()]
        await until("the worker is ready", lambda: self.quietly(self.worker, "/readyz"))
        await until("the other is ready", lambda: self.quietly(self.envoy, "/ready"))
        lines = (await self.envoy.call("/listeners")).split()
        self.listeners = {line.split("::")[0]: int(line.rsplit(":", 1)[1]) for line in lines}
        self.stable = []
        for n in range(1, 101):
            kind = "grpc" if n <= 10 else "tcp" if n <= 20 else "http"
            port = self.first + n - 11 if 10 < n <= 40 else None
            behind = self.grpc if kind == "grpc" else self.echo if kind == "tcp" else self.kernels[n % 3].port
            app = {0: "sticky", 1: "limited"}.get(n % 10, "soak")
            self.stable.append(circuit(n, behind, kind, port, app, 2 if app == "sticky" and kind == "http" else 1))
        self.stable.append(circuit(101, self.short))
        await self.worker.call("/v1/circuits", "PUT", self.stable)
        # Kernels that listen at 127.0.0.1 alone: the second of sticky ones is unreachable on purpose.

    @staticmethod
    async def quietly(proxy, path):
        try:
            return await proxy.call(path)
        except OSError:
            return None

    def worker_command(self, management):
        with open(self.directory + "/worker.toml", "w") as f:
            f.write(f"""[secrets]
api_secret = "{TOKEN}"
[logging]
level = "{self.args.level}"
drivers = ["console"]
[causeway]
management = "127.0.0.1:{management}"
path_frontend = "127.0.0.1:{self.path}"
path_tls_cert = "{self.directory}/cert.pem"
path_tls_privkey = "{self.directory}/key.pem"
kernel_check_period = 5.0
tcp_log = false
[[causeway.policies]]
app = "sticky"
sticky = true
[[causeway.policies]]
app = "limited"
connections = {{ max = 64, queue = 1024, queue_timeout = 10.0 }}
rate_limit = {{ requests = 1000, per = 1.0, burst = 2000 }}
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = {{ host = "127.0.0.1", port = {self.wildcard} }}
[proxy_worker.port_proxy]
bind_host = "127.0.0.1"
bind_port_range = [{self.first}, {self.first + PORTS - 1}]
""")
        return [self.args.binary, "serve", "-f", self.directory + "/worker.toml", "--concurrency", "2"]

    def bootstrap_command(self):
        def http(name, prefix, **more):
            router = {"name": "r", "typed_config": {"@type": KIND + "filters.http.router.v3.Router"}}
            routes = {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/grpc"}, "route": {"cluster": "g", "timeout": "0s"}},
                {"match": {"prefix": "/", "headers": [{"name": "x-cluster", "present_match": True}]},
                 "route": {"cluster_header": "x-cluster", "timeout": "20s"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "o", "timeout": "0s", "retry_policy": {"retry_on": "reset-before-request"}}}]}]}
            log = {"name": "l", "typed_config": {"@type": KIND + "access_loggers.file.v3.FileAccessLog", "path": self.directory + "/access.log"}}
            manager = {"@type": KIND + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": prefix,
                       "access_log": [log], "route_config": routes, "http_filters": [router], "upgrade_configs": [{"upgrade_type": "websocket"}]}
            return {"name": name, **at(0), "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}], **more}]}
        tls = {"name": "tls", "typed_config": {
            "@type": KIND + "transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{
                    "certificate_chain": {"filename": self.directory + "/cert.pem"}, "private_key": {"filename": self.directory + "/key.pem"}}]}}}
        tcp = {"name": "t", "typed_config": {"@type": KIND + "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "e"}}
        self.write_clusters(0)
        self.write_endpoints(0)
        text = {"node": {"id": "soak", "cluster": "soak"}, "admin": at(0), "dynamic_resources": {"cds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": self.directory + "/cds.json"}}},
            "static_resources": {"listeners": [http("clear", "clear"), http("tls", "tls", transport_socket=tls),
                                               {"name": "tcp", **at(0), "filter_chains": [{"filters": [tcp]}]}]}}
        with open(self.directory + "/bootstrap.json", "w") as f:
            json.dump(text, f)
        return [self.args.binary, "-c", self.directory + "/bootstrap.json", "--concurrency", "2", "-l", self.args.level.lower()]

    def write(self, name, kind, resources):
        """In the place of the file before, at once."""
        self.version += 1
        path = os.path.join(self.directory, name)
        with open(path + ".new", "w") as f:
            json.dump({"version_info": str(self.version), "resources": [{"@type": "type.googleapis.com/" + kind, **r} for r in resources]}, f)
        os.rename(path + ".new", path)

    def write_clusters(self, turn):
        eds = {"eds_config": {"resource_api_version": "V3", "path_config_source": {"path": self.directory + "/eds.json"}}}
        def cluster(name, port=None, http2=False):
            form = {"explicit_http_config": {"http2_protocol_options" if http2 else "http_protocol_options": {}}}
            found = {"name": name, "connect_timeout": "5s", "circuit_breakers": {"thresholds": [NO_LIMIT]}, "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": KIND + "upstreams.http.v3.HttpProtocolOptions", **form}}}
            if port is None:
                return {**found, "type": "EDS", "eds_cluster_config": eds}
            return {**found, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": at(port)}]}]}}
        fixed = [cluster("o", self.kernels[0].port), cluster("g", self.grpc, True), cluster("e", self.echo), cluster("moving")]
        # A tenth of them is away in each turn, and each comes back as it was or a little different.
        churned = [cluster(f"x{n}", self.kernels[n % 3].port) for n in range(30) if (n + turn) % 10]
        for c in churned[turn % 7::7]:
            c["connect_timeout"] = f"{4 + turn % 3}s"
        self.write("cds.json", "envoy.config.cluster.v3.Cluster", fixed + churned)

    def write_endpoints(self, turn):
        some = [{"endpoint": at(self.kernels[(turn + n) % 3].port)} for n in range(1 + turn % 2)]
        self.write("eds.json", "envoy.config.endpoint.v3.ClusterLoadAssignment", [{"cluster_name": "moving", "endpoints": [{"lb_endpoints": some}]}])

    # --- clients ---------------------------------------------------------------------------------------
    def place(self, known=True):
        """Where a request can go: port, fields and path in front, kernel, whether it is TLS."""
        kind = random.random()
        if kind < 0.2:
            return self.listeners["clear"], "Host: a\r\n", "", "k0", None
        if kind < 0.3:
            return self.listeners["tls"], "Host: a\r\n", "", "k0", self.trust
        n = random.randint(21, 100)
        kernel = f"k{n % 3}"
        if kind < 0.5:
            app = self.stable[n - 1]["app"]
            return self.path, f"Host: 127.0.0.1:{self.path}\r\n", f"/{uuid(n, 1)}/{app}", kernel, self.trust
        if n <= 40:
            port = self.first + n - 11
            return port, f"Host: 127.0.0.1:{port}\r\n", "", kernel, None
        return self.wildcard, f"Host: c{n}.apps.test\r\nCookie: a{self.nonce}=b; session={random.random()}\r\n", "", kernel, None

    async def connect(self, port, tls, **more):
        if tls:
            more.update(ssl=tls, server_hostname="a.test", ssl_handshake_timeout=DEADLINE)
        return await asyncio.open_connection("127.0.0.1", port, limit=1 << 20, **more)

    def fresh(self):
        self.nonce += 1
        return f"{self.nonce:x}" + "y" * random.randint(0, 4)

    async def ask(self, io, place, what, fields="", method="GET", body=None, sizes=""):
        """One request and its answer. Cut where it visibly did not come to its end."""
        (reader, writer), (_, host, path, kernel, _) = io, place
        rest = sizes + self.fresh()
        try:
            writer.write(f"{method} {path}/{what}/{rest} HTTP/1.1\r\n{host}{fields}\r\n".encode())
            if body is not None:
                await body(writer)
            line, answer = await head(reader)
            while line.split(" ")[1] in ("100", "103"):
                line, answer = await head(reader)
            status = int(line.split(" ")[1])
            parts = pieces(reader, answer, answer=True)
            if status != 200:
                answer["said"] = b"".join([part async for part in parts])[:200]
            size, total = await summed(parts)
        except GONE as error:
            raise Cut(repr(error)) from None
        if status == 200 and kernel and (answer.get("x-kernel") != kernel or answer.get("x-asked") != rest):
            raise Wrong(f"{what}: asked {kernel} for {rest}, and got {answer}")
        return status, answer, size, total

    async def whole(self, *args, **more):
        status, answer, size, total = await self.ask(*args, **more)
        if status != 200:
            raise Wrong(f"{args[2]}: {status} {answer}")
        return size, total

    async def kept(self):
        """A connection that stays for a while."""
        place = self.place()
        io = await self.connect(place[0], place[4])
        for _ in range(random.randint(2, 30)):
            await self.whole(io, place, random.choice(["small", "small", "small", "hints"]))
            await asyncio.sleep(random.random() * 2)
        io[1].close()

    async def once(self):
        place = self.place()
        io = await self.connect(place[0], place[4])
        await self.whole(io, place, "small", "Connection: close\r\n")
        if await io[0].read():
            raise Wrong("more after the end")
        io[1].close()

    async def download(self):
        place = self.place()
        io = await self.connect(place[0], place[4])
        size = random.randint(1, 1 << random.randint(10, 22))
        got, total = await self.whole(io, place, "bytes", sizes=f"{size}/")
        wanted = zlib.crc32((BLOCK * (size // len(BLOCK) + 1))[:size])
        if (got, total) != (size, wanted):
            raise Wrong(f"a download of {size}: {got}, sum {total} instead of {wanted}")
        io[1].close()

    @staticmethod
    def body(size, chunked, pause=0.0):
        async def send(writer):
            for at_ in range(0, size, len(BLOCK)):
                data = BLOCK[: size - at_]
                writer.write(chunk(data) if chunked else data)
                await writer.drain()
                await asyncio.sleep(pause)
            if chunked:
                writer.write(b"0\r\n\r\n")
        return send, "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {size}\r\n"

    async def upload(self, pause=0.0):
        place = self.place()
        io = await self.connect(place[0], place[4])
        size = random.randint(0, 1 << random.randint(8, 21))
        send, fields = self.body(size, random.random() < 0.5, pause)
        if random.random() < 0.3:
            fields += "Expect: 100-continue\r\n"
        reader, writer = io
        writer.write(f"POST {place[2]}/sum/{self.fresh()} HTTP/1.1\r\n{place[1]}{fields}\r\n".encode())
        await send(writer)
        line, answer = await head(reader)
        while line.split(" ")[1] == "100":
            line, answer = await head(reader)
        said = b"".join([piece async for piece in pieces(reader, answer)])
        wanted = b"%08x" % zlib.crc32((BLOCK * (size // len(BLOCK) + 1))[:size])
        if line.split(" ")[1] in ("502", "503") and b"200 OK" not in said:
            # A kept connection that ended at that moment: what has a body is not sent twice.
            self.counts["upload: not sent"] += 1
            return writer.close()
        if said != wanted:
            raise Wrong(f"an upload of {size}: {line} {said[:100]} instead of {wanted}")
        # The connection is as good as before.
        await self.whole(io, place, "small")
        writer.close()

    async def slow_upload(self):
        await self.upload(0.3)

    async def slow_reader(self):
        place = self.place()
        io = await self.connect(place[0], place[4])
        raw = io[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        size = 600_000
        io[1].write(f"GET {place[2]}/bytes/{size}/{self.fresh()} HTTP/1.1\r\n{place[1]}\r\n".encode())
        _, answer = await head(io[0])
        got = 0
        while got < size:
            data = await io[0].read(20_000)
            if not data:
                raise Wrong(f"a slow reader got {got} of {size}")
            got += len(data)
            await asyncio.sleep(0.05)
        io[1].close()

    async def leaves(self):
        """A client that goes in the middle of something."""
        place = self.place()
        io = await self.connect(place[0], place[4])
        what = random.choice(["bytes/3000000/", "hang/", "events/", "sum/", "head", "early/", "nothing"])
        if what == "head":
            io[1].write(b"GET / HTT")
        elif what == "sum/":
            io[1].write(f"POST {place[2]}/sum/{self.fresh()} HTTP/1.1\r\n{place[1]}Content-Length: 900000\r\n\r\n".encode() + BLOCK)
        elif what != "nothing":
            io[1].write(f"GET {place[2]}/{what}{self.fresh()} HTTP/1.1\r\n{place[1]}\r\n".encode())
        if what[-1] == "/" and what not in ("hang/", "sum/") and random.random() < 0.7:
            await io[0].read(1000)
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.02, 0.2]))
        reset(io[1]) if random.random() < 0.5 else io[1].close()

    async def bad_kernel(self):
        place = self.place()
        io = await self.connect(place[0], place[4])
        what = random.choice(["die", "half", "closes", "more"])
        try:
            status, *_ = await self.ask(io, place, what)
            if what == "half" and status == 200 or what == "die" and status == 200:
                raise Wrong(f"{what} looks whole")
            if what in ("closes", "more") and status != 200:
                raise Wrong(f"{what}: {status}")
            # Whatever it was, the next answer is that of the next request; it may meet an end, and is then asked again.
            await self.whole(io, place, "small")
        except Cut:
            if what != "half":
                raise Wrong(f"{what}: cut") from None
        io[1].close()

    async def early(self):
        """An answer before the body has come."""
        place = self.place()
        io = await self.connect(place[0], place[4])
        send, fields = self.body(random.randint(0, 400_000), random.random() < 0.5)
        try:
            status, *_ = await self.ask(io, place, "early", fields, "POST", send)
            self.counts[f"early: {status}"] += 1
            # The kernel's reset can overtake its answer.
            if status not in (200, 502, 503):
                raise Wrong(f"early: {status}")
            await self.whole(io, place, "small")
        except (Cut, OSError):
            self.counts["early: cut"] += 1
        io[1].close()

    async def upgrade_refused(self):
        """An upgrade that its kernel leaves at once, and one that it refuses in part."""
        place = self.place()
        io = await self.connect(place[0], place[4])
        io[1].write(f"GET {place[2]}/leaves/{self.fresh()} HTTP/1.1\r\n{place[1]}{UPGRADE}\r\n".encode())
        line, _ = await head(io[0])
        if line.split(" ")[1] != "101":
            raise Wrong(f"an upgrade: {line}")
        await io[0].read()
        io[1].close()

    async def short_socket(self):
        place = self.place()
        io = await self.connect(place[0], place[4])
        io[1].write(f"GET {place[2]}/ws/{self.fresh()} HTTP/1.1\r\n{place[1]}{UPGRADE}\r\n".encode())
        await head(io[0])
        for n in range(random.randint(0, 5)):
            io[1].write(message(b"%d" % n, True))
            if await read_message(io[0]) != b"%d" % n:
                raise Wrong("a WebSocket has lost something")
        reset(io[1]) if random.random() < 0.3 else io[1].close()

    async def short_tcp(self):
        n = random.randint(11, 20)
        io = await self.connect(random.choice([self.first + n - 11, self.listeners["tcp"]]), None)
        size = random.randint(1, 200_000)
        data = (BLOCK * 4)[:size]

        async def send():
            io[1].write(data)
            await io[1].drain()
            io[1].write_eof()
        sending = asyncio.ensure_future(send())
        got = await io[0].read(-1)
        await sending
        if got != data:
            raise Wrong(f"a TCP echo of {size}: {len(got)}")
        io[1].close()

    async def http2(self):
        """Some streams of one connection: whole, reset, of gRPC."""
        n = random.randint(21, 100)
        if random.random() < 0.7:
            port, authority, front = self.path, f"127.0.0.1:{self.path}", f"/{uuid(n, 1)}/{self.stable[n - 1]['app']}"
        else:
            port, authority, front = self.listeners["tls"], "a", ""
        session = Http2(*await self.connect(port, self.h2))

        async def one():
            what, wanted = random.choice([("small", None), ("bytes", 200_001), ("sum", 70_000), ("reset", None), ("die", None)])
            post = what == "sum"
            size = f"{wanted}/" if what == "bytes" else ""
            fields = [(":method", "POST" if post else "GET"), (":scheme", "https"), (":authority", authority),
                      (":path", f"{front}/{'bytes/3000000' if what == 'reset' else what}/{size}{self.fresh()}")]
            stream, queue = session.open(fields, not post)
            if post:
                await session.send(stream, BLOCK, False)
                await session.send(stream, BLOCK[: wanted - len(BLOCK)], True)
            got, status = b"", None
            while True:
                kind, flags, payload = await asyncio.wait_for(queue.get(), DEADLINE)
                if kind == HEADERS and status is None:
                    # What comes before it says that there is no table.
                    status = payload.lstrip(bytes(range(0x20, 0x40)))[0]
                if kind == DATA:
                    got += payload
                    if what == "reset":
                        return session.reset(stream)
                if kind == RST:
                    raise Wrong(f"HTTP/2 {what}: reset {payload}, {len(got)} bytes")
                if flags & 1:
                    break
            session.forget(stream)
            if what == "die":
                return
            if post and status != 0x88:
                # As with HTTP/1: a kept connection that ended at that moment.
                self.counts["upload: not sent"] += 1
                return
            # 0x88 is the status 200.
            if status != 0x88 or wanted and what == "bytes" and got != (BLOCK * 4)[:wanted] or post and got != b"%08x" % zlib.crc32((BLOCK * 2)[:wanted]):
                raise Wrong(f"HTTP/2 {what}: {status} {len(got)} bytes")
        try:
            for _ in range(random.randint(1, 4)):
                await asyncio.gather(*(one() for _ in range(random.randint(1, 6))))
        finally:
            session.task.cancel()

    async def moving(self):
        """By clusters that come and go: an answer is right, or there is none."""
        n = random.randrange(30)
        place = (self.listeners["clear"], f"Host: a\r\nX-Cluster: {random.choice([f'x{n}', 'moving'])}\r\n", "", None, None)
        io = await self.connect(place[0], None)
        status, answer, *_ = await self.ask(io, place, "small")
        if "moving" not in place[1] and answer.get("x-kernel", f"k{n % 3}") != f"k{n % 3}" or status not in (200, 503) \
                or "moving" in place[1] and status != 200:
            raise Wrong(f"a moving cluster {place[1]}: {status} {answer}")
        self.counts[f"moving: {status}"] += 1
        io[1].close()

    async def churned(self):
        n = CHURNED + random.randrange(200)
        place = (self.wildcard, f"Host: c{n}.apps.test\r\n", "", f"k{n % 3}", None)
        io = await self.connect(place[0], None)
        try:
            what = random.choice(["small", "small", "bytes", "ws", "hang"])
            if what == "ws":
                io[1].write(f"GET /ws/x HTTP/1.1\r\n{place[1]}{UPGRADE}\r\n".encode())
                await asyncio.wait_for(io[0].read(1000), 5)
            elif what == "hang":
                await asyncio.wait_for(self.ask(io, place, what), 3)
            else:
                status, _, size, _ = await self.ask(io, place, what, sizes="1000000/" if what == "bytes" else "")
                if status not in (200, 400, 502, 503) or status == 200 and what == "bytes" and size != 1_000_000:
                    raise Wrong(f"a circuit that changes: {status}, {size} bytes of {what}")
                self.counts[f"churned: {status}"] += 1
        except (Cut, asyncio.TimeoutError, OSError) as error:
            self.counts[f"churned: {type(error).__name__}"] += 1
        io[1].close()

    # --- those that stay ----------------------------------------------------------------------------------------
    async def stays(self, name, work):
        self.numbers[name] = 0
        try:
            await work(name)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.fail(f"{name} ended after {self.numbers[name]} messages: {error!r}")

    async def socket_stays(self, name, place):
        reader, writer = await self.connect(place[0], place[4])
        writer.write(f"GET {place[2]}/ws/x HTTP/1.1\r\n{place[1]}{UPGRADE}\r\n".encode())
        await head(reader)
        while True:
            text = b"%d" % self.numbers[name]
            writer.write(message(text, True))
            got = await asyncio.wait_for(read_message(reader), DEADLINE)
            if got != text:
                raise Wrong(f"{got} instead of {text}")
            self.numbers[name] += 1
            await asyncio.sleep(2)

    async def events_stay(self, name, place):
        reader, writer = await self.connect(place[0], place[4])
        writer.write(f"GET {place[2]}/events/x HTTP/1.1\r\n{place[1]}\r\n".encode())
        _, fields = await head(reader)
        parts = pieces(reader, fields)
        async for part in parts:
            if part != b"data: %d\n\n" % self.numbers[name]:
                raise Wrong(f"{part} instead of {self.numbers[name]}")
            self.numbers[name] += 1
        raise Wrong("the end")

    async def tcp_stays(self, name, port):
        reader, writer = await self.connect(port, None)
        while True:
            text = b"%d\n" % self.numbers[name]
            writer.write(text)
            if await asyncio.wait_for(reader.readline(), DEADLINE) != text:
                raise Wrong("not what was sent")
            self.numbers[name] += 1
            await asyncio.sleep(2)

    async def grpc_stays(self, name, port, tls, authority, path):
        session = Http2(*await self.connect(port, tls))
        stream, queue = session.open([(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", path),
                                      ("content-type", "application/grpc"), ("te", "trailers")], False)
        left = b""
        try:
            while True:
                text = b"%012d" % self.numbers[name]
                await session.send(stream, text)
                while len(left) < len(text):
                    kind, flags, payload = await asyncio.wait_for(queue.get(), DEADLINE)
                    if kind == RST or flags & 1:
                        raise Wrong(f"the end: {kind} {payload}")
                    left += payload if kind == DATA else b""
                if left != text:
                    raise Wrong(f"{left} instead of {text}")
                left = b""
                self.numbers[name] += 1
                await asyncio.sleep(2)
        except asyncio.CancelledError:
            # To its end, with trailers.
            session.frame(DATA, 1, stream)
            while True:
                kind, flags, _ = await asyncio.wait_for(queue.get(), 10)
                if flags & 1 and kind == HEADERS:
                    break
                if kind == RST:
                    self.fail(f"{name} has no trailers")
                    break
            session.task.cancel()
            raise

    def begin_long(self):
        jobs = {}
        for i in range(24):
            place = self.place()
            jobs[f"WebSocket {i}"] = lambda name, p=place: self.socket_stays(name, p)
            other = self.place()
            jobs[f"event stream {i}"] = lambda name, p=other: self.events_stay(name, p)
        for i in range(10):
            port = self.first + i
            jobs[f"TCP {i}"] = lambda name, p=port: self.tcp_stays(name, p)
            jobs[f"gRPC {i}"] = lambda name, n=i + 1: self.grpc_stays(name, self.wildcard, None, f"c{n}.apps.test", "/s/m")
        for i in range(5):
            jobs[f"gRPC by TLS {i}"] = lambda name: self.grpc_stays(name, self.listeners["tls"], self.h2, "a", "/grpc/m")
        for i in range(5):
            jobs[f"TCP of the bootstrap {i}"] = lambda name: self.tcp_stays(name, self.listeners["tcp"])
        self.long = [asyncio.ensure_future(self.stays(name, job)) for name, job in jobs.items()]

    # --- what goes on besides -----------------------------------------------------------------------------------
    JOBS = {"kept": 4, "once": 20, "download": 4, "upload": 4, "slow_upload": 1, "slow_reader": 1, "leaves": 15, "bad_kernel": 12,
            "early": 5, "upgrade_refused": 3, "short_socket": 5, "short_tcp": 8, "http2": 5, "moving": 6, "churned": 20}

    async def run_job(self, name):
        try:
            await asyncio.wait_for(getattr(self, name)(), 180)
            self.counts[name] += 1
        except Exception as error:
            self.fail(f"{name}: {error!r}")

    async def mix(self):
        names, weights = list(self.JOBS), list(self.JOBS.values())
        due = time.monotonic()
        while not self.over:
            due = max(due + 1 / self.rate, time.monotonic() - 0.1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.paused or len(self.tasks) > 400:
                continue
            task = asyncio.ensure_future(self.run_job(random.choices(names, weights)[0]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def change(self):
        """One change of a circuit, as the Coordinator would say it."""
        n = CHURNED + random.randrange(200)
        kernel, what = self.kernels[n % 3].port, random.random()
        if what < 0.5:
            self.worker.ask("/v1/circuits", "POST", [circuit(n, kernel, kernels=random.randint(1, 2))])
        elif what < 0.75:
            self.worker.ask(f"/v1/circuits/{uuid(n)}", "DELETE")
        else:
            some = [route(n, kernel, i) for i in range(random.randint(0, 2))]
            self.worker.ask(f"/v1/circuits/{uuid(n)}/routes", "PUT", some)

    def changes(self):
        """In a thread of its own: dozens a second."""
        turn = 0
        while not self.over:
            time.sleep(0.2 if self.paused else 1 / self.args.changes)
            if self.paused:
                continue
            turn += 1
            try:
                self.change()
                self.counts["changes"] += 1
            except urllib.error.HTTPError as error:
                # A circuit that is not there.
                if error.code != 404:
                    self.fail(f"a change: {error.code} {error.read()[:300]}")
            except OSError as error:
                self.fail(f"a change: {error!r}")
            if turn % 30 == 0:
                self.write_clusters(turn // 30)
                self.write_endpoints(turn // 30)

    def scrapes(self):
        turn = 0
        while not self.over:
            time.sleep(2)
            if self.paused:
                continue
            turn += 1
            try:
                for proxy in self.proxies:
                    for path in ("/metrics", "/stats", "/stats/prometheus", "/clusters") + (("/config_dump",) if turn % 5 == 0 else ()):
                        proxy.ask(path)
                        self.counts["scrapes"] += 1
                if turn % 10 == 0:
                    self.rotated += 1
                    os.rename(self.directory + "/access.log", f"{self.directory}/access.log.{self.rotated}")
                    self.envoy.ask("/reopen_logs", "POST")
            except OSError as error:
                self.fail(f"a scrape: {error!r}")

    async def watch(self):
        last, before = time.monotonic(), None
        while not self.over:
            await asyncio.sleep(5)
            for proxy in self.proxies:
                if proxy.process.poll() is not None:
                    self.fail(f"{proxy.name} has ended with {proxy.process.returncode}")
                    self.over = True
                    return
                proxy.sample(self.started)
            spent = time.process_time() + sum(p.ticks() for p in self.proxies)
            now = time.monotonic()
            if before is not None and not self.paused:
                share = (spent - before) / (now - last) * 100
                self.rate = min(400.0, max(5.0, self.rate * min(1.3, max(0.7, self.args.cpu / max(share, 1)))))
            last, before = now, spent

    # --- phases -------------------------------------------------------------------------------------------------
    async def rest(self, what):
        """Waits until what was for the moment is over, and measures."""
        self.paused = True
        await until("what is under way ends", lambda: not self.tasks, 200)
        await asyncio.sleep(1)
        for n in range(200):
            try:
                await self.worker.call(f"/v1/circuits/{uuid(CHURNED + n)}", "DELETE")
            except urllib.error.HTTPError:
                pass
        # The allocator gives back what nobody has used for some seconds, when somebody next asks it for something: so
        # every thread gets something to do.
        rest = collections.defaultdict(list)
        for _ in range(REST // 5):
            await asyncio.sleep(5)
            await asyncio.gather(*(self.run_job("once") for _ in range(16)))
            for proxy in self.proxies:
                await proxy.call("/stats")
                rest[proxy].append(proxy.sample(self.started)[1:])
        found = {}
        for proxy in self.proxies:
            memory, descriptors, threads = (min(column) for column in zip(*rest[proxy]))
            stats, metrics, dump = [len(await proxy.call(path)) for path in ("/stats", "/metrics", "/config_dump")]
            found[proxy.name] = {"MB": round(memory, 1), "descriptors": descriptors, "threads": threads, "/stats": stats, "/metrics": metrics, "/config_dump": dump}
            self.say(f"{what}: {proxy.name} {found[proxy.name]}")
        self.paused = False
        return found

    def compare(self, what, before, after):
        for name, old in before.items():
            new = after[name]
            for key, room in (("MB", PHASE_MB), ("threads", 0), ("descriptors", 200)):
                if new[key] > old[key] + room:
                    self.fail(f"{what}: {name}: {key} {old[key]} before, {new[key]} after")
            for key in ("/stats", "/metrics", "/config_dump"):
                if new[key] > old[key] * 1.05 + 2000:
                    self.fail(f"{what}: {name}: {key} has {old[key]} bytes before, {new[key]} after")

    async def mixed(self):
        end = time.monotonic() + self.args.minutes * 60
        while time.monotonic() < end and not self.over:
            await asyncio.sleep(min(30, max(0.1, end - time.monotonic())))
            memory = ", ".join(f"{p.name} {p.samples[-1][1]:.1f} MB {p.samples[-1][2]} fds {p.samples[-1][3]} threads" for p in self.proxies if p.samples)
            self.say(f"{sum(self.counts[j] for j in self.JOBS)} jobs, {self.counts['changes']} changes, {self.rate:.0f} jobs/s, {len(self.tasks)} under way; {memory}; {len(self.failures)} failures")

    async def names(self):
        """Circuits that live for a moment: each a cluster, statistics, a route, a pool."""
        batch, n = 500, 1_000_000
        end = n + self.args.names
        while n < end and not self.over:
            some = [circuit(i, self.short) for i in range(n, min(n + batch, end))]
            n += batch
            await self.worker.call("/v1/circuits", "PUT", self.stable + some)
            await asyncio.to_thread(self.use, some)
            self.counts["names"] += len(some)
            if n % 20_000 == 0:
                self.say(f"{self.counts['names']} names, worker {self.worker.samples[-1][1]:.1f} MB")
        await self.worker.call("/v1/circuits", "PUT", self.stable)

    def use(self, circuits):
        with socket.create_connection(("127.0.0.1", self.wildcard), DEADLINE) as connection:
            for c in circuits[::5]:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: %s.apps.test\r\n\r\n" % c["subdomain"].encode())
                got = b""
                while len(got) < 1024 or b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < 1024:
                    more = connection.recv(4096)
                    if not more or got[:15] not in b"HTTP/1.1 200 OK":
                        return self.fail(f"a circuit that lives for a moment: {got[:100]}")
                    got += more

    async def connections(self):
        """Short connections: of HTTP, each with a cookie, a host and a path of its own, and of TCP."""
        done, each = 0, 20_000
        places = [(self.wildcard, "c101.apps.test"), (self.first, None), (self.listeners["tcp"], None), (self.listeners["clear"], "a")]
        while done < self.args.connections and not self.over:
            for port, host in places:
                child = await asyncio.create_subprocess_exec(sys.executable, __file__, "--short", str(port), host or "", str(each // 4), str(done),
                                                             str(self.args.cpu), stdout=asyncio.subprocess.PIPE)
                said, _ = await child.communicate()
                if child.returncode:
                    self.fail(f"short connections to {port}: {said.decode()[-300:]}")
            done += each
            self.counts["short connections"] = done
            if done % 100_000 == 0:
                self.say(f"{done} short connections, " + ", ".join(f"{p.name} {p.samples[-1][1]:.1f} MB" for p in self.proxies))

    async def end(self):
        self.over = True
        await until("what is under way ends", lambda: not self.tasks, 200)
        live = sum(1 for t in self.long if not t.done())
        self.say(f"{live} of {len(self.long)} streams live, after {sum(self.numbers.values())} messages, at least {min(self.numbers.values())} each")
        for task in self.long:
            task.cancel()
        await asyncio.gather(*self.long, return_exceptions=True)
        # Every connection of clients ends with its object.
        import gc
        gc.collect()
        for proxy in self.proxies:
            deadline = time.monotonic() + DEADLINE
            while proxy.active() and time.monotonic() < deadline:
                await asyncio.sleep(1)
            left = {k: v for k, v in proxy.active().items() if not k.endswith("upstream_cx_active")}
            if left:
                self.fail(f"{proxy.name}: still active: {left}")
            for line, times in proxy.odd().items():
                self.fail(f"{proxy.name}: {times} times in the log: {line}")
            warm = [s for s in proxy.samples if s[0] > proxy.samples[-1][0] / 4]
            for at_, what, unit in ((1, "memory", "MB"), (2, "descriptors", ""), (3, "threads", "")):
                self.say(f"{proxy.name}: {what} {warm[0][at_]:.1f} to {warm[-1][at_]:.1f} {unit}, at most {max(s[at_] for s in warm):.1f}, "
                         f"{slope([(s[0], s[at_]) for s in warm]):+.2f} an hour")
        stats = self.envoy.stats()
        asked = sum(int(stats[f"http.{p}.downstream_rq_total"]) for p in ("clear", "tls"))
        await asyncio.sleep(1)
        lines = 0
        for name in os.listdir(self.directory):
            if name.startswith("access.log"):
                with open(os.path.join(self.directory, name), "rb") as f:
                    lines += sum(1 for _ in f)
        if lines != asked:
            self.fail(f"{asked} requests, and {lines} lines in {self.rotated + 1} access logs")
        for proxy in self.proxies:
            proxy.process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(proxy.process.wait, 60)
            if code:
                self.fail(f"{proxy.name} ends with {code}")
        self.say(json.dumps(self.counts))

    async def run(self):
        await self.begin()
        self.begin_long()
        threads = [asyncio.ensure_future(asyncio.to_thread(work)) for work in (self.changes, self.scrapes)]
        work = [asyncio.ensure_future(w) for w in (self.mix(), self.watch())]
        try:
            await asyncio.sleep(self.args.warm_up)
            before = await self.rest("after the warm-up")
            for name in ("mixed", "names", "connections"):
                if self.over:
                    break
                await getattr(self, name)()
                after = await self.rest(f"after {name}")
                self.compare(name, before, after)
                before = after
            await self.end()
            await asyncio.gather(*threads, *work)
        finally:
            # Threads look at it, and are waited for.
            self.over = True
            for proxy in self.proxies + [self.origin]:
                getattr(proxy, "process", proxy).kill()
        return 1 if self.failures else 0


def short(port, host, count, first, cpu):
    """Short connections of a process of its own. Every third leaves before its answer."""
    port, count, first, cpu = int(port), int(count), int(first), float(cpu)
    began = time.process_time(), time.monotonic()
    for n in range(first, first + count):
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
            asked = b"GET /small/%d HTTP/1.1\r\nhost: %s\r\ncookie: session=%d\r\nconnection: close\r\n\r\n" % (n, host.encode(), n) if host else b"%d" % n
            connection.sendall(asked)
            if n % 3 == 0:
                if n % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                continue
            got = connection.recv(65536)
            if not got.startswith(b"HTTP/1.1 200" if host else asked):
                sys.exit(f"{n}: {got[:200]}")
        # A client's part of the work is about a third.
        behind = (time.process_time() - began[0]) * 300 / cpu - (time.monotonic() - began[1])
        if behind > 0.05:
            time.sleep(behind)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=60)
    parser.add_argument("--names", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--changes", type=float, default=30)
    parser.add_argument("--level", default="INFO", help="of the log")
    parser.add_argument("--keep", help="a directory for what is else removed: configuration and logs")
    parser.add_argument("--cpu", type=float, default=40)
    args = parser.parse_args()
    args.binary = os.path.realpath(args.binary)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        if args.keep:
            os.makedirs(args.keep, exist_ok=True)
            directory = os.path.realpath(args.keep)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem",
                        "-out", "cert.pem", "-days", "2", "-subj", "/CN=a.test"], cwd=directory, check=True, stderr=subprocess.DEVNULL)
        soak = Soak(args, directory)
        # So that a run which is ended leaves no process behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = asyncio.run(soak.run())
    print(f"{'PASS' if not code else 'FAIL'} {len(soak.failures)} failures", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--short"]:
        sys.exit(short(*sys.argv[2:]))
    main()
