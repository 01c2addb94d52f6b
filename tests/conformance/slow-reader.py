#!/usr/bin/env python3
"""What a client that hardly reads costs in memory: it asks for a gigabyte, over HTTP/1.1, and takes 10 KB a second.

    slow-reader.py BINARY [--seconds 20] [--bound-mb 20]

The origin sends as fast as it is let. The worker's resident memory must stay within the bound of what it was before,
and the origin must have been stopped: it cannot have got rid of more than buffers hold.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

SIZE = 1 << 30
CHUNK = b"x" * 65536
RATE = 10_000


class Origin(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent = 0

    def run(self):
        connection, _ = self.listener.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        try:
            while self.sent < SIZE:
                self.sent += connection.send(CHUNK)
        except OSError:
            pass


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def bootstrap(front, admin, origin):
    at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    kind = "type.googleapis.com/envoy.extensions.filters."
    routes = {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}]}]}
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": kind + "http.router.v3.Router"}}
    manager = {"@type": kind + "network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "s",
               "route_config": routes, "http_filters": [router]}
    return {"admin": {"address": at(admin)}, "static_resources": {
        "listeners": [{"name": "front", "address": at(front), "filter_chains": [
            {"filters": [{"name": "hcm", "typed_config": manager}]}]}],
        "clusters": [{"name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(origin)}}]}]}}]}}


def resident(process):
    with open(f"/proc/{process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def connect(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--bound-mb", type=float, default=20)
    args = parser.parse_args()
    origin = Origin()
    origin.start()
    front, admin = free_ports(2)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bootstrap.json")
        with open(path, "w") as f:
            json.dump(bootstrap(front, admin, origin.port), f)
        process = subprocess.Popen([args.binary, "-c", path, "--concurrency", "1", "-l", "error"])
        try:
            client = connect(front)
            before = resident(process)
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            got, most = 0, before
            for _ in range(args.seconds):
                got += len(client.recv(RATE))
                most = max(most, resident(process))
                time.sleep(1)
        finally:
            process.terminate()
            process.wait(30)
    grown = most - before
    print(f"client {got / 1e3:.0f} KB, origin {origin.sent / 1e6:.1f} MB, memory +{grown:.1f} MB over {before:.0f}")
    # Sockets of the loopback interface hold some megabytes on each side.
    stopped = got < origin.sent < SIZE / 10
    if grown > args.bound_mb or not stopped or got == 0:
        sys.exit("FAIL: memory grows with what is not read")


if __name__ == "__main__":
    main()
