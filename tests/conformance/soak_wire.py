"""What soak.py speaks: the kernels behind the proxy, HTTP/1, WebSocket and HTTP/2. Standard library only."""
import asyncio
import os
import socket
import struct
import zlib

BLOCK = os.urandom(1 << 16)
GONE = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)
LINGER = struct.pack("ii", 1, 0)


def reset(writer):
    """Leaves with a RST instead of a FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    writer.transport.abort()


class Cut(Exception):
    """An answer that visibly did not come to its end."""


class Wrong(Exception):
    """What must not happen."""


# --- HTTP/1 ----------------------------------------------------------------------------------------
async def head(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    return lines[0], {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


async def pieces(reader, fields, answer=False):
    """The pieces of a body, to its end. Ends with IncompleteReadError where it was cut."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await reader.readline() or b"cut", 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif "content-length" in fields:
        left = int(fields["content-length"])
        while left:
            data = await reader.read(min(left, 1 << 16))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data
    elif answer:
        raise Wrong(f"an answer without a length: {fields}")


async def summed(stream):
    size = total = 0
    async for data in stream:
        size, total = size + len(data), zlib.crc32(data, total)
    return size, total


# --- WebSocket ---------------------------------------------------------------------------------------
UPGRADE = ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n")


def message(text, masked):
    """A text message, shorter than 126 bytes. The mask is zero, which is a legal one."""
    return bytes([0x81, len(text) | (0x80 if masked else 0)]) + (b"\0\0\0\0" if masked else b"") + text


async def read_message(reader):
    first, size = await reader.readexactly(2)
    mask = await reader.readexactly(4) if size & 0x80 else b"\0\0\0\0"
    data = await reader.readexactly(size & 0x7F)
    if first != 0x81:
        raise Wrong(f"WebSocket frame {first:#x}, {data!r}")
    return bytes(b ^ mask[i % 4] for i, b in enumerate(data))


