#!/usr/bin/env python3
"""What very many circuits cost a worker, and a change of one among them.

    circuits.py BINARY [COUNT [PORT]]        (100000, 29000; five ports from there on)

Pushes COUNT circuits as one full set (`PUT /v1/circuits`), each with a subdomain, a path, and a kernel, and
reports: the time until they are live, with the CPU time of the worker; its memory for each; what it does when
nothing happens; one kernel that goes and comes back, from the push until traffic sees it; one circuit more and
one less; the same full set again, which changes nothing.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scale

SECONDS_IDLE = 20
CHANGES = 6


def pss(pid):
    for line in open("/proc/%d/smaps_rollup" % pid):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024


def cpu(pid):
    fields = open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    def __init__(self, binary, port, folder):
        self.port = port
        config = Path(folder, "worker.toml")
        config.write_text(f"""[secrets]
api_secret = "{scale.TOKEN}"
[causeway]
management = "127.0.0.1:{port + 2}"
path_frontend = "127.0.0.1:{port + 3}"
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = {{ host = "127.0.0.1", port = {port} }}
""")
        command = [binary, "serve", "-f", str(config), "--concurrency", "1", "-l", "error"]
        self.process = subprocess.Popen(command)
        self.pid = self.process.pid

    def ask(self, host):
        """The status of an answer; 0 without one."""
        head = b"GET / HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host.encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(head)
                start = connection.recv(200)
            return int(start[9:12])
        except (OSError, ValueError):
            return 0

    def push(self, method, path, body=None):
        """Seconds until the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port + 2, timeout=300)
        headers = {"X-BackendAI-Token": scale.TOKEN, "Content-Type": "application/json"}
        started = time.monotonic()
        connection.request(method, "/v1/circuits" + path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        took = time.monotonic() - started
        assert answer.status < 300, text[:500]
        return took

    def wait(self, holds, seconds=60):
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline and self.process.poll() is None, "not in time"
            time.sleep(0.0005)


def milliseconds(times):
    return ", ".join("%.1f" % (t * 1e3) for t in sorted(times))


def measure(worker, count, origin):
    def spent(work):
        before = cpu(worker.pid)
        return work(), cpu(worker.pid) - before

    worker.wait(lambda: worker.ask("c0.apps.test") != 0)
    time.sleep(1)
    idle = pss(worker.pid)
    everything = json.dumps([scale.circuit(i, origin) for i in range(count)]).encode()
    took, used = spent(lambda: worker.push("PUT", "", everything))
    assert worker.ask("c%d.apps.test" % (count - 1)) == 200
    print("%d circuits live after %.2f s (CPU %.2f s)" % (count, took, used))
    time.sleep(1)
    print("%.0f MiB, %.0f bytes each" % (pss(worker.pid) / 2**20, (pss(worker.pid) - idle) / count))
    _, used = spent(lambda: time.sleep(SECONDS_IDLE))
    print("CPU with nothing to do: %.2f %% of a core" % (used / SECONDS_IDLE * 100))
    times = []
    for n in range(CHANGES):
        there = n % 2 == 1
        routes = json.dumps([scale.route(0, origin)] if there else [])
        started = time.monotonic()
        worker.push("PUT", "/%s/routes" % scale.circuit_id(0), routes)
        worker.wait(lambda: (worker.ask("c0.apps.test") == 200) == there)
        times.append(time.monotonic() - started)
    print("a kernel goes or comes, seen by traffic: %s ms" % milliseconds(times))
    times = []
    for n in range(count, count + CHANGES):
        times.append(worker.push("POST", "", json.dumps(scale.circuit(n, origin))))
        times.append(worker.push("DELETE", "/" + scale.circuit_id(n)))
    print("a circuit more or less: %s ms" % milliseconds(times))
    took, used = spent(lambda: worker.push("PUT", "", everything))
    print("the same set again: %.2f s (CPU %.2f s)" % (took, used))


def main(binary, count=100_000, port=29_000):
    count, port = int(count), int(port)
    origin = subprocess.Popen([sys.executable, Path(__file__).with_name("origin.py"), str(port + 1)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(binary, port, folder)
            try:
                measure(worker, count, port + 1)
            finally:
                worker.process.kill()
                worker.process.wait()
    finally:
        origin.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
