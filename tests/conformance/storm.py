#!/usr/bin/env python3
"""Thousands of clients that connect in one moment, in clear text and by TLS.

    storm.py BINARY [--clients 5000] [--rounds 3] [--bound-mb 20]

A third of them leave at once (some with a reset), a third say a part of what they would have to and stay, and the rest ask and
are answered. A stream, an echo over TCP and an echo over a WebSocket that were there before go on without a loss. Afterwards
every descriptor is closed, and memory is back within the bound of what it was. Then the limit of
connections, and a process that runs out of descriptors: both turn clients away with a reason, and serve again once there is
room. At last 2,000 listeners of one process with two threads: all of them serve, and where there are not descriptors enough the
error names the limit.
"""
import argparse
import asyncio
import json
import os
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

KIND = "type.googleapis.com/envoy.extensions."
DEADLINE = 60
LISTENERS = 2000
NO_LIMIT = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
passed = 0
started = []


def ok(what):
    global passed
    passed += 1
    print(f"PASS {what}", flush=True)


def need(true, what):
    if true:
        return
    print(f"FAIL {what}", flush=True)
    for process in started:
        process.kill()
    # Tasks that still wait have nothing to add.
    os._exit(1)


async def until(what, condition, limit=DEADLINE):
    """Waits for a condition, which may await."""
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        found = await found if asyncio.iscoroutine(found) else found
        if found:
            return found
        need(time.monotonic() < deadline, f"{what}, within {limit} s")
        await asyncio.sleep(0.05)


# --- what stands behind the proxy ----------------------------------------------------------------
async def origin(reader, writer):
    """Answers requests, streams numbers for /stream, and sends back whatever follows an upgrade or no request."""
    try:
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = await reader.readline()
                if not line:
                    return
                if not head and not line.startswith(b"GET "):
                    writer.write(line)
                    continue
                head += line
            if head.startswith(b"GET /stream"):
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                number = 0
                while True:
                    text = b"%d\n" % number
                    writer.write(b"%x\r\n%s\r\n" % (len(text), text))
                    await writer.drain()
                    number += 1
                    await asyncio.sleep(0.01)
            if b"upgrade: websocket" in head.lower():
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                while data := await reader.read(4096):
                    writer.write(data)
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhere\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


# --- the proxy -------------------------------------------------------------------------------------
def at(port):
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def manager():
    routes = {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "o", "timeout": "0s"}}]}]}
    router = {"name": "r", "typed_config": {"@type": KIND + "filters.http.router.v3.Router"}}
    return {"name": "h", "typed_config": {
        "@type": KIND + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h", "route_config": routes, "http_filters": [router],
        "upgrade_configs": [{"upgrade_type": "websocket"}]}}


def listener(name, last, **chain):
    return {"name": name, "stat_prefix": name, **at(0), "filter_chains": [{"filters": [last], **chain}]}


def storm_config(upstream, directory):
    tls = {"name": "tls", "typed_config": {
        "@type": KIND + "transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [{
            "certificate_chain": {"filename": f"{directory}/cert.pem"},
            "private_key": {"filename": f"{directory}/key.pem"}}]}}}
    tcp = {"name": "t", "typed_config": {"@type": KIND + "filters.network.tcp_proxy.v3.TcpProxy",
                                         "stat_prefix": "t", "cluster": "o"}}
    return config([listener("clear", manager()), listener("tls", manager(), transport_socket=tls),
                   listener("tcp", tcp)], upstream)


def config(listeners, upstream):
    endpoint = {"endpoint": at(upstream)}
    return {"admin": at(0), "static_resources": {"listeners": listeners, "clusters": [
        {"name": "o", "connect_timeout": "30s", "circuit_breakers": {"thresholds": [NO_LIMIT]},
         "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
             "@type": KIND + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http_protocol_options": {}},
             "common_http_protocol_options": {"idle_timeout": "1s"}}}, "load_assignment": {
            "cluster_name": "o", "endpoints": [{"lb_endpoints": [endpoint]}]}}]}}


class Proxy:
    def __init__(self, binary, text, directory, descriptors=None):
        path = os.path.join(directory, f"{time.monotonic_ns()}")
        with open(path + ".json", "w") as f:
            json.dump(text, f)
        self.log = path + ".log"
        limit = descriptors and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors,) * 2))
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([binary, "-c", path + ".json", "--concurrency", "2"],
                                            stdout=log, stderr=log, preexec_fn=limit)
        started.append(self.process)
        self.admin = None

    def said(self):
        with open(self.log) as f:
            return f.read()

    async def ready(self):
        def listening():
            need(self.process.poll() is None, f"the proxy has ended:\n{self.said()[-2000:]}")
            found = re.search(r"management=Some\(127\.0\.0\.1:(\d+)\)", self.said())
            return found and int(found[1])
        self.admin = await until("the management port is told", listening)
        await until("it is ready", lambda: self.ask("/ready", quiet=True))
        lines = self.ask("/listeners").split()
        self.ports = {line.split("::")[0]: int(line.rsplit(":", 1)[1]) for line in lines}
        return self

    def ask(self, path, quiet=False):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=DEADLINE).read().decode()
        except OSError:
            if quiet:
                return None
            raise

    def counter(self, name):
        found = re.search(rf"^{re.escape(name)}: (\d+)$", self.ask("/stats?usedonly"), re.M)
        return int(found[1]) if found else 0

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024

    def stop(self):
        self.process.kill()
        self.process.wait()