# --- the kernels ---------------------------------------------------------------------------------------
class Kernel:
    """An application. Every answer names its kernel and what it was asked, so that one that goes astray is seen."""

    def __init__(self, name):
        self.name, self.tasks = name, set()

    async def open(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        try:
            while await self.request(reader, writer):
                await writer.drain()
        except (*GONE, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer):
        line, fields = await head(reader)
        path = line.split(" ")[1]
        what, _, rest = path.lstrip("/").partition("/")
        name = f"X-Kernel: {self.name}\r\nX-Asked: {rest}\r\n".encode()
        ok = b"HTTP/1.1 200 OK\r\n" + name
        if fields.get("upgrade", "").lower() == "websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            if what == "leaves":
                return False
            while True:
                writer.write(message(await read_message(reader), False))
                await writer.drain()
        if what == "early":
            # Before the body has come.
            writer.write(ok + b"Content-Length: 4\r\n\r\nsoon")
            await writer.drain()
            if len(rest) % 2:
                return False
            await summed(pieces(reader, fields))
            return True
        if fields.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        size, total = await summed(pieces(reader, fields))
        if what == "events":
            writer.write(ok + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            number = 0
            while True:
                writer.write(chunk(b"data: %d\n\n" % number))
                await writer.drain()
                number += 1
                await asyncio.sleep(1)
        if what == "bytes":
            size = int(rest.split("/")[0])
            chunked = size % 2
            writer.write(ok + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % size))
            for at in range(0, size, len(BLOCK)):
                data = BLOCK[: size - at]
                writer.write(chunk(data) if chunked else data)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
        elif what == "hints":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok + b"Content-Length: 2\r\n\r\nok")
        elif what == "die":
            reset(writer) if len(rest) % 2 else writer.close()
            return False
        elif what == "half":
            writer.write(ok + (b"Content-Length: 100000\r\n\r\n" if len(rest) % 2 else b"Transfer-Encoding: chunked\r\n\r\n" + b"186a0\r\n"))
            writer.write(BLOCK[:50000])
            await writer.drain()
            return False
        elif what == "closes":
            # Says that it goes on, and does not: the next request meets the end.
            writer.write(ok + b"Content-Length: 6\r\n\r\nclosed")
            await writer.drain()
            await asyncio.sleep(len(rest) % 5 / 1000)
            return False
        elif what == "hang":
            await reader.read(1)
            return False
        elif what == "more":
            # More than it said: nobody may take it for the next answer.
            writer.write(ok + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Kernel: lies\r\nX-Asked: lies\r\nContent-Length: 4\r\n\r\nlies")
        else:
            writer.write(ok + b"Content-Length: %d\r\n\r\n%08x" % (8, total))
        return fields.get("connection", "").lower() != "close"


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


# --- HTTP/2 ------------------------------------------------------------------------------------------------
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGE = (1 << 31) - 1 - 65535


def block(fields):
    """A header block without compression (RFC 7541 section 6.2.2)."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def text(value):
    value = value.encode()
    if len(value) < 127:
        return bytes([len(value)]) + value
    return bytes([127, (len(value) - 127) & 0x7F | 0x80, (len(value) - 127) >> 7]) + value


class Http2:
    """Either end of a connection. What comes for a stream is put into its queue as (kind, flags, payload)."""

    def __init__(self, reader, writer, on_stream=None):
        self.reader, self.writer, self.on_stream = reader, writer, on_stream
        self.streams, self.windows, self.initial, self.window = {}, {}, 65535, 65535
        self.room, self.next, self.tasks, self.going = asyncio.Event(), 1, set(), False
        if on_stream is None:
            writer.write(PREFACE)
        self.frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 0) + struct.pack(">HI", 4, 1 << 24))
        self.frame(WINDOW, 0, 0, struct.pack(">I", LARGE))
        self.task = asyncio.ensure_future(self.run())

    def frame(self, kind, flags, stream, payload=b""):
        self.writer.write(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    async def run(self):
        try:
            if self.on_stream:
                await self.reader.readexactly(len(PREFACE))
            while True:
                first = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(first[:3], "big"))
                self.take(first[3], first[4], int.from_bytes(first[5:], "big"), payload)
        except GONE:
            pass
        finally:
            for queue in self.streams.values():
                queue.put_nowait((RST, 0, b"the connection"))
            self.streams.clear()
            self.windows.clear()
            self.room.set()
            self.writer.close()

    def take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:
                    self.windows = {s: w + value - self.initial for s, w in self.windows.items()}
                    self.initial = value
            self.frame(SETTINGS, 1, 0)
            self.room.set()
        elif kind == PING and not flags & 1:
            self.frame(PING, 1, 0, payload)
        elif kind == GOAWAY:
            self.going = True
        elif kind == WINDOW:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
            self.room.set()
        elif kind == HEADERS and self.on_stream and stream not in self.streams:
            self.begin(stream)
            self.streams[stream].put_nowait((kind, flags, payload))
            task = asyncio.ensure_future(self.on_stream(self, stream, self.streams[stream]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif stream in self.streams:
            self.streams[stream].put_nowait((kind, flags, payload))
        if kind == DATA and payload:
            self.frame(WINDOW, 0, 0, struct.pack(">I", len(payload)))
            if stream in self.streams and not flags & 1:
                self.frame(WINDOW, 0, stream, struct.pack(">I", len(payload)))

    def begin(self, stream):
        self.streams[stream] = asyncio.Queue()
        self.windows[stream] = self.initial

    def forget(self, stream):
        self.streams.pop(stream, None)
        self.windows.pop(stream, None)

    def open(self, fields, end):
        stream, self.next = self.next, self.next + 2
        self.begin(stream)
        self.frame(HEADERS, 5 if end else 4, stream, block(fields))
        return stream, self.streams[stream]

    async def send(self, stream, data, end=False):
        while data or end:
            if stream not in self.windows:
                raise Cut("the stream has ended")
            room = min(self.window, self.windows[stream], 16384)
            if data and room <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            now, data = data[:room], data[room:]
            self.window -= len(now)
            self.windows[stream] -= len(now)
            self.frame(DATA, 1 if end and not data else 0, stream, now)
            await self.writer.drain()
            if not data:
                return

    def reset(self, stream):
        self.frame(RST, 0, stream, struct.pack(">I", 8))
        self.forget(stream)


async def grpc(connection, stream, queue):
    """Sends every byte back, and trailers at the end."""
    try:
        while True:
            kind, flags, payload = await queue.get()
            if kind == RST:
                return
            if kind == HEADERS and not flags & 1:
                connection.frame(HEADERS, 4, stream, b"\x88" + block([("content-type", "application/grpc")]))
            if kind == DATA:
                await connection.send(stream, payload)
            if flags & 1 and kind in (DATA, HEADERS):
                connection.frame(HEADERS, 5, stream, block([("grpc-status", "0")]))
                return
    except (Cut, OSError):
        pass
    finally:
        connection.forget(stream)


async def grpc_server():
    server = await asyncio.start_server(lambda r, w: Http2(r, w, grpc), "127.0.0.1", 0)
    return server.sockets[0].getsockname()[1]
