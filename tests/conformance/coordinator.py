#!/usr/bin/env python3
"""Scenarios for coordinator.sh: a causeway worker beside the real Coordinator. Standard library only.

    coordinator.py --kit FOLDER --binary FILE [--only NAME,NAME] [--verbose] | --list

The kit's drive.py plays Manager, WebUI and browser. REAL_HOME, REAL_VERSION and REAL_BASE_PORT are
those of the kit, whose services run. Ports of this script, from REAL_BASE_PORT: as in the kit, and
+23/+43/+63 management, +92..+95 kernels, +97 nobody, +98 relay in front of Redis.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

SCENARIOS = {}
EXTRA = set()  # only run when they are named
OPTIONS = argparse.Namespace()
drive = None  # the kit's module, once its folder is known
manager = None


def scenario(name, extra=False):
    def register(function):
        SCENARIOS[name] = function
        if extra:
            EXTRA.add(name)
        return function

    return register


class Skip(Exception):
    pass


class Checks:
    """What a scenario found. Failures are told at its end, everything at once when verbose."""

    def __init__(self):
        self.passed, self.failed, self.lines = 0, 0, []

    def __call__(self, what, good, got=None):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        if not good or OPTIONS.verbose:
            self.lines.append(f"{'     ok  ' if good else '     FAIL'} {what}" + ("" if good else f": {got!r}"))
        return good

    def note(self, text):
        self.lines.append(f"     note {text}")


def base(offset):
    return int(os.environ["REAL_BASE_PORT"]) + offset


def v25():
    return os.environ["REAL_VERSION"].startswith("25.")


def address(port):
    return f"127.0.0.1:{port}"


def eventually(function, want=bool, seconds=10.0):
    """The first wanted result of `function`, else its last one (or what it raised)."""
    end = time.monotonic() + seconds
    while True:
        try:
            got = function()
            if want(got):
                return got
        except Exception as error:
            got = error
        if time.monotonic() > end:
            return got
        time.sleep(0.05)


def alike(got, good):
    return not isinstance(got, Exception) and good(got)


# ------------------------------------------------------------------------------------------ processes


class Worker:
    """A worker with the file that the kit's template gives, and what a scenario adds to it."""

    OFFSETS = {"port": 20, "wildcard": 40, "tcp": 60, "h2": 20}

    def __init__(self, mode, redis=None, proxy_worker="", causeway="", api_secret=None):
        self.mode, self.name, self.process = mode, f"conf-{mode}", None
        self.api = base(self.OFFSETS[mode])
        self.management = self.api + 3
        self.url = f"http://{address(self.api)}"
        self.file = os.path.join(os.environ["REAL_HOME"], "conf", f"{self.name}.toml")
        self.log = os.path.join(os.environ["REAL_HOME"], "run", f"{self.name}.log")
        if mode == "wildcard":
            section = (
                f'[proxy_worker.wildcard_domain]\ndomain = ".apps.localhost"\n'
                f'bind_addr = {{ host = "127.0.0.1", port = {self.api + 5} }}\nadvertised_port = {self.api + 5}'
            )
        else:
            section = (
                f'[proxy_worker.port_proxy]\nbind_host = "127.0.0.1"\nadvertised_host = "127.0.0.1"\n'
                f"bind_port_range = [{self.api + 10}, {self.api + 19}]"
            )
        values = {
            "P_REDIS": redis or base(2),
            "RUN": os.path.join(os.environ["REAL_HOME"], "run"),
            "W_NAME": self.name,
            "W_COORD": drive.env("COORDINATOR"),
            "W_LOOP": "asyncio",
            "W_MON1": self.api + 1,
            "W_MON2": self.api + 2,
            "W_HEARTBEAT": "10.0",
            "W_FRONTEND": "wildcard" if mode == "wildcard" else "port",
            "W_PROTOCOL": mode if mode in ("tcp", "h2") else "http",
            "W_TRAFFICS": '"interactive", "inference"',
            "W_API": self.api,
            "W_SECTION": f"{proxy_worker}\n{section}",
            "REAL_API_SECRET": api_secret or drive.env("API_SECRET"),
            "REAL_JWT_SECRET": drive.env("JWT_SECRET"),
            "REAL_PERMIT_SECRET": drive.env("PERMIT_SECRET"),
            "REAL_LOG_LEVEL": "INFO",
        }
        with open(os.path.join(OPTIONS.kit, "templates", "worker.toml.in")) as template:
            text = re.sub(r"@([A-Z0-9_]+)@", lambda m: str(values[m[1]]), template.read())
        if mode == "wildcard":
            # Browsers take the permit for a domain only from a name in it.
            text = text.replace('api_advertised_addr = { host = "127.0.0.1"', 'api_advertised_addr = { host = "api.apps.localhost"')
        with open(self.file, "w") as file:
            file.write(text + own_table(self.management) + causeway + "\n")

    def start(self):
        self.process = launch([OPTIONS.binary, "-f", self.file], self.log)
        ready = eventually(lambda: drive.http("GET", self.url + "/readyz").status, lambda s: s == 200, 20)
        if ready != 200:
            raise RuntimeError(f"worker {self.name} is not ready: {ready!r}; {tail(self.log)}")
        row = eventually(self.row, bool, 10)
        if not isinstance(row, dict):
            raise RuntimeError(f"worker {self.name} is not registered; {tail(self.log)}")
        return self

    def stop(self, sign=signal.SIGTERM):
        """Ends it; gives the exit code."""
        if self.process is None:
            return None
        code = end(self.process, sign)
        self.process = None
        return code

    def row(self):
        return next((w for w in manager.workers() if w["authority"] == self.name), None)

    def nodes(self):
        return self.row()["nodes"]

    def live(self):
        """The circuits that the worker has, by id."""
        answer = drive.http(
            "GET", f"http://{address(self.management)}/v1/circuits", {"X-BackendAI-Token": drive.env("API_SECRET")}
        ).json()
        return {c["id"]: c for c in (answer["circuits"] if isinstance(answer, dict) else answer)}

    def listed(self):
        """The circuits that the Coordinator has for it, by id."""
        return {c["id"]: c for c in manager.call("GET", f"/api/worker/{self.row()['id']}/circuits")["circuits"]}

    def differences(self):
        live, listed = self.live(), self.listed()

        def kernels(circuit):
            return sorted((r["kernel_host"], r["kernel_port"]) for r in circuit["route_info"])

        return sorted(set(live) ^ set(listed)) + sorted(
            i for i in set(live) & set(listed) if kernels(live[i]) != kernels(listed[i])
        )