# --- clients ---------------------------------------------------------------------------------------
ASK = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
ANSWER = b"here\n"


def hello():
    """The beginning of a TLS handshake."""
    out = ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="a.test")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Steady:
    """Streams that were there before a storm, and have to be there after it."""

    async def begin(self, ports):
        self.stream = await asyncio.open_connection("127.0.0.1", ports["clear"])
        self.stream[1].write(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        await self.stream[0].readuntil(b"\r\n\r\n")
        self.echo = await asyncio.open_connection("127.0.0.1", ports["tcp"])
        self.socket = await asyncio.open_connection("127.0.0.1", ports["clear"])
        self.socket[1].write(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                             b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        await self.socket[0].readuntil(b"\r\n\r\n")
        self.numbers = self.rounds = 0
        self.tasks = [asyncio.create_task(task) for task in (self.count(), self.talk(*self.echo), self.talk(*self.socket))]
        return self

    async def count(self):
        while True:
            size = int(await self.stream[0].readline(), 16)
            text = await self.stream[0].readexactly(size + 2)
            assert int(text) == self.numbers, "the stream has lost something"
            self.numbers += 1

    async def talk(self, reader, writer):
        while True:
            writer.write(b"%09d\n" % self.rounds)
            assert (await reader.readline()).endswith(b"\n"), "an echo has ended"
            self.rounds += 1
            await asyncio.sleep(0.01)

    async def live(self):
        """All of them go on from here."""
        numbers, rounds = self.numbers, self.rounds
        def moved():
            for task in self.tasks:
                need(not task.done(), f"what was there before a storm has ended: {task}")
            return self.numbers > numbers and self.rounds > rounds + 2
        await until("streams go on", moved)

    def end(self):
        for task in self.tasks:
            task.cancel()
        for _, writer in (self.stream, self.echo, self.socket):
            writer.close()


async def connected(port, **more):
    return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, **more), DEADLINE)


