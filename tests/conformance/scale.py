#!/usr/bin/env python3
"""Many circuits through the management port, for the kits' bench/scale.py:

    scale.py --proxy 'causeway=tests/conformance/scale.py BINARY {http} {n} {dir} {origin}' \\
             --update 'tests/conformance/scale-update.sh {http} {dir} {state}'

Starts the worker with one wildcard frontend and announces the circuits once it is ready; the
process becomes the worker, so that what is measured is the worker alone. Circuit i answers at
c<i>.apps.test; with routes-1.json circuit 0 has no kernel, and so answers 503.
"""
import json
import os
import sys
import time
import urllib.request

TOKEN = "scale"


def circuit_id(i):
    return "00000000-0000-4000-8000-%012d" % i


def circuit(i, origin):
    return {
        "id": circuit_id(i), "app": "a", "protocol": "http", "app_mode": "interactive",
        "frontend_mode": "wildcard", "subdomain": "c%d" % i, "port": None, "open_to_public": True,
        "worker": circuit_id(0), "envs": {}, "user_id": circuit_id(0),
        "route_info": [route(i, origin)], "session_ids": [circuit_id(i)],
    }


def route(i, origin):
    return {"session_id": circuit_id(i), "kernel_host": "127.0.0.1", "kernel_port": origin,
            "protocol": "http", "traffic_ratio": 1.0}


def announce(management, circuits, worker):
    """In a child process, so that the worker is the process that is measured."""
    deadline = time.monotonic() + 60
    url = "http://127.0.0.1:%d" % management
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
            urllib.request.urlopen(url + "/ready", timeout=1)
            break
        except OSError:
            time.sleep(0.01)
    request = urllib.request.Request(
        url + "/v1/circuits", method="PUT", data=json.dumps(circuits).encode(),
        headers={"X-BackendAI-Token": TOKEN, "Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()


def run(binary, http, n, folder, origin):
    http, n, origin = int(http), int(n), int(origin)
    management = http + 2
    with open(folder + "/worker.toml", "w") as f:
        f.write(f"""[secrets]
api_secret = "{TOKEN}"
[causeway]
management = "127.0.0.1:{management}"
path_frontend = "127.0.0.1:{http + 3}"
[proxy_worker.wildcard_domain]
domain = ".apps.test"
bind_addr = {{ host = "127.0.0.1", port = {http} }}
""")
    for state, routes in ((0, [route(0, origin)]), (1, [])):
        with open(f"{folder}/routes-{state}.json", "w") as f:
            json.dump(routes, f)
    worker = os.getpid()
    if os.fork() == 0:
        os.setsid()
        announce(management, [circuit(i, origin) for i in range(n)], worker)
        os._exit(0)
    os.execv(binary, [binary, "serve", "-f", folder + "/worker.toml", "--concurrency", "1",
                      "-l", "error"])


if __name__ == "__main__":
    run(*sys.argv[1:])
