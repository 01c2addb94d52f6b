#!/usr/bin/env python3
"""How late the last of requests are at half load, while circuits change and metrics are scraped.

    tail.py BINARY LOAD [--haproxy PATH] [--circuits 1000] [--rounds 5] [--seconds 5]

LOAD is an open-loop load tool with a server, called as `LOAD origin PORT` and
`LOAD rate HOST PORT PATH VHOST CONNECTIONS PER_SECOND SECONDS`; it prints one JSON object. Half load is
half of what the slower of both can serve. Each round measures, in turn, the worker at rest, and the worker and
HAProxy while 100 other circuits of the worker change each second and its metrics are scraped: whoever changes
and scrapes takes time from the load tool, whatever is measured. One thread each, on CPU 0; everything
else is on CPU 1. Prints medians; fails if a request failed, or if a change or a scrape did.
"""
import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import scale  # noqa: E402

CHANGES = 100
CONNECTIONS = 32
PATH = "/b/1024"
FIGURES = ("p50_us", "p99_us", "p999_us")


def free_port():
    """The first of four that follow each other: the worker takes the next ones."""
    for _ in range(50):
        held = []
        try:
            held.append(socket.create_server(("127.0.0.1", 0)))
            first = held[0].getsockname()[1]
            held += [socket.create_server(("127.0.0.1", first + n)) for n in range(1, 4)]
            return first
        except OSError:
            continue
        finally:
            for s in held:
                s.close()
    sys.exit("FAIL no ports")


def until_open(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit("FAIL nothing listens on %d" % port)


class Background:
    """Changes of circuits other than the one that is asked, and scrapes."""

    def __init__(self, management, circuits, origin):
        self.management, self.circuits, self.origin = management, circuits, origin
        self.over = threading.Event()
        self.failed = []
        self.done = {"changes": 0, "scrapes": 0}
        self.threads = [threading.Thread(target=self.run, args=(work,)) for work in (self.change, self.scrape)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def run(self, work):
        connection = http.client.HTTPConnection("127.0.0.1", self.management, timeout=10)
        try:
            work(connection)
        except OSError as error:
            self.failed.append(repr(error))

    def ask(self, connection, method, path, body=None):
        connection.request(method, path, body, {"X-BackendAI-Token": scale.TOKEN, "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status >= 300:
            self.failed.append("%s %s: %d" % (method, path, answer.status))

    def change(self, connection):
        due, n = time.monotonic(), 0
        while not self.over.wait(max(0, due - time.monotonic())):
            n += 1
            changed = 1 + n % (self.circuits - 1)
            # A kernel more or less, in turn.
            kernels = [scale.route(changed, self.origin)] * (1 + n // self.circuits % 2)
            for i, kernel in enumerate(kernels):
                kernels[i] = dict(kernel, session_id=scale.circuit_id(changed + i * self.circuits))
            self.ask(connection, "PUT", "/v1/circuits/%s/routes" % scale.circuit_id(changed), json.dumps(kernels))
            self.done["changes"] += 1
            due += 1 / CHANGES

    def scrape(self, connection):
        while not self.over.wait(1):
            self.ask(connection, "GET", "/metrics")
            self.done["scrapes"] += 1


def rate(load, port, host, per_second, seconds):
    done = subprocess.run(["taskset", "-c", "1", load, "rate", "127.0.0.1", str(port), PATH, host, str(CONNECTIONS),
                           str(per_second), str(seconds)], capture_output=True, text=True, timeout=seconds + 60)
    got = json.loads(done.stdout.splitlines()[-1])
    if got["errors"]:
        sys.exit("FAIL %d requests failed" % got["errors"])
    return got


def haproxy_config(port, origin):
    return f"""global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    http-reuse always
frontend plain
    option forwardfor
    unique-id-format %[uuid]
    unique-id-header x-request-id
    bind 127.0.0.1:{port}
    http-request set-header x-forwarded-proto http
    default_backend origin
backend origin
    server s1 127.0.0.1:{origin}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("load")
    parser.add_argument("--haproxy", default=shutil.which("haproxy"))
    parser.add_argument("--circuits", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, {1})
    started = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(args, folder, started)
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()


def measure(args, folder, started):
    def start(cpu, *command):
        started.append(subprocess.Popen(["taskset", "-c", cpu, *map(str, command)]))

    origin = free_port()
    start("1", args.load, "origin", origin)
    until_open(origin)
    http_port = free_port()
    start("0", sys.executable, HERE + "/scale.py", args.binary, http_port, args.circuits, folder, origin)
    until_open(http_port)
    targets = {"causeway": (http_port, "c0.apps.test"), "busy": (http_port, "c0.apps.test")}
    if args.haproxy:
        port = free_port()
        with open(folder + "/haproxy.cfg", "w") as f:
            f.write(haproxy_config(port, origin))
        start("0", args.haproxy, "-f", folder + "/haproxy.cfg")
        until_open(port)
        targets["haproxy"] = (port, "c0.apps.test")
    # The circuits come after the port.
    time.sleep(2)
    # Far more than anything can take: what is served then is full load.
    full = min(rate(args.load, *targets[name], 200_000, 1)["per_s"] for name in targets if name != "busy")
    half = int(full / 2)
    rows = {name: [] for name in targets}
    for _ in range(args.rounds):
        for name, (port, host) in targets.items():
            if name == "causeway":
                rows[name].append(rate(args.load, port, host, half, args.seconds))
                continue
            with Background(http_port + 2, args.circuits, origin) as background:
                rows[name].append(rate(args.load, port, host, half, args.seconds))
            if background.failed:
                sys.exit("FAIL %s" % background.failed[0])
            rows[name][-1].update(background.done)
    print("half load: %d requests a second" % half)
    for name, got in rows.items():
        figures = {f: statistics.median(row[f] for row in got) for f in FIGURES}
        more = {k: statistics.median(row[k] for row in got) for k in ("changes", "scrapes") if k in got[0]}
        print(json.dumps({"proxy": name, **figures, **more}))


if __name__ == "__main__":
    main()
