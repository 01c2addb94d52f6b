#!/usr/bin/env python3
"""A VNC client (RFC 6143) that looks at a desktop once: vnc.py HOST:PORT | URL [HOST-FIELD]

URL begins with ws://: the same in the messages of a WebSocket, as browsers have it. Prints the name of the
desktop, its size and a sum of what is to be seen.
"""
import base64
import hashlib
import os
import socket
import struct
import sys
from urllib.parse import urlsplit

PATIENCE = 30  # seconds


class Plain:
    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), PATIENCE)
        self.file = self.socket.makefile("rb")

    def read(self, count):
        data = self.file.read(count)
        assert len(data) == count, "the connection ended"
        return data

    def write(self, data):
        self.socket.sendall(data)


class WebSocket(Plain):
    def __init__(self, url, host):
        super().__init__(url.hostname, url.port)
        key = base64.b64encode(os.urandom(16)).decode()
        self.write_raw(
            f"GET {url.path} HTTP/1.1\r\nHost: {host or url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: binary\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += super().read(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"sec-websocket-protocol: binary" in head.lower(), head
        self.rest = b""

    def write_raw(self, data):
        super().write(data)

    def write(self, data):
        mask = os.urandom(4)
        self.write_raw(bytes([0x82, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def read(self, count):
        while len(self.rest) < count:
            first, length = super().read(2)
            assert not length & 0x80, "a server does not mask"
            if length == 126:
                (length,) = struct.unpack(">H", super().read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", super().read(8))
            data = super().read(length)
            assert first & 0x0F in (0, 2, 9), f"frame {first:#x}"
            if first & 0x0F != 9:
                self.rest += data
        data, self.rest = self.rest[:count], self.rest[count:]
        return data


def look(link):
    assert link.read(12) == b"RFB 003.008\n"
    link.write(b"RFB 003.008\n")
    assert 1 in link.read(link.read(1)[0]), "wants to know who we are"
    link.write(b"\x01")
    assert link.read(4) == b"\0\0\0\0"
    link.write(b"\x01")  # others may look, too
    width, height, _, length = struct.unpack(">HH16sI", link.read(24))
    name = link.read(length).decode()
    # 32 bits for each pixel, as they are.
    link.write(b"\0\0\0\0" + struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0))
    link.write(struct.pack(">BxHi", 2, 1, 0))
    link.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    screen = bytearray(width * height * 4)
    left = width * height
    while left > 0:
        kind = link.read(1)[0]
        if kind == 1:  # colours, which nobody needs here
            _, count = struct.unpack(">xHH", link.read(5))
            link.read(6 * count)
        elif kind == 3:  # a text that was cut
            link.read(struct.unpack(">xxxI", link.read(7))[0])
        elif kind == 0:
            for _ in range(struct.unpack(">xH", link.read(3))[0]):
                x, y, w, h, encoding = struct.unpack(">HHHHi", link.read(12))
                assert encoding == 0, encoding
                pixels = link.read(w * h * 4)
                for row in range(h):
                    at = ((y + row) * width + x) * 4
                    screen[at : at + w * 4] = pixels[row * w * 4 : (row + 1) * w * 4]
                left -= w * h
        else:
            assert kind == 2, kind
    return f"{name} {width}x{height} {hashlib.sha256(screen).hexdigest()[:16]}"


def main():
    where = sys.argv[1]
    if where.startswith("ws://"):
        link = WebSocket(urlsplit(where), sys.argv[2] if len(sys.argv) > 2 else None)
    else:
        host, port = where.rsplit(":", 1)
        link = Plain(host, int(port))
    print(look(link))


main()