def own_table(management):
    # The defaults of both are for a machine of its own.
    return f'\n[causeway]\nmanagement = "{address(management)}"\npath_frontend = false\n'


STARTED = []


def launch(command, log):
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    STARTED.append(process)
    return process


def end(process, sign=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(sign)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in STARTED:
        STARTED.remove(process)
    return process.returncode


def tail(log, lines=5):
    with open(log, errors="replace") as file:
        return " | ".join(line.strip() for line in file.readlines()[-lines:])


def kit(script, *arguments, **variables):
    """Runs a script of the kit."""
    done = subprocess.run(
        [os.path.join(OPTIONS.kit, script), *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)}: exit {done.returncode}: {done.stdout[-400:]}")
    return done.stdout


def stop_service(name):
    command = '. "$1/lib.sh"; stop_pid "$2"'
    subprocess.run(["bash", "-c", command, "-", OPTIONS.kit, name], check=True, stderr=subprocess.DEVNULL)


class Kernels:
    """The kit's stand-in kernels: `a` and `b` speak HTTP, `tcp` echoes."""

    def __init__(self):
        self.a, self.b, self.tcp, self.dead = (address(base(92 + i)) for i in (0, 1, 2, 5))
        script = os.path.join(OPTIONS.kit, "backend.py")
        log = os.path.join(os.environ["REAL_HOME"], "run", "conf-kernels.log")
        self.processes = [
            launch([sys.executable, script, str(base(92)), "--name", "a"], log),
            launch([sys.executable, script, str(base(93)), "--name", "b"], log),
            launch([sys.executable, script, str(base(94)), "--tcp"], log),
        ]
        for offset in (92, 93, 94):
            eventually(lambda o=offset: socket.create_connection(("127.0.0.1", base(o)), 1).close() is None)

    def stop(self):
        for process in self.processes:
            end(process)


class Relay:
    """A TCP relay that can be cut: what is open breaks, and nothing new gets through."""

    def __init__(self, port, target):
        self.port, self.target, self.open, self.listener = port, target, [], None
        self.restore()

    def restore(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target), 2)
                far.settimeout(None)
            except OSError:
                if listener.fileno() < 0:
                    return
                continue
            self.open += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    @staticmethod
    def copy(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        # shutdown() first: it is what wakes a thread that sits in accept().
        for s in (self.listener, *self.open):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        self.open = []


class Traffic:
    """Requests one after another, and an echo over one WebSocket, until it is stopped."""

    def __init__(self, origin, cookie):
        self.origin, self.cookie = origin, cookie
        self.requests = self.echoes = 0
        self.broken = []
        self.going = True
        self.socket = drive.WebSocket(origin + "/api/kernels/1/channels", {"Cookie": cookie})
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.ask, self.echo)]
        for thread in self.threads:
            thread.start()

    def ask(self):
        while self.going:
            try:
                answer = drive.http("GET", self.origin + "/api/status", {"Cookie": self.cookie})
                if answer.status == 200 and b'"ok": true' in answer.body:
                    self.requests += 1
                else:
                    self.broken.append(answer.line)
            except Exception as error:
                self.broken.append(repr(error))
            time.sleep(0.02)

    def echo(self):
        while self.going:
            try:
                text = f"echo {self.echoes}"
                self.socket.send(text)
                got = self.socket.recv()
                if got != (1, text):
                    self.broken.append(f"echo: {got!r}")
                self.echoes += 1
            except Exception as error:
                self.broken.append(f"WebSocket: {error!r}")
                return
            time.sleep(0.1)

    def stop(self):
        self.going = False
        for thread in self.threads:
            thread.join(20)
        self.socket.close()

    def judge(self, check, what):
        self.stop()
        told = f"{what}: {self.requests} requests and {self.echoes} echoes, nothing dropped"
        good = not self.broken and self.requests > 20 and self.echoes > 5
        check(told, good, f"{len(self.broken)} broken, first {self.broken[:3]}")


def origin_of(opened):
    parts = urllib.parse.urlsplit(opened["location"])
    return f"{parts.scheme}://{parts.netloc}"


def page(opened, path="/api/status", **headers):
    """What a browser with the cookie of `opened` gets."""
    return drive.http("GET", origin_of(opened) + path, {"Cookie": opened["cookie"], **headers})


def opens(opened):
    return page(opened).status == 200


def tidy():
    """Takes away circuits, and nodes of workers that no longer run: the Coordinator would place apps there."""
    for circuit in manager.circuits():
        try:
            manager.rm_circuit(circuit["id"])
        except RuntimeError:
            pass
    for worker in manager.workers():
        for _ in range(worker["nodes"]):
            manager.call("DELETE", f"/api/worker/{worker['id']}")


