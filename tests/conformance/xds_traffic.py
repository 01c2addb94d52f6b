"""Origins and load for the scripts that change a proxy's configuration while it works.

An origin answers every request with its own name; load counts what failed. Nothing but the standard
library, so that any Python 3.9 runs it.
"""

import asyncio
import collections
import itertools
import socket

FAILURES = (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError, IndexError)


def free_ports(count):
    """Ports that are free now; held by nobody for the moment between here and their use."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Origin:
    """HTTP/1.1 on a free port. A path that ends in /drip/SECONDS is answered over that time."""

    def __init__(self, name):
        self.name = name.encode()

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def stop(self):
        self.server.close()

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                if b"/drip/" in path:
                    await self._drip(writer, float(path.rsplit(b"/", 1)[1]))
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(self.name), self.name))
                    await writer.drain()
        except FAILURES:
            pass
        # The end of the script; asyncio would print each as an error.
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    async def _drip(self, writer, seconds):
        pieces = max(1, int(seconds / 0.1))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (pieces * len(self.name)))
        for _ in range(pieces):
            writer.write(self.name)
            await writer.drain()
            await asyncio.sleep(0.1)


class Client:
    """One kept-alive connection."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    async def _once(self, path, limit):
        if self.writer is None:
            opening = asyncio.open_connection("127.0.0.1", self.port)
            self.reader, self.writer = await asyncio.wait_for(opening, limit)
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: front.test\r\n\r\n".encode())
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), limit)
        fields = head.lower()
        if b"content-length:" in fields:
            length = int(fields.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await asyncio.wait_for(self.reader.readexactly(length), limit)
        else:
            body = await self._chunks(limit)
        if b"connection: close" in fields:
            self.close()
        return int(head.split(b" ", 2)[1]), body.decode()

    async def _chunks(self, limit):
        body = b""
        while True:
            line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), limit)
            size = int(line.split(b";")[0], 16)
            body += (await asyncio.wait_for(self.reader.readexactly(size + 2), limit))[:-2]
            if size == 0:
                return body

    async def get(self, path, limit=5):
        """Status and body. A kept connection that was closed between two requests is opened once
        more, as every client does."""
        kept = self.writer is not None
        try:
            return await self._once(path, limit)
        except FAILURES as error:
            self.close()
            if not kept or isinstance(error, asyncio.TimeoutError):
                raise
            return await self._once(path, limit)

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def get(port, path, limit=5):
    """Status and body over a connection of its own; what went wrong instead of the status."""
    client = Client(port)
    try:
        return await client.get(path, limit)
    except FAILURES as error:
        return type(error).__name__, ""
    finally:
        client.close()


class Load:
    """Requests at a constant rate to some paths in turn, until stopped."""

    def __init__(self, port, paths, rate=150, clients=8):
        self.paths, self.rate = paths, rate
        self.clients = collections.deque(Client(port) for _ in range(clients))
        self.answers = collections.Counter()
        self.failed = []
        self.on = True

    def start(self):
        self.task = asyncio.create_task(self._run())
        return self

    async def _one(self, client, path):
        try:
            status, body = await client.get(path)
        except FAILURES as error:
            client.close()
            status, body = type(error).__name__, ""
        if status == 200:
            self.answers[body] += 1
        else:
            self.failed.append((path, status))
        self.clients.append(client)

    async def _run(self):
        running = set()
        loop = asyncio.get_running_loop()
        due = loop.time()
        for path in itertools.cycle(self.paths):
            if not self.on:
                break
            due += 1 / self.rate
            await asyncio.sleep(max(0, due - loop.time()))
            # A slow machine is behind, and does not catch up with a burst.
            due = max(due, loop.time() - 0.1)
            if self.clients:
                task = asyncio.create_task(self._one(self.clients.popleft(), path))
                running.add(task)
                task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running, timeout=10)
        for client in self.clients:
            client.close()

    async def stop(self):
        self.on = False
        await self.task

    def text(self):
        failed = collections.Counter(str(status) for _, status in self.failed)
        return f"{sum(self.answers.values())} answered {dict(self.answers)}, failed {dict(failed)}"
