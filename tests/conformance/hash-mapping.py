#!/usr/bin/env python3
"""Whether keys lead to the same endpoints as with Envoy: ring hash, Maglev, weights, bounded load.

    hash-mapping.py [BINARY [KEYS]]

Starts BINARY (default target/release/causeway) and Envoy with the same bootstrap and sends each KEYS
(default 10,000) keys through every cluster. Where load is bounded, requests are held by their
endpoint, and each next key is compared. Envoy is `$ENVOY`, or what is found by `envoy` in the PATH;
without it the script ends with 75.
"""
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENDPOINTS = 10
CONNECTIONS = 16
# Requests that are under way together, of each cluster with bounded load.
HELD = 400
DEADLINE = 30


def endpoint(index, weight=None, hostname="", hash_key=None, health=None):
    made = {"endpoint": {"address": {"socket_address": {
        "address": "127.0.0.1", "port_value": PORTS[index]}}}}
    if hostname:
        made["endpoint"]["hostname"] = hostname
    if weight:
        made["load_balancing_weight"] = weight
    if hash_key:
        made["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": hash_key}}}
    if health:
        made["health_status"] = health
    return made


def cluster(name, localities, **fields):
    if isinstance(localities[0], dict) and "endpoint" in localities[0]:
        localities = [{"lb_endpoints": localities}]
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "dns_lookup_family": "V4_ONLY", **fields,
            "load_assignment": {"cluster_name": name, "endpoints": localities}}


def clusters():
    every = range(ENDPOINTS)
    plain = [endpoint(i) for i in every]
    weighted = [endpoint(i, weight=i + 1) for i in every]
    uneven = [endpoint(i, weight=[1, 7, 31, 128, 3, 3, 2, 50, 11, 100][i]) for i in every]
    named = [endpoint(i, hostname="host-%d.test" % i) for i in every]
    keyed = [endpoint(i, hash_key="key-%d" % i) for i in every]
    some = [endpoint(i, health="UNHEALTHY" if i in (2, 7) else None) for i in every]
    regions = [
        {"locality": {"region": "a"}, "load_balancing_weight": 3,
         "lb_endpoints": [endpoint(i, weight=i + 1) for i in range(4)]},
        {"locality": {"region": "b"}, "load_balancing_weight": 5,
         "lb_endpoints": [endpoint(i) for i in range(4, 10)]}]
    murmur = {"hash_function": "MURMUR_HASH_2"}
    by_name = {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}}
    by_locality = {"locality_weighted_lb_config": {}}

    def bounded(percent):
        return {"consistent_hashing_lb_config": {"hash_balance_factor": percent}}

    def ring(name, localities, config=None, common=None):
        more = {"common_lb_config": common} if common else {}
        return cluster(name, localities, lb_policy="RING_HASH", ring_hash_lb_config=config or {}, **more)

    def maglev(name, localities, config=None, common=None):
        more = {"common_lb_config": common} if common else {}
        return cluster(name, localities, lb_policy="MAGLEV", maglev_lb_config=config or {}, **more)

    made = [
        ring("ring", plain),
        ring("ring-murmur", plain, murmur),
        ring("ring-large", plain, {"minimum_ring_size": 20000}),
        ring("ring-bound", uneven, {"minimum_ring_size": 100, "maximum_ring_size": 150}),
        ring("ring-weights", weighted),
        ring("ring-murmur-uneven", uneven, murmur),
        ring("ring-hostnames", named, common=by_name),
        ring("ring-hash-keys", keyed),
        ring("ring-unhealthy", some),
        ring("ring-localities", regions, common=by_locality),
        maglev("maglev", plain),
        maglev("maglev-small", plain, {"table_size": 1009}),
        maglev("maglev-weights", weighted),
        maglev("maglev-uneven", uneven, {"table_size": 5003}),
        maglev("maglev-hostnames", named, common=by_name),
        maglev("maglev-unhealthy", some),
        maglev("maglev-localities", regions, common=by_locality),
        ring("held-ring", plain, common=bounded(120)),
        ring("held-ring-weights", weighted, murmur, common=bounded(150)),
        maglev("held-maglev", plain, common=bounded(110)),
        maglev("held-maglev-uneven", uneven, common=bounded(200)),
    ]
    for one in made:
        if one["name"].endswith("-hostnames"):
            # With others Envoy refuses it.
            one["type"] = "STRICT_DNS"
    return made


