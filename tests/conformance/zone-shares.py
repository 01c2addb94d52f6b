#!/usr/bin/env python3
"""Whether requests stay in their zone as much as with Envoy, by its own counters as well.

    zone-shares.py [BINARY [REQUESTS]]

Starts BINARY (default target/release/causeway) and Envoy with the same bootstrap, whose `local_cluster_name`
names the proxies, and sends REQUESTS (default 10,000) through every cluster. The shares of zones may differ by
three in a hundred, as draws do; statistics `lb_*` have to tell the same story. Envoy as for `hash-mapping.py`.
"""
import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

here = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("mapping", here / "hash-mapping.py")
mapping = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mapping)

ZONES = "abc"
# Endpoints are at the origin of their zone; several of them make it heavier by their addresses.
COUNTERS = ["lb_zone_routing_all_directly", "lb_zone_routing_sampled", "lb_zone_routing_cross_zone",
            "lb_zone_cluster_too_small", "lb_local_cluster_not_ok", "lb_zone_no_capacity_left"]


def localities(counts, unhealthy=()):
    def one(zone, n):
        made = {"endpoint": {"address": {"socket_address": {
            "address": "127.0.%d.%d" % (1 + ZONES.index(zone), n + 1),
            "port_value": mapping.PORTS[ZONES.index(zone)]}}}}
        if (zone, n) in unhealthy:
            made["health_status"] = "UNHEALTHY"
        return made
    return [{"locality": {"zone": zone}, "lb_endpoints": [one(zone, n) for n in range(count)]}
            for zone, count in counts.items()]


def clusters():
    make = mapping.cluster
    aware = lambda **fields: {"common_lb_config": {"zone_aware_lb_config": fields}}
    small = aware(min_cluster_size=1)
    round_robin = "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"
    listed = lambda zones: {"load_balancing_policy": {"policies": [{"typed_extension_config": {
        "name": "p", "typed_config": {"@type": round_robin, "locality_lb_config": {
            "zone_aware_lb_config": {"min_cluster_size": 1, **zones}}}}}]}}
    sick = {("a", n) for n in range(3)}
    return [
        make("enough", localities({"a": 8, "b": 4, "c": 4})),
        make("too-few", localities({"a": 5, "b": 10, "c": 5})),
        make("none-at-home", localities({"b": 6, "c": 6})),
        make("small", localities({"a": 1, "b": 2, "c": 1})),
        make("small-allowed", localities({"a": 1, "b": 2, "c": 1}), **small),
        make("half", localities({"a": 8, "b": 4, "c": 4}), **aware(routing_enabled={"value": 50})),
        make("least", localities({"a": 5, "b": 10, "c": 5}), lb_policy="LEAST_REQUEST"),
        make("random", localities({"a": 5, "b": 10, "c": 5}), lb_policy="RANDOM"),
        make("sick", localities({"a": 6, "b": 6, "c": 4}, sick), **small),
        make("forced", localities({"a": 2, "b": 10, "c": 8}), **listed({"force_local_zone": {"min_size": 2}})),
        make("weighted", localities({"a": 4, "b": 8, "c": 8}), **listed({"locality_basis": "HEALTHY_HOSTS_WEIGHT"})),
    ]


def bootstrap(port, admin):
    mapping.clusters = clusters
    made = mapping.bootstrap(port, admin)
    made["node"] = {"id": "n", "cluster": "proxies", "locality": {"zone": "a"}}
    made["cluster_manager"] = {"local_cluster_name": "proxies"}
    proxies = mapping.cluster("proxies", localities({"a": 4, "b": 4, "c": 2}))
    made["static_resources"]["clusters"].append(proxies)
    for route in made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
            "typed_config"]["route_config"]["virtual_hosts"][0]["routes"]:
        route["route"].pop("hash_policy")
    return made


def statistics(admin, name):
    url = "http://127.0.0.1:%d/stats?filter=cluster.%s.lb_" % (admin, name)
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = (line.split(": ") for line in answer.read().decode().splitlines() if ": " in line)
        values = {key.rsplit(".", 1)[1]: int(value) for key, value in lines}
    return {name: values[name] for name in COUNTERS}


async def run(command, scratch, label, count):
    port, admin = mapping.free(2)
    path = scratch / (label + ".json")
    path.write_text(json.dumps(bootstrap(port, admin)))
    with open(scratch / (label + ".log"), "wb") as log:
        process = subprocess.Popen([*command, "-c", str(path), "--concurrency", "1"], stdout=log, stderr=log)
    try:
        await mapping.ready(admin, process)
        told = {}
        for name in (c["name"] for c in clusters()):
            found = await mapping.mapping(port, name, [b"any"] * count)
            shares = [100 * found.count(zone) / count for zone in range(len(ZONES))]
            told[name] = shares, await asyncio.to_thread(statistics, admin, name)
        return told
    except SystemExit:
        sys.stderr.write((scratch / (label + ".log")).read_text()[-3000:])
        raise
    finally:
        process.terminate()
        process.wait()


async def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/causeway"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    envoy = os.environ.get("ENVOY") or shutil.which("envoy")
    if not envoy:
        print("skipped: there is no Envoy to compare with (ENVOY)")
        return 75
    loop = asyncio.get_running_loop()
    for index in range(len(ZONES)):
        # On all addresses: each endpoint has one of its own.
        server = await loop.create_server(lambda index=index: mapping.Origin(index), "0.0.0.0", 0)
        mapping.PORTS.append(server.sockets[0].getsockname()[1])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        theirs = await run([envoy, "--use-dynamic-base-id", "-l", "error"], scratch, "envoy", count)
        ours = await run([binary], scratch, "causeway", count)
    failed = False
    for name, (shares, counters) in theirs.items():
        own_shares, own_counters = ours[name]
        wrong = any(abs(a - b) > 3 for a, b in zip(shares, own_shares))
        # Some count changes of the cluster instead of requests: how many there are differs.
        wrong |= any(abs(counters[c] - own_counters[c]) > 0.03 * count
                     or c == "lb_zone_cluster_too_small" and bool(counters[c]) != bool(own_counters[c])
                     for c in COUNTERS)
        failed |= wrong
        text = " ".join("%.1f" % share for share in own_shares)
        if wrong:
            print("FAIL %s: %s instead of %s; %s instead of %s"
                  % (name, text, " ".join("%.1f" % s for s in shares), own_counters, counters))
        else:
            print("PASS %s: %s" % (name, text))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
