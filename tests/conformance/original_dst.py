#!/usr/bin/env python3
"""Inside the namespace of `original-dst.sh`: origins, the proxy, and clients that are redirected."""
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ADMIN = 15000
DEADLINE = 10
FILTER = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
HTTP = ("type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager")
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def at(address, port):
    return {"socket_address": {"address": address, "port_value": port}}


def listener(name, address, port, network, **more):
    return {"name": name, "address": at(address, port), "filter_chains": [{"filters": [network]}], **more}


def tcp(cluster):
    return {"name": "t", "typed_config": {"@type": TCP, "stat_prefix": "t", "cluster": cluster}}


def http(action):
    routes = [{"match": {"prefix": "/"}, **action}]
    return {"name": "h", "typed_config": {
        "@type": HTTP, "stat_prefix": "h",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "r", "typed_config": {"@type": ROUTER}}]}}


def bootstrap():
    restored = [{"name": "o", "typed_config": {"@type": FILTER}}]
    bound = {"route": {"cluster": "bound"}}
    chosen = {"direct_response": {"status": 200, "body": {"inline_string": "chosen"}}}
    other = {"direct_response": {"status": 200, "body": {"inline_string": "other"}}}
    cluster = {"name": "bound", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    return {"admin": {"address": at("127.0.0.1", ADMIN)}, "static_resources": {
        "clusters": [cluster],
        "listeners": [
            listener("bytes", "0.0.0.0", 15001, tcp("bound"), listener_filters=restored),
            listener("bytes6", "::", 15001, tcp("bound"), listener_filters=restored),
            listener("http", "0.0.0.0", 15002, http(bound), listener_filters=restored),
            listener("entry", "0.0.0.0", 15003, http(other), use_original_dst=True),
            listener("chosen", "10.9.9.9", 9090, http(chosen), bind_to_port=False)]}}


async def origin(address, port, seen):
    """Says where it is, and remembers who asked."""
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer.get_extra_info("peername")[0])
        body = ("%s %d" % (address, port)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    await asyncio.start_server(serve, address, port)


async def ask(source, address, port):
    """The body of an answer, asked from that address."""
    async def exchange():
        reader, writer = await asyncio.open_connection(address, port, local_addr=(source, 0))
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.split(b"\r\n\r\n", 1)[-1].decode()

    try:
        return await asyncio.wait_for(exchange(), DEADLINE)
    except (OSError, asyncio.TimeoutError) as error:
        return "nothing: %r" % error


async def ready(process):
    started = time.monotonic()
    while time.monotonic() - started < DEADLINE and process.poll() is None:
        if await is_ready():
            return True
        await asyncio.sleep(0.1)
    return False


async def is_ready():
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", ADMIN)
        writer.write(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return b" 200 " in line
    except OSError:
        return False


async def main():
    binary = sys.argv[1]
    seen, seen6 = [], []
    for address, port in [("10.9.9.9", 80), ("10.9.9.8", 80), ("10.9.9.9", 8080)]:
        await origin(address, port, seen)
    await origin("fd00::9", 80, seen6)
    # Port 9090 has nobody: only the proxy can answer there.
    failed = False

    def check(what, found, expected):
        nonlocal failed
        failed |= found != expected
        print("%s %s" % ("PASS" if found == expected else "FAIL", what)
              + ("" if found == expected else ": %r instead of %r" % (found, expected)))

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bootstrap.json"
        path.write_text(json.dumps(bootstrap()))
        with open(Path(scratch) / "log", "wb") as log:
            process = subprocess.Popen([binary, "-c", str(path), "--concurrency", "1"], stdout=log, stderr=log)
        try:
            if not await ready(process):
                print("FAIL the proxy is not ready")
                print((Path(scratch) / "log").read_text()[-2000:])
                return 1
            check("bytes go where they were bound for", await ask("127.0.0.2", "10.9.9.9", 80), "10.9.9.9 80")
            check("and to another address", await ask("127.0.0.2", "10.9.9.8", 80), "10.9.9.8 80")
            check("over IPv6", await ask("fd00::2", "fd00::9", 80), "fd00::9 80")
            check("requests go where their connection was bound for",
                  await ask("127.0.0.2", "10.9.9.9", 8080), "10.9.9.9 8080")
            # Redirected connections only ever reach the origin through the proxy.
            check("all came by the proxy", "127.0.0.2" in seen or "fd00::2" in seen6, False)
            check("the listener with that address is chosen",
                  await ask("127.0.0.2", "10.9.9.9", 9090), "chosen")
            check("and the one that was reached for any other",
                  await ask("127.0.0.2", "10.9.9.8", 9090), "other")
            check("what nobody redirected has nowhere to go: no loop",
                  (await ask("127.0.0.1", "127.0.0.1", 15001))[:7] in ("", "nothing"), True)
        finally:
            process.terminate()
            process.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
