#!/usr/bin/env python3
"""What many clusters with health checks cost, beside another proxy on the same configuration.

    watched-clusters.py [--clusters 10000] [--endpoints 10] [--interval 60] [--seconds 120] NAME=COMMAND...

COMMAND starts a proxy, `{bootstrap}` in it stands for the file:

    watched-clusters.py "causeway=target/release/causeway -c {bootstrap} --concurrency 1" \\
        "envoy=$ENVOY -c {bootstrap} --concurrency 1 --use-dynamic-base-id"

Each cluster has its endpoints and a TCP health check of all of them; they are all over 127.0.0.0/8, and one
process accepts for all. Reported are the time until the proxy is ready, its memory then, and its memory and
CPU time over SECONDS after that with the number of checks that were made; an interval of 60 s with 100,000
endpoints is 1,667 checks a second. The first checks come at once (Envoy is ready only after them).
"""
import argparse
import json
import os
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

READY = 600


def bootstrap(options, port, admin):
    def address(number):
        number += 1
        return "127.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)

    def cluster(i):
        endpoints = [{"endpoint": {"address": {"socket_address": {
            "address": address(i * options.endpoints + n), "port_value": port}}}}
            for n in range(options.endpoints)]
        return {
            "name": "c%d" % i, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "c%d" % i, "endpoints": [{"lb_endpoints": endpoints}]},
            "health_checks": [{
                "timeout": "5s", "interval": "%ds" % options.interval,
                "no_traffic_interval": "%ds" % options.interval,
                "initial_jitter": "%ds" % options.interval,
                "interval_jitter_percent": 10,
                "unhealthy_threshold": 2, "healthy_threshold": 1, "tcp_health_check": {}}]}

    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {"clusters": [cluster(i) for i in range(options.clusters)]}}


def accept_for_ever(listener):
    """In a process of its own: accepts and closes."""
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        poll.poll()
        try:
            while True:
                listener.accept()[0].close()
        except BlockingIOError:
            pass


def get(admin, path):
    with urllib.request.urlopen("http://127.0.0.1:%d%s" % (admin, path), timeout=60) as answer:
        return answer.status, answer.read().decode()


def resident(pid):
    for line in Path("/proc/%d/status" % pid).read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("FAIL the proxy has ended")


def cpu(pid):
    fields = Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def checks(admin):
    _, text = get(admin, "/stats?usedonly&filter=health_check.attempt")
    return sum(int(line.rsplit(": ", 1)[1]) for line in text.splitlines() if ".health_check.attempt:" in line)


def ready(admin, process, started):
    while time.monotonic() - started < READY:
        if process.poll() is not None:
            raise SystemExit("FAIL the proxy ended with %d" % process.returncode)
        try:
            if get(admin, "/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("FAIL not ready after %d s" % READY)


def measure(name, command, options, port, scratch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin = free.getsockname()[1]
    path = scratch / (name + ".json")
    path.write_text(json.dumps(bootstrap(options, port, admin)))
    words = [word.replace("{bootstrap}", str(path)) for word in shlex.split(command)]
    log = scratch / (name + ".log")
    started = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
    try:
        ready(admin, process, started)
        after = time.monotonic() - started
        first = resident(process.pid)
        # The first round is over when everybody has been checked once.
        everybody = options.clusters * options.endpoints
        while checks(admin) < everybody and time.monotonic() - started < READY:
            time.sleep(1)
        made, spent, since = checks(admin), cpu(process.pid), time.monotonic()
        time.sleep(options.seconds)
        # Read before statistics are asked for: writing them is work, too.
        spent, passed = cpu(process.pid) - spent, time.monotonic() - since
        made = checks(admin) - made
        return after, first, resident(process.pid), made / passed, 100 * spent / passed
    except SystemExit:
        sys.stderr.write(log.read_text()[-3000:])
        raise
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("proxies", nargs="+", metavar="NAME=COMMAND")
    options = parser.parse_args()
    listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
    port = listener.getsockname()[1]
    accepting = os.fork()
    if accepting == 0:
        accept_for_ever(listener)
    print("| proxy | ready after | memory then | memory later | checks a second | CPU, %% of a core | µs a check |\n"
          "|---|---|---|---|---|---|---|" % ())
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for proxy in options.proxies:
                name, command = proxy.split("=", 1)
                after, first, later, rate, share = measure(name, command, options, port, Path(scratch))
                each = 1e4 * share / rate if rate else 0
                print("| %s | %.1f s | %.0f MiB | %.0f MiB | %.0f | %.1f | %.0f |"
                      % (name, after, first, later, rate, share, each), flush=True)
    finally:
        os.kill(accepting, 15)
        os.waitpid(accepting, 0)


if __name__ == "__main__":
    main()
