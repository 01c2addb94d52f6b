#!/usr/bin/env python3
"""The smallest origin that always does the same: 1 KiB for every request, connections kept open.

    origin.py PORT

One write per request and nothing that depends on time, so that what a proxy does in front of it is
the same in every run. It understands requests without a body, and `upgrade: websocket`, after which
it sends back every byte it gets; HTTP/2 with prior knowledge, of which it reads no more than which
streams begin, and sends no more than the peer's first windows let pass; and nothing else.
"""

import asyncio
import sys

BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n" + BODY
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK = END_STREAM = 1
END_HEADERS = 4


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


# The same head: the status and the names by the static table (RFC 7541 appendix A).
HEAD = b"\x88" + b"\x0f\x10\x0atext/plain" + b"\x0f\x0d\x041024"


class Origin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.pending = b""
        self.echoes = self.http2 = False

    def frames_received(self, data):
        self.pending += data
        said = b""
        while len(self.pending) >= 9:
            end = 9 + int.from_bytes(self.pending[:3], "big")
            if len(self.pending) < end:
                break
            kind, flags, stream = self.pending[3], self.pending[4], int.from_bytes(self.pending[5:9], "big")
            payload, self.pending = self.pending[9:end], self.pending[end:]
            if kind in (SETTINGS, PING) and not flags & ACK:
                said += frame(kind, ACK, 0, payload if kind == PING else b"")
            elif kind == HEADERS and flags & END_STREAM:
                said += frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, BODY)
        if said:
            self.transport.write(said)

    def data_received(self, data):
        if self.echoes:
            self.transport.write(data)
            return
        if not self.pending and data.startswith(PREFACE):
            self.http2 = True
            self.transport.write(frame(SETTINGS, 0, 0))
            data = data[len(PREFACE):]
        if self.http2:
            self.frames_received(data)
            return
        *heads, self.pending = (self.pending + data).split(b"\r\n\r\n")
        for head in heads:
            self.echoes = b"\r\nupgrade: websocket" in head.lower()
            self.transport.write(SWITCHED if self.echoes else ANSWER)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
