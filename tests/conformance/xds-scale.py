#!/usr/bin/env python3
"""Many clusters and routes from a management server (go-control-plane, incremental): how long until they
are served, what they cost in memory, and what one change costs.

    xds-scale.py CONTROL_PLANE NAME=PROXY... [--count 10000] [--mode delta|sotw]

CONTROL_PLANE is the program that xds-go-control-plane.sh builds; PROXY is a command with {bootstrap} in it.
Each proxy gets a management server of its own; an empty one is started first to know what it needs by itself.
"""

import argparse
import http.server
import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
import urllib.request

from xds_planes import address, ask, cluster, write_json
from xds_traffic import free_ports

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LIMIT = 120


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def origin(name):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.name = name
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return None


def wait(what, test):
    begin = time.time()
    while time.time() - begin < LIMIT:
        if test():
            return time.time() - begin
        time.sleep(0.005)
    raise SystemExit(f"{what}: not within {LIMIT} s")


def memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss_Anon"))


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bootstrap(xds, admin, mode):
    ads = {"ads": {}, "resource_api_version": "V3"}
    options = {HTTP_OPTIONS: {"@type": "type.googleapis.com/" + HTTP_OPTIONS,
                              "explicit_http_config": {"http2_protocol_options": {}}}}
    return {
        "node": {"id": "scale", "cluster": "scale"}, "admin": address(admin),
        "dynamic_resources": {
            "ads_config": {"api_type": {"delta": "DELTA_GRPC", "sotw": "GRPC"}[mode], "transport_api_version": "V3",
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "cds_config": ads, "lds_config": ads},
        "static_resources": {"clusters": [cluster("xds", xds, typed_extension_protocol_options=options)]}}


def run(plane, command, count, mode, one, two):
    xds, control, admin, front = free_ports(4)
    folder = tempfile.mkdtemp(prefix="xds-scale-")
    state = {
        "listeners": [{"name": "front", "port": front}],
        "clusters": [{"name": f"c{i}", "ports": [one]} for i in range(count)],
        "routes": [{"prefix": f"/r{i}/", "cluster": f"c{i}"} for i in range(count)]}
    tell = lambda: ask(f"http://127.0.0.1:{control}/state", json.dumps(state).encode())
    server = subprocess.Popen([plane, "-xds", f"127.0.0.1:{xds}", "-control", f"127.0.0.1:{control}"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = None
    try:
        wait("the management server", lambda: tell() is not None)
        path = write_json(os.path.join(folder, "bootstrap.json"), bootstrap(xds, admin, mode))
        with open(os.path.join(folder, "log"), "w") as log:
            proxy = subprocess.Popen(shlex.split(command.format(bootstrap=path)), stdout=log, stderr=log)
        last = f"/r{count - 1}/"
        served = wait("the first answer", lambda: get(front, last) == "one")
        time.sleep(2)
        figures = {"served_s": round(served, 2), "cpu_s": round(cpu(proxy.pid), 2), "anon_kib": memory(proxy.pid)}
        before, times = cpu(proxy.pid), []
        for step in range(10):
            wanted, port = ("two", two) if step % 2 == 0 else ("one", one)
            state["clusters"][-1]["ports"] = [port]
            begin = time.time()
            tell()
            told = time.time() - begin
            wait("a change", lambda: get(front, last) == wanted)
            times.append(time.time() - begin - told)
        figures["change_ms"] = round(sorted(times)[5] * 1000, 1)
        figures["change_cpu_ms"] = round((cpu(proxy.pid) - before) * 100, 1)
        return figures
    finally:
        for process in (proxy, server):
            if process:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plane")
    parser.add_argument("proxies", nargs="+", metavar="NAME=PROXY")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--mode", choices=["delta", "sotw"], default="delta")
    args = parser.parse_args()
    one, two = origin("one"), origin("two")
    for proxy in args.proxies:
        name, command = proxy.split("=", 1)
        small = run(args.plane, command, 1, args.mode, one, two)
        large = run(args.plane, command, args.count, args.mode, one, two)
        each = (large["anon_kib"] - small["anon_kib"]) / args.count
        print(f"{name} {args.mode}: {args.count} clusters and routes {large}, by itself {small}, {each:.1f} KiB for each")


if __name__ == "__main__":
    main()