def bootstrap(port, admin):
    made = clusters()
    routes = [{"match": {"prefix": "/%s/" % c["name"]}, "route": {
        "cluster": c["name"], "timeout": "0s",
        "hash_policy": [{"header": {"header_name": "x-key"}}]}} for c in made]
    for c in made:
        c["circuit_breakers"] = {"thresholds": [
            {"max_connections": 10000, "max_pending_requests": 10000, "max_requests": 10000}]}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
                 "HttpConnectionManager",
        "stat_prefix": "s", "stream_idle_timeout": "0s",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    at = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    return {
        "admin": {"address": at(admin)},
        "static_resources": {"clusters": made, "listeners": [{
            "name": "l", "address": at(port), "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}]}}


class Origin(asyncio.Protocol):
    """Answers with its number; a request that is to be held is told of, and answered at the end."""

    arrived = None
    held = []

    def __init__(self, index):
        self.index, self.pending = index, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *heads, self.pending = (self.pending + data).split(b"\r\n\r\n")
        for head in heads:
            if b"\nx-hold:" in head.lower():
                Origin.held.append(self)
                Origin.arrived.put_nowait(self.index)
            else:
                self.answer()

    def answer(self):
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % self.index)


async def ask(reader, writer, name, key):
    writer.write(b"GET /%s/ HTTP/1.1\r\nhost: a\r\nx-key: %s\r\n\r\n" % (name.encode(), key))
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise SystemExit("FAIL %s: %r" % (name, head))
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                  if line.startswith(b"content-length:"))
    return int(await reader.readexactly(length))


async def mapping(port, name, keys):
    """The endpoint of each key."""
    found = [None] * len(keys)
    places = iter(range(len(keys)))

    async def work():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in places:
            found[place] = await asyncio.wait_for(ask(reader, writer, name, keys[place]), DEADLINE)
        writer.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return found


async def held_mapping(port, name, keys):
    """The endpoint of each key while those before it are still served."""
    found, writers = [], []
    for key in keys:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(b"GET /%s/ HTTP/1.1\r\nhost: a\r\nx-hold: 1\r\nx-key: %s\r\n\r\n" % (name.encode(), key))
        found.append(await asyncio.wait_for(Origin.arrived.get(), DEADLINE))
    for origin in Origin.held:
        origin.answer()
    Origin.held.clear()
    for writer in writers:
        writer.close()
    return found


async def ready(admin, process):
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("FAIL the proxy ended with %d" % process.returncode)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", admin)
            writer.write(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            line = await reader.readline()
            writer.close()
            if b" 200 " in line:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("FAIL the proxy is not ready after %d s" % DEADLINE)


async def run(command, scratch, label, keys):
    port, admin = free(2)
    path = scratch / (label + ".json")
    path.write_text(json.dumps(bootstrap(port, admin)))
    with open(scratch / (label + ".log"), "wb") as log:
        process = subprocess.Popen([*command, "-c", str(path), "--concurrency", "1"], stdout=log, stderr=log)
    try:
        await ready(admin, process)
        found = {}
        for name in (c["name"] for c in clusters()):
            if name.startswith("held-"):
                # Few keys, some of them much more wanted than others.
                wanted = [b"hot-%d" % (i % 7 if i % 2 else i) for i in range(HELD)]
                found[name] = await held_mapping(port, name, wanted)
            else:
                found[name] = await mapping(port, name, keys)
        return found
    except SystemExit:
        sys.stderr.write((scratch / (label + ".log")).read_text()[-3000:])
        raise
    finally:
        process.terminate()
        process.wait()


def free(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


async def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/causeway"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    envoy = os.environ.get("ENVOY") or shutil.which("envoy")
    if not envoy:
        print("skipped: there is no Envoy to compare with (ENVOY)")
        return 75
    Origin.arrived = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for index in range(ENDPOINTS):
        server = await loop.create_server(lambda index=index: Origin(index), "127.0.0.1", 0)
        PORTS.append(server.sockets[0].getsockname()[1])
    keys = [b"user-%d" % n for n in range(count)]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        theirs = await run([envoy, "--use-dynamic-base-id", "-l", "error"], scratch, "envoy", keys)
        ours = await run([binary], scratch, "causeway", keys)
    failed = False
    for name, expected in theirs.items():
        differs = [i for i, (a, b) in enumerate(zip(expected, ours[name])) if a != b]
        used = len(set(expected))
        if differs or used < 2:
            failed = True
            first = differs[0] if differs else None
            print("FAIL %s: %d of %d keys go elsewhere, the first is no. %s; %d endpoints used"
                  % (name, len(differs), len(expected), first, used))
        else:
            print("PASS %s: %d keys, %d endpoints" % (name, len(expected), used))
    return 1 if failed else 0


PORTS = []

if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
