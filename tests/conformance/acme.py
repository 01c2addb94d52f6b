"""Runs the built worker beside Pebble: obtained, served, renewed, kept over a restart, served
without the authority; by TLS-ALPN-01 on demand and by DNS-01 for a name with a star."""

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

BINARY = sys.argv[1]
DOMAIN = "apps.test"
SECRET = "a secret of the check"
PATIENCE = 60
VALIDITY = 24

started = []
failed = False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*command, log=None):
    env = dict(os.environ, PEBBLE_VA_NOSLEEP="1", PEBBLE_AUTHZREUSE="0", PEBBLE_WFE_NONCEREJECT="5")
    out = open(log, "a") if log else subprocess.DEVNULL
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    started.append(process)
    return process


def stop(process):
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def eventually(what, attempt):
    """Repeats until the attempt gives something; an exception is a 'not yet'."""
    deadline = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < deadline:
        try:
            if found := attempt():
                return found
        except (OSError, ValueError) as error:
            last = error
        time.sleep(0.1)
    raise SystemExit(f"FAIL {what}: not within {PATIENCE} s ({last})")


def said(good, what):
    global failed
    failed |= not good
    print("PASS" if good else "FAIL", what, flush=True)


def reached(port):
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def handshake(port, host, root):
    """The certificate that is shown, if the root vouches for it."""
    context = ssl.create_default_context(cadata=root)
    with socket.create_connection(("127.0.0.1", port), 15) as plain:
        with context.wrap_socket(plain, server_hostname=host) as tls:
            return tls.getpeercert(binary_form=True)


class Authority:
    def __init__(self, directory):
        self.directory = directory
        self.port, self.management = free_port(), free_port()
        self.dns, self.names = free_port(), free_port()
        openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                   "-nodes", "-days", "2", "-subj", "/CN=ca"]
        subprocess.run(openssl + ["-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.pem"],
                       check=True, capture_output=True)
        subprocess.run(openssl + ["-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key",
                                  "-addext", "subjectAltName=IP:127.0.0.1", "-addext",
                                  "basicConstraints=critical,CA:FALSE", "-keyout",
                                  f"{directory}/own.key", "-out", f"{directory}/own.pem"],
                       check=True, capture_output=True)
        start("pebble-challtestsrv", "-dns01", f"127.0.0.1:{self.dns}", "-management",
              f"127.0.0.1:{self.names}", "-http01", "", "-https01", "", "-tlsalpn01", "",
              "-defaultIPv6", "")
        self.process = None

    def start(self, tls_port):
        config = {"pebble": {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": f"{self.directory}/own.pem", "privateKey": f"{self.directory}/own.key",
            "httpPort": 1, "tlsPort": tls_port, "ocspResponderURL": "",
            "externalAccountBindingRequired": False, "certificateValidityPeriod": VALIDITY}}
        with open(f"{self.directory}/pebble.json", "w") as file:
            json.dump(config, file)
        self.process = start("pebble", "-config", f"{self.directory}/pebble.json", "-dnsserver",
                             f"127.0.0.1:{self.dns}")
        eventually("the authority listens", lambda: reached(self.management) and reached(self.port))
        context = ssl.create_default_context(cafile=f"{self.directory}/ca.pem")
        url = f"https://127.0.0.1:{self.management}/roots/0"
        with urllib.request.urlopen(url, context=context, timeout=5) as reply:
            return reply.read().decode()


class Worker:
    def __init__(self, directory, authority, more):
        self.directory = directory
        self.management, self.port = free_port(), free_port()
        with open(f"{directory}/worker.toml", "w") as file:
            file.write(f"""
[secrets]
api_secret = "{SECRET}"
[proxy_worker]
tls_listen = true
[proxy_worker.wildcard_domain]
domain = ".{DOMAIN}"
bind_addr = {{ host = "127.0.0.1", port = {self.port} }}
[causeway]
management = "127.0.0.1:{self.management}"
path_frontend = false
[causeway.acme]
accept_terms = true
cache = "{directory}/cache"
directory = "https://127.0.0.1:{authority.port}/dir"
ca = "{authority.directory}/ca.pem"
propagation = 0
{more}
""")

    def start(self):
        self.process = start(BINARY, "start-server", "-f", f"{self.directory}/worker.toml",
                             log=f"{self.directory}/log")
        eventually("the worker is ready", lambda: self.get("/ready"))
        return self

    def get(self, page):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.management}{page}", timeout=5) as reply:
            return reply.read().decode()

    def name(self, name):
        names = json.loads(self.get("/acme"))["names"]
        return next((seen for seen in names if seen["name"] == name), None)

    def push(self, label):
        circuit = {"id": "c1c10000-0000-4000-8000-000000000001", "app": "app", "protocol": "http",
                   "app_mode": "interactive", "frontend_mode": "wildcard", "subdomain": label,
                   "open_to_public": True, "session_ids": ["5e550000-0000-4000-8000-000000000001"],
                   "route_info": []}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management}/v1/circuits", method="PUT",
            data=json.dumps({"circuits": [circuit]}).encode(),
            headers={"content-type": "application/json", "x-backendai-token": SECRET})
        with urllib.request.urlopen(request, timeout=10) as reply:
            reply.read()


def check(kind, name, host, directory, more):
    os.mkdir(directory)
    authority = Authority(directory)
    worker = Worker(directory, authority, more(authority)).start()
    root = authority.start(worker.port)
    worker.push("c1")
    first = eventually("a certificate", lambda: handshake(worker.port, host, root))
    said(True, f"{kind}: obtained and served")
    with os.scandir(f"{directory}/cache") as entries:
        private = all(entry.stat().st_mode & 0o077 == 0 for entry in entries)
    said(private, f"{kind}: what is kept is the owner's alone")

    stop(worker.process)
    worker.start()
    again = handshake(worker.port, host, root)
    said(again == first and worker.name(name)["orders"] == 0, f"{kind}: a restart orders nothing")
    worker.push("c1")
    renewed = eventually("a renewal", lambda: handshake(worker.port, host, root) != first)
    said(bool(renewed), f"{kind}: renewed")

    stop(authority.process)
    last = handshake(worker.port, host, root)
    before = worker.name(name)["failures"]
    eventually("a failed attempt", lambda: worker.name(name)["failures"] > before)
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", worker.port), 15) as plain:
        with context.wrap_socket(plain, server_hostname=host) as tls:
            said(tls.getpeercert(binary_form=True) == last,
                 f"{kind}: the last certificate outlives the authority")
    stop(worker.process)


def hook(authority):
    script = ("case $1 in present) page=set-txt;; *) page=clear-txt;; esac; exec curl -sf -d "
              "\\\"{\\\\\\\"host\\\\\\\":\\\\\\\"$2.\\\\\\\",\\\\\\\"value\\\\\\\":\\\\\\\"$3\\\\\\\"}\\\" "
              f"http://127.0.0.1:{authority.names}/$page")
    return f'hook = ["/bin/sh", "-c", "{script}", "hook"]'


with tempfile.TemporaryDirectory() as scratch:
    try:
        check("tls-alpn-01", f"c1.{DOMAIN}", f"c1.{DOMAIN}", f"{scratch}/alpn", lambda _: "")
        check("dns-01", f"*.{DOMAIN}", f"any.{DOMAIN}", f"{scratch}/dns", hook)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
sys.exit(1 if failed else 0)
