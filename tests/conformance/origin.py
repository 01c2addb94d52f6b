#!/usr/bin/env python3
"""The smallest origin that always does the same: 1 KiB for every request, connections kept open.

    origin.py PORT

One write per request and nothing that depends on time, so that what a proxy does in front of it is
the same in every run. It understands requests without a body, and `upgrade: websocket`, after which
it sends back every byte it gets; and nothing else.
"""

import asyncio
import sys

BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n" + BODY
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"


class Origin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.pending = b""
        self.echoes = False

    def data_received(self, data):
        if self.echoes:
            self.transport.write(data)
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
