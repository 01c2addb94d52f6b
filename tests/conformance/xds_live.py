#!/usr/bin/env python3
"""Traffic beside a real management server: changes, many changes under load, its death and return.

    xds_live.py --proxy 'PROXY -c {bootstrap}' go --server BINARY [--cache snapshot,linear] [--mode sotw,delta]
    xds_live.py --proxy 'PROXY -c {bootstrap}' sovereign --python PYTHON

Prints PASS and FAIL lines, closes with `N passed, N failed`, and exits with 1 if anything failed.
75 stands for a management server that did not come up, which says nothing about the proxy.
"""

import argparse
import asyncio
import copy
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import xds_planes
from xds_traffic import Load, Origin, free_ports, get

APPS = 6
# Of a change under normal operation, in seconds. Nobody waits for it unless something is wrong.
SOON = 10
# Of a change that a restarted management server brings: clients back off while it is away.
AFTER_OUTAGE = 40


class Score:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, good, what, detail=""):
        self.passed += bool(good)
        self.failed += not good
        print(f"{'PASS' if good else 'FAIL'} {what}" + (f"  [{detail}]" if detail else ""), flush=True)
        return good


class Proxy:
    """The program under test, started from a bootstrap."""

    def __init__(self, command, bootstrap, folder):
        path = xds_planes.write_json(os.path.join(folder, "bootstrap.json"), bootstrap)
        self.log = open(os.path.join(folder, "proxy.log"), "w+")
        line = shlex.split(command.format(bootstrap=path))
        self.process = subprocess.Popen(line, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def alive(self):
        return self.process.poll() is None

    def stop(self, limit=15):
        """How it ended, or None if it had to be killed."""
        if self.alive():
            self.process.terminate()
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def tail(self):
        self.log.seek(0)
        return self.log.read()[-3000:]


class Scene:
    """What the management server is told, and what follows from it."""

    def __init__(self, score, plane, front, origins):
        self.score, self.plane, self.front, self.origins = score, plane, front, origins
        self.home = {f"app-{i}": 0 for i in range(APPS)}
        self.led = {app: app for app in self.home}
        self.timeouts = {}

    def state(self):
        return {
            "listeners": [{"name": "front", "port": self.front}],
            "clusters": [{"name": app, "ports": [self.origins[at].port],
                          "connect_timeout_ms": self.timeouts.get(app, 1000)}
                         for app, at in self.home.items()],
            "routes": [{"prefix": f"/{app}/", "cluster": to} for app, to in self.led.items()],
        }

    def expected(self):
        return {app: self.origins[self.home[to]].name.decode() for app, to in self.led.items()}

    def load(self):
        self.plane.load(self.state())

    async def wrong(self):
        """The applications that are not where they should be."""
        found = {}
        for app, origin in self.expected().items():
            answer = await get(self.front, f"/{app}/x", 2)
            if answer != (200, origin):
                found[app] = answer
        return found

    async def converges(self, limit):
        """Seconds until every application answers from where it should, or what is wrong."""
        started = time.monotonic()
        while True:
            wrong = await self.wrong()
            took = time.monotonic() - started
            if not wrong:
                return took, ""
            if took > limit:
                return None, str(wrong)
            await asyncio.sleep(0.05)

    async def check_converges(self, what, limit=SOON):
        took, wrong = await self.converges(limit)
        self.score.check(took is not None, what, wrong or f"{took:.2f} s")

    def change(self, number):
        """One of a round of small changes, of every kind that the server can send."""
        kinds = ["endpoints", "route", "arrive", "leave"] + (["cluster"] if self.plane.resends_endpoints else [])
        kind = kinds[number % len(kinds)]
        app = f"app-{number // len(kinds) % APPS}"
        if kind == "endpoints":
            self.home[app] = 1 - self.home[app]
        elif kind == "route":
            self.led[app] = f"app-{(number * 7 + 1) % APPS}"
        elif kind == "arrive":
            self.home["guest"] = self.home[app]
            self.led["guest"] = "guest"
        elif kind == "leave":
            self.home.pop("guest", None)
            self.led.pop("guest", None)
        else:
            self.timeouts[app] = 1000 + number


async def flow(scene, proxy, changes):
    score, plane = scene.score, scene.plane
    paths = [f"/app-{i}/x" for i in range(APPS)]
    await scene.check_converges("traffic flows", 30)
    if scene.score.failed:
        return

    scene.home["app-0"] = 1
    scene.load()
    await scene.check_converges("new endpoints take the traffic, the others keep theirs")
    scene.led["app-1"] = "app-0"
    scene.load()
    await scene.check_converges("a changed route leads to another cluster")
    scene.home["guest"], scene.led["guest"] = 0, "guest"
    scene.load()
    await scene.check_converges("a new cluster with its route is reachable")
    del scene.home["guest"], scene.led["guest"]
    scene.load()
    status = None
    until = time.monotonic() + SOON
    while status != 404 and time.monotonic() < until:
        status, _ = await get(scene.front, "/guest/x", 2)
    score.check(status == 404, "without it there is no route", str(status))

    slow = asyncio.create_task(get(scene.front, "/app-5/drip/3", 20))
    load = Load(scene.front, paths).start()
    silent = 0
    started = time.monotonic()
    for number in range(changes):
        # Each of them waits for seconds, and the point is made.
        if silent > 3:
            break
        before = copy.deepcopy(scene.state())
        scene.change(number)
        pace = asyncio.create_task(asyncio.sleep(0.05))
        if scene.state() != before:
            silent += not await plane.change(scene.state(), scene)
        await pace
    took = time.monotonic() - started
    score.check(silent == 0, f"{changes} changes, each taken", f"{silent} not, {took:.1f} s in all")
    await scene.check_converges("after them everything is where the last one says")
    await load.stop()
    score.check(not load.failed, "no request failed meanwhile", load.text())
    status, body = await slow
    score.check(status == 200 and len(body) == 30, "a download that began before them is whole", f"{status}, {len(body)} bytes")

    load = Load(scene.front, paths).start()
    plane.kill()
    await asyncio.sleep(3)
    score.check(not load.failed and proxy.alive(), "3 s without the management server: no request failed", load.text())
    for app in scene.home:
        scene.home[app] = 1 - scene.home[app]
    await asyncio.to_thread(plane.start, scene.state())
    await scene.check_converges("it returns with other endpoints, which are taken", AFTER_OUTAGE)
    await load.stop()
    score.check(not load.failed, "no request failed meanwhile", load.text())

    load = Load(scene.front, paths).start()
    plane.kill()
    await asyncio.to_thread(plane.start, scene.state())
    await plane.followed(AFTER_OUTAGE)
    scene.home["app-2"] = 1 - scene.home["app-2"]
    scene.load()
    await scene.check_converges("restarted with the same state, it is followed on", AFTER_OUTAGE)
    await load.stop()
    score.check(not load.failed, "no request failed meanwhile", load.text())
    for kind, texts in plane.refusals().items():
        score.check(not texts, f"nothing of {kind} was refused", "; ".join(texts)[:600])
    score.check(proxy.alive(), "the proxy still runs")


async def run(score, plane, command, changes, folder):
    origins = [await Origin(name).start() for name in ("A", "B")]
    admin, front = free_ports(2)
    scene = Scene(score, plane, front, origins)
    failed = score.failed
    proxy = None
    try:
        plane.start(scene.state())
        proxy = Proxy(command, plane.bootstrap(admin), folder)
        await flow(scene, proxy, changes)
        ended = proxy.stop()
        score.check(ended == 0, "it ends on SIGTERM", f"exit {ended}")
        if score.failed > failed:
            print("--- the proxy's log, at its end\n" + proxy.tail())
    finally:
        if proxy is not None:
            proxy.stop(1)
        plane.kill()
        for origin in origins:
            origin.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", required=True, help="command; {bootstrap} is replaced")
    parser.add_argument("--changes", type=int)
    planes = parser.add_subparsers(dest="plane", required=True)
    go = planes.add_parser("go")
    go.add_argument("--server", required=True)
    go.add_argument("--cache", default="snapshot,linear")
    go.add_argument("--mode", default="sotw,delta")
    sovereign = planes.add_parser("sovereign")
    sovereign.add_argument("--python", required=True)
    arguments = parser.parse_args()

    # Whoever sets a limit sends this; what was started is to go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    score = Score()
    if arguments.plane == "go":
        kinds = [(f"{cache} cache, {mode}", lambda d, c=cache, m=mode: xds_planes.Go(arguments.server, c, m, d))
                 for cache in arguments.cache.split(",") for mode in arguments.mode.split(",")]
        changes = arguments.changes or 100
    else:
        kinds = [("REST-JSON", lambda d: xds_planes.Sovereign(arguments.python, d))]
        changes = arguments.changes or 20
    for name, make in kinds:
        started = time.monotonic()
        print(f"--- {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="causeway-xds.") as folder:
            try:
                asyncio.run(run(score, make(folder), arguments.proxy, changes, folder))
            except xds_planes.NotUp as error:
                print(f"NOT RUN: {error}")
                sys.exit(75)
        print(f"    {time.monotonic() - started:.0f} s", flush=True)
    print(f"{score.passed} passed, {score.failed} failed")
    sys.exit(1 if score.failed else 0)


if __name__ == "__main__":
    main()
