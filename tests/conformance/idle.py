#!/usr/bin/env python3
"""Kernel and clients of idle.sh: connections that are silent for long. Standard library only."""

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.request

PIECES = 20
PIECE = b"0123456789abcdef" * 64


async def head(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return lines[0], fields


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


async def read_chunk(reader):
    size = int(await reader.readline(), 16)
    data = await reader.readexactly(size)
    await reader.readexactly(2)
    return data


def message(text, masked):
    """A text message of a WebSocket, shorter than 126 bytes. The mask is zero, which is a legal one."""
    return bytes([0x81, len(text) | (0x80 if masked else 0)]) + (b"\0\0\0\0" if masked else b"") + text


async def read_message(reader):
    first, size = await reader.readexactly(2)
    mask = await reader.readexactly(4) if size & 0x80 else b"\0\0\0\0"
    data = await reader.readexactly(size & 0x7F)
    if first & 0x0F != 1:
        raise ConnectionError(f"WebSocket frame {first:#x}, {data!r}")
    return bytes(b ^ mask[i % 4] for i, b in enumerate(data))


async def kernel(options, reader, writer):
    """/ws echoes messages, /echo chunks of the body, /slow takes SECONDS in equal steps, /late begins after them."""
    try:
        line, fields = await head(reader)
        path = line.split(" ")[1]
        if path == "/ws":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while True:
                writer.write(message(await read_message(reader), False))
        elif path == "/echo":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while data := await read_chunk(reader):
                writer.write(chunk(data))
            writer.write(b"0\r\n\r\n")
        elif path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(chunk(b"data: before\n\n"))
            await asyncio.sleep(options.seconds)
            writer.write(chunk(b"data: after\n\n") + b"0\r\n\r\n")
        elif path in ("/slow", "/late"):
            if path == "/late":
                await asyncio.sleep(options.seconds)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
            for _ in range(PIECES):
                if path == "/slow":
                    await asyncio.sleep(options.seconds / PIECES)
                writer.write(PIECE)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


class Client:
    def __init__(self, options, mode):
        self.options, self.mode = options, mode
        self.port = options.wildcard if mode == "wildcard" else options.port
        self.host = f"lab.localhost:{self.port}" if mode == "wildcard" else f"127.0.0.1:{self.port}"

    async def open(self, method, path, fields=""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{fields}\r\n".encode())
        return reader, writer

    async def silence(self, reader):
        """Waits, and sees what comes meanwhile: nothing may, and the end least of all."""
        try:
            data = await asyncio.wait_for(reader.read(1), self.options.seconds)
        except asyncio.TimeoutError:
            return
        raise ConnectionError(f"{'the end' if not data else data!r} while it should be silent")

    async def websocket(self):
        fields = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        reader, writer = await self.open("GET", "/ws", fields)
        line, _ = await head(reader)
        expect(line.split(" ")[1], "101")
        for text in (b"before", b"after"):
            writer.write(message(text, True))
            expect(await asyncio.wait_for(read_message(reader), 10), text)
            if text == b"before":
                await self.silence(reader)
        writer.close()
        return "a message went both ways afterwards"

    async def both_ways(self):
        reader, writer = await self.open("POST", "/echo", "Transfer-Encoding: chunked\r\n")
        writer.write(chunk(b"before"))
        line, _ = await head(reader)
        expect(line.split(" ")[1], "200")
        for text in (b"before", b"after"):
            if text == b"after":
                await self.silence(reader)
                writer.write(chunk(text))
            expect(await asyncio.wait_for(read_chunk(reader), 10), text)
        writer.write(b"0\r\n\r\n")
        expect(await asyncio.wait_for(read_chunk(reader), 10), b"")
        writer.close()
        return "a chunk went both ways afterwards"

    async def events(self):
        reader, writer = await self.open("GET", "/events")
        line, _ = await head(reader)
        expect(line.split(" ")[1], "200")
        for text in (b"data: before\n\n", b"data: after\n\n", b""):
            expect(await asyncio.wait_for(read_chunk(reader), self.options.seconds + 10), text)
        writer.close()
        return "the next event and the end arrived"

    async def download(self, path):
        reader, writer = await self.open("GET", path)
        line, fields = await asyncio.wait_for(head(reader), self.options.seconds + 10)
        expect(line.split(" ")[1], "200")
        size = int(fields["content-length"])
        body = await asyncio.wait_for(reader.readexactly(size), self.options.seconds + 10)
        expect(body == PIECE * PIECES, True)
        writer.close()
        return f"{size} bytes, as they were sent"

    async def tcp(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.options.port + 1)
        for text in (b"before", b"after"):
            writer.write(text)
            expect(await asyncio.wait_for(reader.readexactly(len(text)), 10), text)
            if text == b"before":
                await self.silence(reader)
        writer.close()
        return "bytes went both ways afterwards"


def expect(got, wanted):
    if got != wanted:
        raise ConnectionError(f"{got!r} instead of {wanted!r}")


def call(options, method, path, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{options.management}{path}",
        json.dumps(body).encode() if body else None,
        {"X-BackendAI-Token": options.secret, "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def circuit(number, protocol, mode, key, kernel_port):
    return {
        "id": f"00000000-0000-4000-8000-00000000000{number}",
        "app": f"idle{number}",
        "protocol": protocol,
        "worker": "00000000-0000-4000-8000-000000000001",
        "app_mode": "interactive",
        "frontend_mode": mode,
        "envs": {},
        "arguments": None,
        "open_to_public": True,
        "allowed_client_ips": None,
        "port": key if mode == "port" else None,
        "subdomain": key if mode == "wildcard" else None,
        "user_id": "00000000-0000-4000-8000-000000000002",
        "endpoint_id": None,
        "runtime_variant": None,
        "route_info": [
            {
                "route_id": None,
                "session_id": "00000000-0000-4000-8000-000000000003",
                "session_name": None,
                "kernel_host": "127.0.0.1",
                "kernel_port": kernel_port,
                "protocol": protocol,
                "traffic_ratio": 1.0,
            }
        ],
        "session_ids": ["00000000-0000-4000-8000-000000000003"],
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
    }


async def run(options):
    servers = [
        await asyncio.start_server(lambda r, w: kernel(options, r, w), "127.0.0.1", options.http),
        await asyncio.start_server(echo, "127.0.0.1", options.tcp),
    ]
    for _ in range(100):
        try:
            await asyncio.to_thread(call, options, "GET", "/readyz")
            break
        except OSError:
            await asyncio.sleep(0.1)
    circuits = [
        circuit(1, "http", "port", options.port, options.http),
        circuit(2, "http", "wildcard", "lab", options.http),
        circuit(3, "tcp", "port", options.port + 1, options.tcp),
    ]
    await asyncio.to_thread(call, options, "POST", "/v1/circuits", circuits)
    jobs = [("TCP connection", Client(options, "port").tcp())]
    for mode in ("port", "wildcard"):
        client = Client(options, mode)
        jobs += [
            (f"{mode}: silent WebSocket", client.websocket()),
            (f"{mode}: silent stream of chunks", client.both_ways()),
            (f"{mode}: silent event stream", client.events()),
            (f"{mode}: slow download", client.download("/slow")),
            (f"{mode}: answer that begins late", client.download("/late")),
        ]
    started, failed = time.monotonic(), 0
    outcomes = await asyncio.gather(*(told(name, job, started) for name, job in jobs))
    failed = outcomes.count(False)
    for server in servers:
        server.close()
    with open(f"/proc/{options.process}/stat") as stat:
        ticks = sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
    print(f"the proxy used {ticks / os.sysconf('SC_CLK_TCK'):.2f} s of CPU in {time.monotonic() - started:.0f} s")
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


async def told(name, job, started):
    try:
        what, good = await job, True
    except Exception as error:
        what, good = f"{type(error).__name__}: {error}", False
    print(f"{'PASS' if good else 'FAIL'} {name}, {time.monotonic() - started:.1f} s: {what}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    for name in ("http", "tcp", "management", "port", "wildcard", "process"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--secret", required=True)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
