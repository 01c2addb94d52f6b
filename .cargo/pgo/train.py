#!/usr/bin/env python3
"""Makes causeway.profdata: builds a program that counts how often each branch is taken, puts it under the loads of
the benchmarks, and merges what it has counted.

    .cargo/pgo/train.py [--binary BINARY] [--seconds 5]

To be run when the request path has changed a lot: functions that have changed since are optimised as if there were no
profile, nothing else. BINARY is such a program, if it has been built already (CAUSEWAY_PROFILE_TO=DIR cargo build
--release). Needs h2load, openssl, and the component llvm-tools of the compiler (rustup component add llvm-tools).
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "conformance"))
import cost  # noqa: E402
import scale  # noqa: E402

CIRCUITS = 500
# What a browser says beside what h2load says.
BROWSER = ["-Haccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "-Haccept-language: en-US,en;q=0.5",
           "-Haccept-encoding: gzip, deflate, br, zstd", "-Hcookie: theme=dark; _xsrf=2|5bb3a5f8|d5d8|1700000000",
           "-Hreferer: http://localhost:8888/lab/tree/a.ipynb", "-Hsec-fetch-dest: document", "-Hsec-fetch-mode: navigate"]
LOG = {"name": "envoy.access_loggers.file", "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null",
    "log_format": {"json_format": {"path": "%REQ(:PATH)%", "code": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
                                   "took": "%DURATION%", "to": "%UPSTREAM_HOST%", "bytes": "%BYTES_SENT%",
                                   "agent": "%REQ(USER-AGENT)%"}}}}


def counting_build(folder):
    subprocess.run(["cargo", "build", "--release", "--bin", "causeway", "--target-dir", os.path.join(ROOT, "target/counting")],
                   check=True, cwd=ROOT, env={**os.environ, "CAUSEWAY_PROFILE_TO": folder})
    return os.path.join(ROOT, "target/counting/release/causeway")


def bootstrap(ports, origin, folder):
    """Those of the budgets, and: HTTP/2 to endpoints (its own listener), edits with a log."""
    made = cost.bootstrap(ports, origin, folder)
    static = made["static_resources"]
    http = static["listeners"][0]

    def more(name, cluster, change):
        listener = json.loads(json.dumps(http))
        listener["name"] = name
        listener["address"]["socket_address"]["port_value"] = ports[name]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["stat_prefix"] = name
        manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = cluster
        change(manager)
        static["listeners"].append(listener)

    def edits(manager):
        manager["access_log"] = [LOG]
        host = manager["route_config"]["virtual_hosts"][0]
        host["request_headers_to_add"] = [{"header": {"key": "x-by", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}},
                                          {"header": {"key": "x-kind", "value": "plain"}}]
        host["response_headers_to_add"] = [{"header": {"key": "x-took", "value": "%DURATION%"}}]
        host["response_headers_to_remove"] = ["server"]

    more("upstream", "self", lambda manager: None)
    more("edits", "origin", edits)
    endpoint = json.loads(json.dumps(static["clusters"][0]))
    endpoint["name"] = endpoint["load_assignment"]["cluster_name"] = "self"
    address = endpoint["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    address["socket_address"]["port_value"] = ports["http"]
    kind = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": kind, "explicit_http_config": {"http2_protocol_options": {}}}}
    static["clusters"].append(endpoint)
    return made


def h2load(url, seconds, *options):
    done = subprocess.run(["h2load", *options, "-t1", "-D%d" % seconds, url], capture_output=True, text=True, timeout=seconds + 60)
    if " 0 failed" not in done.stdout or " 0 succeeded" in done.stdout:
        sys.exit("FAIL not every request succeeded: %s" % (done.stdout + done.stderr)[-400:])


def proxy_under_load(binary, folder, origin, seconds):
    names = ("http", "tls", "tcp", "up", "upstream", "edits")
    ports = dict(zip(names, cost.free_ports(len(names))))
    with open(folder + "/bootstrap.json", "w") as file:
        json.dump(bootstrap(ports, origin, folder), file)
    proxy = cost.Proxy([], binary, folder, ports, "http1")
    try:
        at = {name: "http://127.0.0.1:%d/lab/api?a=1" % port for name, port in ports.items()}
        body = folder + "/body"
        h2load(at["http"], seconds * 2, "--h1", "-c64")
        h2load(at["http"], seconds, "--h1", "-c32", *BROWSER)
        h2load(at["http"], seconds, "-c8", "-m16", *BROWSER)
        h2load(at["edits"], seconds, "--h1", "-c32", *BROWSER)
        h2load(at["upstream"], seconds, "-c8", "-m16")
        h2load(at["upstream"], seconds, "--h1", "-c32")
        secure = "https://127.0.0.1:%d/" % ports["tls"]
        h2load(secure, seconds, "--h1", "-c32")
        h2load(secure, seconds, "-c8", "-m16")
        for count in range(20):
            h2load(secure, 1, "--h1", "-c%d" % (8 + count))
        for workload in ("websocket", "tcp"):
            cost.load(workload, ports, 4000 * seconds)
    finally:
        proxy.stop()


def permits_under_load(binary, folder, origin, seconds):
    ports = dict(zip(("http", "management"), cost.free_ports(2)), origin=origin)
    worker = cost.Proxy([], binary, folder, ports, "circuit")
    try:
        cost.load("circuit", ports, 5000 * seconds)
    finally:
        worker.stop()


def worker_under_load(binary, folder, origin, seconds):
    http, management, path = cost.free_ports(3)
    with open(folder + "/worker.toml", "w") as file:
        file.write('[secrets]\napi_secret = "%s"\n[causeway]\nmanagement = "127.0.0.1:%d"\npath_frontend = "127.0.0.1:%d"\n'
                   '[proxy_worker.wildcard_domain]\ndomain = ".apps.test"\nbind_addr = { host = "127.0.0.1", port = %d }\n'
                   % (scale.TOKEN, management, path, http))
    worker = subprocess.Popen([binary, "serve", "-f", folder + "/worker.toml", "--concurrency", "1", "-l", "error"])
    try:
        scale.announce(management, [scale.circuit(n, origin) for n in range(CIRCUITS)], worker.pid)
        # A host of many is asked for by its field, so one after another.
        for n in range(10):
            h2load("http://c%d.apps.test/lab" % n, 1, "--h1", "-c8", "--connect-to=127.0.0.1:%d" % http, *BROWSER)
        h2load("http://127.0.0.1:%d/%s/a/lab" % (path, scale.circuit_id(3)), seconds, "--h1", "-c32", *BROWSER)
        for n in range(200):
            change = urllib.request.Request(
                "http://127.0.0.1:%d/v1/circuits/%s/routes" % (management, scale.circuit_id(n)), method="PUT",
                data=json.dumps([scale.route(n + n % 2, origin)]).encode(),
                headers={"X-BackendAI-Token": scale.TOKEN, "Content-Type": "application/json"})
            urllib.request.urlopen(change, timeout=60).read()
    finally:
        worker.terminate()
        worker.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary")
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    compiler = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    tools = glob.glob(compiler + "/lib/rustlib/*/bin/llvm-profdata")
    if not tools or not shutil.which("h2load"):
        sys.exit("needed: h2load, and `rustup component add llvm-tools`")
    with tempfile.TemporaryDirectory() as folder:
        counts = folder + "/counts"
        os.mkdir(counts)
        binary = os.path.abspath(options.binary or counting_build(counts))
        os.environ["LLVM_PROFILE_FILE"] = counts + "/%p.profraw"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"],
                       check=True, capture_output=True)
        origin, = cost.free_ports(1)
        server = subprocess.Popen([sys.executable, os.path.join(ROOT, "tests/conformance/origin.py"), str(origin)])
        time.sleep(0.5)
        try:
            proxy_under_load(binary, folder, origin, options.seconds)
            permits_under_load(binary, folder, origin, options.seconds)
            worker_under_load(binary, folder, origin, options.seconds)
        finally:
            server.terminate()
            server.wait()
        kept = glob.glob(counts + "/*.profraw")
        if len(kept) < 2:
            sys.exit("FAIL nothing was counted: is the program a counting one?")
        subprocess.run([tools[0], "merge", "--sparse", "-o", HERE + "/causeway.profdata", *kept], check=True)
        print("%s: %d KiB" % (HERE + "/causeway.profdata", os.path.getsize(HERE + "/causeway.profdata") // 1024))


if __name__ == "__main__":
    main()