async def client(number, port, tls, held, beginning):
    """Returns whether it was answered; None for those that do not ask."""
    if number % 3 == 0:
        reader, writer = await connected(port)
        if number % 2:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write(beginning[: len(beginning) // 2])
            writer.close()
        return None
    if number % 3 == 1:
        reader, writer = await connected(port)
        writer.write(beginning[: number % len(beginning)])
        held.append(writer)
        return None
    more = {"ssl": tls, "server_hostname": "a.test", "ssl_handshake_timeout": DEADLINE} if tls else {}
    reader, writer = await connected(port, **more)
    writer.write(ASK)
    answer = await asyncio.wait_for(reader.read(), DEADLINE)
    writer.close()
    return answer.endswith(ANSWER)


async def settled(proxy):
    """Memory, once what was needed for the start is given back."""
    deadline, last = time.monotonic() + DEADLINE, proxy.memory()
    while time.monotonic() < deadline:
        await asyncio.sleep(3)
        now = proxy.memory()
        if abs(last - now) < 1:
            break
        last = now
    return proxy.memory()


async def storms(binary, upstream, directory, args):
    proxy = await Proxy(binary, storm_config(upstream, directory), directory).ready()
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    steady = await Steady().begin(proxy.ports)
    await steady.live()
    before = proxy.descriptors()
    rest = await settled(proxy)
    for name, tls, beginning in (("clear", None, ASK), ("tls", trust, hello())):
        memory = []
        for _ in range(args.rounds):
            held = []
            clients = [client(n, proxy.ports[name], tls, held, beginning) for n in range(args.clients)]
            answers = [a for a in await asyncio.gather(*clients) if a is not None]
            need(all(answers), f"{name}: {answers.count(False)} of {len(answers)} requests came to nothing")
            await steady.live()
            need(proxy.descriptors() >= before + len(held) // 2, f"{name}: silent clients are kept within their deadline")
            for writer in held:
                writer.close()
            active = f"listener.{name}.downstream_cx_active"
            there = 2 if name == "clear" else 0
            await until(f"{name}: every connection has ended", lambda: proxy.counter(active) == there)
            # Connections to the origin are kept for a second.
            await until(f"{name}: no descriptor is left", lambda: proxy.descriptors() <= before + 8)
            most = rest + args.bound_mb
            # The allocator gives back what nobody has used for some seconds.
            await until(f"{name}: memory is back at {most:.0f} MB", lambda: proxy.memory() <= most)
            memory.append(f"{proxy.memory():.0f}")
        ok(f"{name}: {args.rounds} storms of {args.clients} clients; streams go on, nothing is left; "
           f"memory {rest:.0f} MB before, {', '.join(memory)} MB after")
    steady.end()
    proxy.stop()


async def limit(binary, upstream, directory, args):
    most = args.clients // 5
    text = storm_config(upstream, directory)
    monitor = {"@type": KIND + "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
               "max_active_downstream_connections": most}
    text["overload_manager"] = {"resource_monitors": [{"name": "c", "typed_config": monitor}]}
    proxy = await Proxy(binary, text, directory).ready()
    port = proxy.ports["clear"]
    before = proxy.descriptors()
    held = await asyncio.gather(*(connected(port) for _ in range(args.clients)))
    ended = [asyncio.create_task(reader.read()) for reader, _ in held]
    counted = "listener.clear.downstream_global_cx_overflow"
    await until("those beyond the limit are counted", lambda: proxy.counter(counted) == args.clients - most)
    await until("and closed", lambda: sum(task.done() for task in ended) == args.clients - most)
    need(proxy.counter("listener.clear.downstream_cx_active") == most, "as many as may be are served")
    for task, (_, writer) in zip(ended, held):
        task.cancel()
        writer.close()
    await asyncio.gather(*ended, return_exceptions=True)
    await until("room again", lambda: proxy.descriptors() <= before + 8)
    need(await client(2, port, None, [], ASK), "there is room again, and nobody is served")
    ok(f"limit: {most} of {args.clients} are let in, the others counted; then there is room again")
    proxy.stop()


async def shortage(binary, upstream, directory, args):
    proxy = await Proxy(binary, storm_config(upstream, directory), directory, descriptors=256).ready()
    steady = await Steady().begin(proxy.ports)
    port = proxy.ports["clear"]
    # The kernel takes them for the listener, which cannot.
    held = await asyncio.gather(*(connected(port) for _ in range(400)))
    await until("the log names the limit", lambda: "RLIMIT_NOFILE" in proxy.said())
    await steady.live()
    said = proxy.said().count("RLIMIT_NOFILE")
    for _, writer in held:
        writer.close()
    need(await client(2, port, None, [], ASK), "there are descriptors again, and nobody is served")
    need(proxy.counter("listener.clear.downstream_cx_overflow") > 0, "it is not counted")
    await steady.live()
    ok(f"descriptors: 400 clients with 256 of them; streams go on, the log names the limit ({said} lines), then clients are served")
    steady.end()
    proxy.stop()


async def listeners(binary, upstream, directory, args):
    text = config([listener(f"l{n}", manager()) for n in range(LISTENERS)], upstream)
    few = Proxy(binary, config([listener("l0", manager())], upstream), directory)
    small = (await few.ready()).memory()
    few.stop()
    start = time.monotonic()
    proxy = await Proxy(binary, text, directory).ready()
    took = time.monotonic() - start
    need(len(proxy.ports) == LISTENERS, f"{len(proxy.ports)} listeners")
    memory = proxy.memory()
    ports = list(proxy.ports.values())
    for some in range(0, LISTENERS, 250):
        answers = await asyncio.gather(*(client(2, port, None, [], ASK) for port in ports[some:some + 250]))
        need(all(answers), "a listener does not serve")
    each = (memory - small) * 1024 / LISTENERS
    ok(f"listeners: {LISTENERS} with two threads, {took:.1f} s until ready, {each:.1f} KB each, all serve")
    proxy.stop()

    proxy = Proxy(binary, text, directory, descriptors=1000)
    await until("the error names the limit", lambda: "RLIMIT_NOFILE" in proxy.said())
    line = next(line for line in proxy.said().splitlines() if "RLIMIT_NOFILE" in line)
    ok(f"too few descriptors for the listeners: {line.strip().rsplit('address: ', 1)[-1]}")
    proxy.stop()


async def main(args):
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=a.test"],
                       cwd=directory, check=True, stderr=subprocess.DEVNULL)
        server = await asyncio.start_server(origin, "127.0.0.1", 0, backlog=4096)
        upstream = server.sockets[0].getsockname()[1]
        for part in (storms, limit, shortage, listeners):
            if not args.only or part.__name__ in args.only:
                await part(os.path.realpath(args.binary), upstream, directory, args)
    print(f"{passed} passed, 0 failed", flush=True)
    # The origin's streams have no end of their own.
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bound-mb", type=float, default=20)
    parser.add_argument("--only", nargs="*", choices=["storms", "limit", "shortage", "listeners"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    args = parser.parse_args()
    if hard != resource.RLIM_INFINITY and hard < 2 * args.clients + 2000:
        print(f"skipped: {hard} descriptors are too few")
        sys.exit(75)
    asyncio.run(main(args))