def token(claims, secret=None):
    """A JSON Web Token, HS256."""

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = part(b'{"alg":"HS256","typ":"JWT"}') + "." + part(json.dumps(claims).encode())
    key = (secret or drive.env("JWT_SECRET")).encode()
    return f"{body}.{part(hmac.new(key, body.encode(), hashlib.sha256).digest())}"


# ------------------------------------------------------------------------------------------ scenarios


def kit_check(mode, check):
    worker = Worker(mode).start()
    try:
        done = subprocess.run(
            [sys.executable, os.path.join(OPTIONS.kit, "drive.py"), "check", "--mode", mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        lines = done.stdout.strip().splitlines()
        for line in lines:
            if line.startswith(("ok", "FAIL")):
                check(line[5:], line.startswith("ok"), line)
        check("drive.py is content", done.returncode == 0, lines[-3:])
    finally:
        worker.stop()


@scenario("check-port")
def check_port(check):
    kit_check("port", check)


@scenario("check-wildcard")
def check_wildcard(check):
    kit_check("wildcard", check)


@scenario("check-tcp")
def check_tcp(check):
    kit_check("tcp", check)


@scenario("worker-restart")
def worker_restart(check):
    for mode in ("port", "wildcard"):
        worker, kernels = Worker(mode), Kernels()
        try:
            worker.start()
            check(f"{mode}: one node", worker.nodes() == 1, worker.nodes())
            opened = [manager.open_app(kernels.a, app=f"app{i}") for i in range(3)]
            check(f"{mode}: all open", all(map(opens, opened)))
            worker_id, before = worker.row()["id"], sorted(worker.listed())
            code = worker.stop()
            check(f"{mode}: exit code 0 after SIGTERM", code == 0, code)
            check(f"{mode}: no node after SIGTERM", worker.nodes() == 0, worker.nodes())
            worker.start()
            got = eventually(lambda: all(map(opens, opened)), seconds=5)
            check(f"{mode}: old permits open their circuits after SIGTERM", got is True, got)
            check(f"{mode}: one node again, same id", (worker.nodes(), worker.row()["id"]) == (1, worker_id), worker.row())
            worker.stop(signal.SIGKILL)
            worker.start()
            got = eventually(lambda: all(map(opens, opened)), seconds=5)
            check(f"{mode}: old permits open their circuits after SIGKILL", got is True, got)
            check(f"{mode}: two nodes after SIGKILL", worker.nodes() == 2, worker.nodes())
            check(f"{mode}: no circuit lost", sorted(worker.listed()) == before)
            got = eventually(lambda: sorted(worker.live()), lambda g: g == before)
            check(f"{mode}: the worker has the Coordinator's circuits", got == before, got)
            new = manager.open_app(kernels.a, app="after")
            check(f"{mode}: a new launch works", opens(new))
        finally:
            worker.stop()
            kernels.stop()
            tidy()


@scenario("coordinator-restart")
def coordinator_restart(check):
    worker, kernels, traffic = Worker("port"), Kernels(), None
    try:
        worker.start()
        opened = manager.open_app(kernels.a)
        traffic = Traffic(origin_of(opened), opened["cookie"])
        time.sleep(1)
        stop_service("coordinator")
        time.sleep(2)
        setup = drive.http("GET", opened["setup_url"])
        check("a setup link works while the Coordinator is away", setup.status in (302, 308), setup.line)
        kit("up.sh")
        new = eventually(lambda: manager.open_app(kernels.b, app="new"), seconds=20)
        check("a new launch works", alike(new, opens), new)
        again = manager.open_app(kernels.a, reuse=True, session=manager.session(opened["session_id"]))
        check("asking again reuses the circuit", again["circuit_id"] == opened["circuit_id"], again["circuit_id"])
        time.sleep(1)
        traffic.judge(check, "stop and start of the Coordinator")
        check("one node: no second registration", worker.nodes() == 1, worker.nodes())
        got = eventually(worker.differences, lambda g: not g, 10)
        check("the worker has the Coordinator's circuits", got == [], got)
    finally:
        if traffic:
            traffic.stop()
        worker.stop()
        kernels.stop()
        kit("up.sh")
        tidy()


@scenario("events-lost")
def events_lost(check):
    """The worker's way to Redis is cut; the Coordinator goes on."""
    relay = Relay(base(98), base(2))
    worker, kernels, traffic = Worker("port", redis=base(98), causeway="relist_period = 3\n"), Kernels(), None
    try:
        worker.start()
        kept = manager.open_app(kernels.a, app="kept")
        gone = manager.open_app(kernels.a, app="gone")
        eid, url = manager.endpoint("lost")
        manager.routes(eid, [kernels.a])
        auth = {"Authorization": f"Bearer {manager.endpoint_token(eid)}"}

        def model():
            return drive.http("GET", url.rstrip("/") + "/api/status", auth).json()["backend"]

        got = eventually(model, lambda b: b == "a")
        check("model service answers", got == "a", got)
        traffic = Traffic(origin_of(kept), kept["cookie"])
        relay.cut()
        time.sleep(1)
        cut = time.monotonic()
        manager.rm_circuit(gone["circuit_id"])
        manager.routes(eid, [kernels.b])
        result = []

        def launch_app():
            try:
                result.append(manager.open_app(kernels.b, app="new"))
            except RuntimeError as error:
                result.append(error)

        launching = threading.Thread(target=launch_app)
        launching.start()
        got = eventually(worker.differences, lambda g: not g, 8)
        check("circuits equal the Coordinator's within the relist period, without Redis", got == [], got)
        check("the new circuit is among them", len(worker.live()) == 3, len(worker.live()))
        # By its id: its port may be the new circuit's by now.
        check("the removed circuit is not", gone["circuit_id"] not in worker.live())
        got = eventually(model, lambda b: b == "b", 3)
        check("the model service is at its new kernel", got == "b", got)
        check.note(f"repaired {time.monotonic() - cut:.1f} s after the first lost event")
        redis = drive.Redis(drive.env("REDIS"))
        redis("SELECT", 2)
        key = f"circuit.{kept['circuit_id']}.last_access"
        mark = float(redis("GET", key) or 0)
        time.sleep(2)
        check("no mark is written meanwhile", float(redis("GET", key) or 0) == mark)
        counted = int(redis("GET", f"circuit.{kept['circuit_id']}.requests") or 0)
        relay.restore()
        got = eventually(lambda: float(redis("GET", key)), lambda m: m > mark, 10)
        check("marks are written again", alike(got, lambda m: m > mark), (got, mark))
        asked = traffic.requests
        got = eventually(lambda: int(redis("GET", f"circuit.{kept['circuit_id']}.requests")), lambda n: n >= asked, 5)
        check("requests during the cut are counted", alike(got, lambda n: n >= asked), (counted, got, asked))
        launching.join(25)
        outcome = result[0] if result else None
        check.note(f"the launch during the cut: {'worked' if isinstance(outcome, dict) else outcome}")
        later = eventually(lambda: manager.open_app(kernels.b, app="later"), seconds=20)
        check("a new launch works", alike(later, opens), later)
        traffic.judge(check, "cut of the event bus")
        got = eventually(worker.differences, lambda g: not g, 8)
        check("circuits equal in the end", got == [], got)
    finally:
        if traffic:
            traffic.stop()
        worker.stop()
        relay.cut()
        kernels.stop()
        tidy()


@scenario("redis-restart")
def redis_restart(check):
    worker, kernels, traffic = Worker("wildcard", causeway="relist_period = 3\n"), Kernels(), None
    try:
        worker.start()
        kept = manager.open_app(kernels.a, app="kept")
        gone = manager.open_app(kernels.a, app="gone")
        traffic = Traffic(origin_of(kept), kept["cookie"])
        time.sleep(1)
        stop_service("redis")
        time.sleep(3)
        try:
            manager.call("DELETE", f"/api/circuit/{gone['circuit_id']}", timeout=4)
            check.note("the Coordinator removes a circuit while Redis is away")
        except (RuntimeError, OSError) as error:
            check.note(f"the Coordinator's answer to a removal while Redis is away: {error!r:.120}")
        kit("up.sh")
        started = time.monotonic()
        # The worker asks for Redis each minute, and sooner only once that has failed.
        ready = eventually(lambda: drive.http("GET", worker.url + "/readyz").status, lambda s: s == 200, 15)
        check("ready", ready == 200, ready)
        got = eventually(worker.differences, lambda g: not g, 10)
        check("circuits equal the Coordinator's", got == [], got)
        check.note(f"circuits equal {time.monotonic() - started:.1f} s after Redis was back")
        new = eventually(lambda: manager.open_app(kernels.b, app="new"), seconds=20)
        check("a new launch works", alike(new, opens), new)
        check.note(f"a launch worked {time.monotonic() - started:.1f} s after Redis was back")
        redis = drive.Redis(drive.env("REDIS"))
        redis("SELECT", 2)
        got = eventually(lambda: redis("TTL", f"circuit.{kept['circuit_id']}.last_access"), lambda t: t > 172000, 5)
        check("marks are written to the new Redis", alike(got, lambda t: t > 172000), got)
        traffic.judge(check, "stop and start of Redis")
    finally:
        if traffic:
            traffic.stop()
        worker.stop()
        kernels.stop()
        kit("up.sh")
        tidy()


@scenario("routes")
def routes(check):
    worker, kernels = Worker("port"), Kernels()
    made = []
    try:
        worker.start()
        eid, url = manager.endpoint("routes")
        made.append(eid)
        circuit = next(c for c in worker.listed().values() if c["endpoint_id"] == eid)
        good = manager.endpoint_token(eid)

        def ask(scheme="Bearer", token=good, at=url):
            headers = {"Accept": "application/json", **({"Authorization": f"{scheme} {token}"} if token else {})}
            return drive.http("GET", at.rstrip("/") + "/api/status", headers)

        def kernel():
            answer = ask()
            return answer.json()["backend"] if answer.status == 200 else answer.status

        def settles(what, want, seconds=5.0):
            started = time.monotonic()
            got = eventually(kernel, lambda g: g == want, seconds)
            check(what, got == want, got)
            return time.monotonic() - started

        settles("no routes yet: 503", 503)
        manager.routes(eid, [kernels.a])
        settles("one kernel", "a")
        manager.routes(eid, [kernels.a, kernels.b], [0.75, 0.25])
        eventually(kernel, lambda g: g == "b")
        answers = [kernel() for _ in range(200)]
        share = answers.count("a") / len(answers)
        # Five standard deviations. Ratios are at most 1, and 26.x knows none.
        expected, room = (0.75, 0.16) if v25() else (0.5, 0.18)
        check("two kernels, nothing else", set(answers) == {"a", "b"}, set(answers))
        check(f"share of the first near {expected}", abs(share - expected) <= room, share)
        manager.routes(eid, [kernels.a, kernels.dead])

        def all_right():
            return [a for a in (kernel() for _ in range(30)) if a != "a"]

        time.sleep(0.5)
        first = all_right()
        check.note(f"one of two kernels dead: {len(first)} of the first 30 requests failed {sorted(set(map(str, first)))}")
        got = eventually(all_right, lambda g: not g, 15)
        check("one of two kernels dead: the other is used", got == [], got)
        manager.routes(eid, [kernels.dead])
        got = eventually(ask, lambda a: a.status in (502, 503), 5)
        check("only a dead kernel: 502 or 503", alike(got, lambda a: a.status in (502, 503)), getattr(got, "line", got))
        check("told as a problem document", alike(got, lambda a: "error_code" in a.json()), getattr(got, "body", got))
        check.note(f"only a dead kernel: {got.line.split(' ', 1)[-1]}, {got.body.decode()[:160]}")
        manager.routes(eid, [])
        got = eventually(ask, lambda a: a.status == 503 and "worker-not-available" in a.json().get("type", ""), 5)
        check("no routes: worker-not-available", alike(got, lambda a: a.status == 503), getattr(got, "body", got))
        manager.routes(eid, [kernels.b])
        settles("a kernel again", "b")

        other, other_url = manager.endpoint("other")
        made.append(other)
        manager.routes(other, [kernels.a])
        stranger = manager.endpoint_token(other)
        eventually(lambda: ask(token=stranger, at=other_url).status == 200)
        check("its own token opens the other service", ask(token=stranger, at=other_url).status == 200)
        now = int(time.time())
        refused = [
            ("no token", ask(token=None), "E20006"),
            ("another scheme", ask(scheme="Basic"), "E20007"),
            ("no JWT", ask(token="x.y.z"), "E20008"),
            ("another secret", ask(token=token({"id": circuit["id"]}, "wrong")), "E20008"),
            ("an expired token", ask(token=token({"id": circuit["id"], "exp": now - 5})), "E20008"),
            ("the other service's token", ask(token=stranger), "E20009"),
        ]
        for what, answer, code in refused:
            body = answer.body.decode(errors="replace")
            check(f"{what}: 401 {code}", answer.status == 401 and code in body, (answer.line, body[:200]))
        check("a token that expires later", ask(token=token({"id": circuit["id"], "exp": now + 60})).status == 200)
        check("scheme BackendAI", ask(scheme="BackendAI").status == 200)
        opened, open_url = manager.endpoint("open", public=True)
        made.append(opened)
        manager.routes(opened, [kernels.a])
        got = eventually(lambda: ask(token=None, at=open_url).status, lambda s: s == 200, 5)
        check("open to the public: no token", got == 200, got)
        manager.rm_endpoint(opened)
        made.remove(opened)
        got = eventually(lambda: ask(token=None, at=open_url).status, lambda s: s == 400, 5)
        check("removed: 400", got == 400, got)
    finally:
        for eid in made:
            manager.rm_endpoint(eid)
        worker.stop()
        kernels.stop()
        tidy()


@scenario("marks")
def marks(check):
    worker, kernels = Worker("port"), Kernels()
    try:
        worker.start()
        redis = drive.Redis(drive.env("REDIS"))
        redis("SELECT", 2)
        opened = manager.open_app(kernels.a)
        circuit, session = f"circuit.{opened['circuit_id']}", f"session.{opened['session_id']}"
        check("no request yet", redis("GET", f"{circuit}.requests") is None)
        page(opened)
        eventually(lambda: redis("GET", f"{circuit}.requests"), seconds=4)
        for key, limit in ((f"{circuit}.last_access", 172800), (f"{session}.last_access", 172800), (f"{circuit}.requests", 3600)):
            value, left = redis("GET", key), redis("TTL", key)
            check(f"{key.split('.')[0]}…{key.split('.')[-1]}: lives {limit} s", limit - 30 < left <= limit, (value, left))
        age = time.time() - float(redis("GET", f"{circuit}.last_access") or 0)
        check("last_access is now", -1 < age < 5, age)
        requests = redis("GET", f"{circuit}.requests")
        check("one request", requests == b"1", requests)
        for _ in range(9):
            page(opened)
        got = eventually(lambda: redis("GET", f"{circuit}.requests"), lambda r: r == b"10", 4)
        check("ten requests", got == b"10", got)
        told = manager.call("GET", f"/api/circuit/{opened['circuit_id']}/statistics")
        check("the Coordinator's statistics agree", int(told.get("requests", -1)) == 10, told)
        ws = drive.WebSocket(origin_of(opened) + "/ws", {"Cookie": opened["cookie"]})
        got = eventually(lambda: redis("GET", f"{circuit}.requests"), lambda r: r == b"11", 4)
        check("a WebSocket is one request", got == b"11", got)
        seen = set()
        for _ in range(12):
            time.sleep(0.5)
            seen.add((redis("GET", f"{circuit}.last_access"), redis("GET", f"{session}.last_access")))
        check("marks move while the WebSocket is idle", len(seen) >= 3, seen)
        check("and the WebSocket stays one request", redis("GET", f"{circuit}.requests") == b"11")
        ws.send("still")
        check("it is alive", ws.recv() == (1, "still"))
        ws.close()
        time.sleep(2.5)
        last = redis("GET", f"{circuit}.last_access")
        time.sleep(3)
        check("marks rest when all is closed", redis("GET", f"{circuit}.last_access") == last)

        redis("SELECT", 0)
        entries = []
        for key in redis("KEYS", "service_discovery.appproxy-worker.*"):
            pairs = redis("HGETALL", key)
            entry = {k.decode(): json.loads(v) for k, v in zip(pairs[::2], pairs[1::2])}
            entries.append((key.decode(), entry, redis("TTL", key)))
        mine = [e for e in entries if e[1]["display_name"].endswith(worker.name)]
        if check("one entry in service discovery", len(mine) == 1, entries):
            key, entry, left = mine[0]
            check("it lives three minutes at most", 100 < left <= 180, left)
            check("its key carries its id", key.endswith(entry["id"]), key)
            check("group", entry["service_group"] == "appproxy-worker", entry)
            end_point = entry["endpoint"]
            check("address", (end_point["address"], end_point["port"]) == ("127.0.0.1", worker.api), end_point)
            scraped = drive.http("GET", f"http://{end_point['prometheus_address']}/metrics")
            check("metrics are at that address", scraped.status == 200 and b"appproxy_" in scraped.body, scraped.line)
    finally:
        worker.stop()
        kernels.stop()
        tidy()


@scenario("tcp")
def tcp(check):
    kernels, worker = Kernels(), Worker("tcp")

    def knock(port, data=b""):
        """What somebody gets who connects, and says `data` or nothing."""
        with socket.create_connection(("127.0.0.1", port), 3) as s:
            s.sendall(data)
            try:
                return s.recv(1000)
            except ConnectionError:
                return b""
            except socket.timeout:
                return "nothing for 3 s"

    try:
        worker.start()
        redis = drive.Redis(drive.env("REDIS"))
        redis("SELECT", 2)
        opened = manager.open_app(kernels.tcp, "tcp", "sshd", legacy=True)
        circuit = worker.listed()[opened["circuit_id"]]
        port, key = circuit["port"], f"circuit.{circuit['id']}"
        check("bytes come back", knock(port, b"SSH-2.0-probe") == b"SSH-2.0-probe")
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(b"last words")
            s.shutdown(socket.SHUT_WR)
            got = b""
            while data := s.recv(100):
                got += data
            check("a half-close reaches the kernel, and its end the client", got == b"last words", got)
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            got = eventually(lambda: redis("GET", f"{key}.requests"), lambda r: r == b"3", 4)
            check("each connection is one request", got == b"3", got)
            seen = set()
            for _ in range(10):
                time.sleep(0.5)
                seen.add(redis("GET", f"{key}.last_access"))
            check("marks move while the connection is idle", len(seen) >= 3, seen)
            manager.rm_circuit(circuit["id"])
            eventually(lambda: circuit["id"] not in worker.live())
        for what, slot in (("removed circuit", port), ("slot that never had one", worker.api + 18)):
            for data in (b"", b"SSH-2.0-probe\r\n"):
                got = knock(slot, data)
                check(
                    f"{what}: closed at once, {'with' if data else 'without'} a word from the client",
                    got == b"",
                    got,
                )
    finally:
        worker.stop()
        kernels.stop()
        tidy()


@scenario("replacement")
def replacement(check):
    """The Python worker, causeway with its file in its place, and back."""
    name, kernels, mine = "conf-swap", Kernels(), None
    file = os.path.join(os.environ["REAL_HOME"], "conf", f"worker-{name}.toml")
    log = os.path.join(os.environ["REAL_HOME"], "run", f"{name}.log")

    def row():
        return next(w for w in manager.workers() if w["authority"] == name)

    def listed():
        return sorted(c["id"] for c in manager.call("GET", f"/api/worker/{row()['id']}/circuits")["circuits"])

    try:
        kit("python-worker.sh", "start", "port", name)
        opened = manager.open_app(kernels.a)
        eid, url = manager.endpoint("swap")
        manager.routes(eid, [kernels.b])
        auth = {"Authorization": f"Bearer {manager.endpoint_token(eid)}"}

        def model():
            return drive.http("GET", url.rstrip("/") + "/api/status", auth).json().get("backend")

        got = eventually(model, lambda b: b == "b")
        check("Python: both circuits answer", opens(opened) and got == "b", got)
        before = listed()
        check("two circuits", len(before) == 2, before)

        kit("python-worker.sh", "stop", name)
        with open(file, "a") as out:
            out.write(own_table(base(23)))
        gap = time.monotonic()
        mine = launch([OPTIONS.binary, "-f", file], log)
        got = eventually(lambda: opens(opened), seconds=15)
        check(f"causeway: the circuit opens with the same cookie at the same URL ({time.monotonic() - gap:.1f} s after the start)", got is True, got)
        got = eventually(model, lambda b: b == "b")
        check("causeway: the model service answers to the same token", got == "b", got)
        check("causeway: same circuits at the Coordinator", listed() == before, listed())
        check("causeway: one node", row()["nodes"] == 1, row())
        new = manager.open_app(kernels.a, app="new")
        check("causeway: a new launch works", opens(new))
        before = listed()
        code = end(mine)
        mine = None
        check("causeway: exit code 0", code == 0, code)

        kit("python-worker.sh", "start", "port", name)
        got = eventually(lambda: opens(opened) and opens(new), seconds=10)
        check("Python again: all open with the same cookies", got is True, got)
        got = eventually(model, lambda b: b == "b")
        check("Python again: the model service answers", got == "b", got)
        check("Python again: same circuits at the Coordinator", listed() == before, listed())
        manager.rm_endpoint(eid)
    finally:
        if mine:
            end(mine)
        kit("python-worker.sh", "stop", name)
        kernels.stop()
        tidy()


@scenario("commands")
def commands(check):
    def run(file, *words):
        done = subprocess.run(
            [OPTIONS.binary, *words, "-f", file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.returncode, done.stdout[-600:]

    def ends(what, got, code):
        check(f"{what}: exit {code}", got[0] == code, got)

    worker = Worker("port", api_secret="not-the-secret")
    ends("check-coordinator, wrong secret", run(worker.file, "check-coordinator"), 1)
    ends("health check, nobody there", run(worker.file, "health", "check"), 1)
    worker = Worker("port", redis=base(97))
    ends("check-coordinator, no Redis", run(worker.file, "check-coordinator"), 1)
    ends("dependencies verify, no Redis", run(worker.file, "dependencies", "verify"), 1)
    worker = Worker("port")
    before = worker.row()
    ends("check-coordinator", run(worker.file, "check-coordinator"), 0)
    check("it registers nothing", (worker.row() or {}).get("nodes") == (before or {}).get("nodes"))
    ends("dependencies verify", run(worker.file, "dependencies", "verify"), 0)
    ends("validate", run(worker.file, "validate"), 0)
    try:
        worker.start()
        ends("health check", run(worker.file, "health", "check"), 0)
        ends("dependencies verify beside the worker", run(worker.file, "dependencies", "verify"), 0)
    finally:
        worker.stop()
        tidy()


@scenario("client-addresses")
def client_addresses(check):
    if v25():
        raise Skip("25.x workers do not enforce allowed_client_ips")
    kernels, worker = Kernels(), Worker("port")

    def status(opened, *forwarded):
        headers = {"X-Forwarded-For": ", ".join(forwarded)} if forwarded else {}
        answer = page(opened, **headers, Accept="application/json")
        if answer.status == 403:
            check("refused as E20011", b"E20011" in answer.body, answer.body)
        return answer.status

    try:
        worker.start()
        near = manager.open_app(kernels.a, app="near", allowed_client_ips="10.0.0.0/8, 127.0.0.1")
        far = manager.open_app(kernels.a, app="far", allowed_client_ips="192.0.2.0/24")
        check("port: an allowed address", status(near) == 200)
        check("port: another address", status(far) == 403)
        check("port: X-Forwarded-For is not believed", status(far, "192.0.2.7") == 403)
        worker.stop()
        tidy()
        worker = Worker("wildcard", proxy_worker='trusted_proxies = ["127.0.0.1", "10.9.0.0/16"]').start()
        far = manager.open_app(kernels.a, app="far", allowed_client_ips="192.0.2.0/24")
        anyone = manager.open_app(kernels.a, app="anyone")
        table = [
            ("one hop", far, ["192.0.2.7"], 200),
            ("one hop, another client", far, ["198.51.100.7"], 403),
            ("two hops", far, ["192.0.2.7", "10.9.0.1"], 200),
            ("two hops, another client", far, ["198.51.100.7", "10.9.0.1"], 403),
            ("a hop that is not trusted", far, ["192.0.2.7", "203.0.113.5"], 403),
            ("what the client itself claims", far, ["192.0.2.7", "198.51.100.7", "10.9.0.1"], 403),
            ("no header: the peer", far, [], 403),
            ("unrestricted, no header", anyone, [], 200),
            ("unrestricted, two hops", anyone, ["198.51.100.7", "10.9.0.1"], 200),
        ]
        for what, opened, forwarded, want in table:
            got = status(opened, *forwarded)
            check(f"wildcard, trusted proxies: {what}: {want}", got == want, got)
    finally:
        worker.stop()
        kernels.stop()
        tidy()


# HTTP/2 without a library: our own side of HPACK is indexed or literal only, and of the other side
# only the status (one byte for 200) and the end of the stream matter.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def frames(reader):
    while len(head := reader.read(9)) == 9:
        payload = reader.read(int.from_bytes(head[:3], "big"))
        yield head[3], head[4], int.from_bytes(head[5:9], "big"), payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class H2Kernel:
    """Speaks HTTP/2 with prior knowledge and nothing else; answers with a body and a trailer, as gRPC does."""

    def __init__(self, port):
        self.bodies = []
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        with s, s.makefile("rb") as reader:
            if reader.read(len(PREFACE)) != PREFACE:
                return
            s.sendall(frame(SETTINGS))
            try:
                for kind, flags, stream, payload in frames(reader):
                    if kind == SETTINGS and not flags & ACK:
                        s.sendall(frame(SETTINGS, ACK))
                    elif kind == PING and not flags & ACK:
                        s.sendall(frame(PING, ACK, 0, payload))
                    elif kind == DATA:
                        self.bodies.append(payload)
                    if kind in (DATA, HEADERS) and flags & END_STREAM:
                        s.sendall(frame(HEADERS, END_HEADERS, stream, b"\x88" + literal(b"kernel", b"h2c")))
                        s.sendall(frame(DATA, 0, stream, b"from an h2c kernel"))
                        s.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, literal(b"grpc-status", b"0")))
            except OSError:
                pass

    def stop(self):
        self.listener.close()


def h2_post(host, port, body):
    """One request with prior knowledge: whether the status was 200, the body, whether trailers ended it."""
    with socket.create_connection(("127.0.0.1", port), 10) as s, s.makefile("rb") as reader:
        head = b"\x83\x86\x84" + b"\x01" + bytes([len(host)]) + host.encode() + literal(b"te", b"trailers")
        s.sendall(PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, head) + frame(DATA, END_STREAM, 1, body))
        ok, got = None, b""
        for kind, flags, stream, payload in frames(reader):
            if kind == SETTINGS and not flags & ACK:
                s.sendall(frame(SETTINGS, ACK))
            if kind == GOAWAY or stream != 1:
                continue
            if kind == HEADERS and ok is None:
                # A change of the table's size may come first.
                ok = payload.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88"
            elif kind == DATA:
                got += payload
            if flags & END_STREAM and kind in (DATA, HEADERS):
                return ok, got, kind == HEADERS
            if kind == 3:
                return False, f"reset {int.from_bytes(payload, 'big')}".encode(), False
        return ok, got, False


@scenario("h2")
def h2(check):
    kernel, worker = H2Kernel(base(95)), Worker("h2")
    try:
        worker.start()
        session = manager.session()
        conf = manager.conf(address(base(95)), session)
        query = {"app": "grpc", "protocol": "h2", "open_to_public": "true", "token": conf, "session_id": session["id"]}
        answer = drive.http(
            "GET", f"{manager.base}/v2/proxy/auth?{urllib.parse.urlencode(query)}", {"Accept": "application/json"}
        )
        if answer.status != 200:
            raise Skip(f"the Coordinator creates no h2 circuit: {answer.line} {answer.body[:120]!r}")
        circuit = next(iter(worker.listed().values()))
        check("the circuit is h2", circuit["protocol"] == "h2", circuit["protocol"])
        setup = drive.http("GET", answer.json()["redirect_url"], {"Accept": "application/json"})
        check("its setup link: 400 E20002", setup.status == 400 and b"E20002" in setup.body, (setup.line, setup.body))
        got = h2_post(address(circuit["port"]), circuit["port"], b"to an h2c kernel")
        check("HTTP/2 end to end, with trailers", got == (True, b"from an h2c kernel", True), got)
        check("the body arrived", kernel.bodies == [b"to an h2c kernel"], kernel.bodies)
    finally:
        worker.stop()
        kernel.stop()
        tidy()


@scenario("jupyter", extra=True)
def jupyter(check):
    """JupyterLab, launched as the WebUI launches it, in a browser: for jupyter-coordinator.sh, which sets the environment."""
    home = os.environ["REAL_HOME"]
    notebooks, log = os.path.join(home, "run", "notebooks"), os.path.join(home, "run", "conf-jupyter.log")
    os.makedirs(notebooks, exist_ok=True)
    lab = launch(
        [os.environ["JUPYTER"], "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={base(96)}"]
        + ["--ServerApp.port_retries=0", "--IdentityProvider.token=check", "--ServerApp.allow_remote_access=True"]
        + [f"--ServerApp.root_dir={notebooks}"],
        log,
    )
    worker = None
    browser_test = os.path.join(OPTIONS.kit, "..", "conform", "real-apps", "jupyter.js")
    way_in = os.path.join(os.path.dirname(os.path.abspath(__file__)), "way-in.js")
    try:
        up = eventually(lambda: drive.http("GET", f"http://{address(base(96))}/api").status, lambda s: s == 200, 60)
        if up != 200:
            raise RuntimeError(f"JupyterLab did not start: {tail(log)}")
        for mode in ("port", "wildcard"):
            worker = Worker(mode).start()
            opened = manager.open_app(address(base(96)), app="jupyterlab", reuse=True, redirect="/lab?token=check")
            origin = origin_of(opened) + "/"
            refused = drive.http("GET", origin + "lab?token=check", {"Accept": "text/html"})
            check(f"{mode}: closed without the cookie", refused.status == 401, refused.line)
            done = subprocess.run(
                ["node", "-r", way_in, browser_test, "--url", origin, "--token", "check"]
                + ["--chrome", os.environ.get("CHROME", "/usr/bin/chromium")],
                env={**os.environ, "WAY_IN": opened["auth_url"], "WAY_IN_TO": origin},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            for line in done.stdout.splitlines():
                if line.startswith(("PASS", "FAIL")):
                    check(f"{mode}: {line[5:]}", line.startswith("PASS"), line)
            check(f"{mode}: the browser test is content", done.returncode == 0, done.stdout[-300:])
            worker.stop()
            tidy()
    finally:
        if worker:
            worker.stop()
        end(lab)
        tidy()


# ------------------------------------------------------------------------------------------ the run


def main():
    global drive, manager
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--kit")
    parser.add_argument("--binary")
    parser.add_argument("--only")
    parser.add_argument("--verbose", action="store_true")
    parser.parse_args(namespace=OPTIONS)
    if OPTIONS.list:
        print(*SCENARIOS, sep="\n")
        return
    sys.path.insert(0, OPTIONS.kit)
    sys.dont_write_bytecode = True
    import drive as module

    drive, manager = module, module.Manager()
    chosen = OPTIONS.only.split(",") if OPTIONS.only else [name for name in SCENARIOS if name not in EXTRA]
    unknown = [name for name in chosen if name not in SCENARIOS]
    if unknown:
        sys.exit(f"no scenario {', '.join(unknown)}")
    # SIGTERM ends this as Ctrl-C does, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed, skipped, begun = 0, 0, time.monotonic()
    try:
        tidy()
        for name in chosen:
            check, started, word, why = Checks(), time.monotonic(), "ok", ""
            try:
                SCENARIOS[name](check)
            except Skip as reason:
                word, why = "skip", str(reason)
                skipped += 1
            except Exception as error:
                trace = error.__traceback__
                while trace.tb_next and trace.tb_next.tb_frame.f_code.co_filename == __file__:
                    trace = trace.tb_next
                check(f"line {trace.tb_lineno}", False, error)
            if check.failed:
                word = "FAIL"
                failed += 1
            counts = why or f"{check.passed} checks" + (f", {check.failed} failed" if check.failed else "")
            print(f"{word:4} {name:20} {time.monotonic() - started:6.1f} s  {counts}", flush=True)
            for line in check.lines:
                print(line, flush=True)
    finally:
        for process in list(STARTED):
            end(process)
    told = f"{len(chosen) - failed - skipped} passed, {failed} failed, {skipped} skipped"
    print(f"{told}, {time.monotonic() - begun:.0f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
