"""Management servers that the scripts start, lead and kill; each with the bootstrap to reach it."""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

from xds_traffic import free_ports

HERE = os.path.dirname(os.path.abspath(__file__))
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class NotUp(Exception):
    """The management server did not come up, for a reason of its own."""


def write_json(path, value):
    """Whole or not at all: whoever watches the file never sees a half of it."""
    with open(path + ".new", "w") as f:
        json.dump(value, f)
    os.replace(path + ".new", path)
    return path


def address(port):
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def cluster(name, port, **more):
    """The management server, as clusters of a bootstrap."""
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", **more,
            "load_assignment": {"cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {**address(port)}}]}]}}


def ask(url, body=None):
    """None while nobody answers; otherwise the body of the answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=5) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise NotUp(f"{url}: {error.code} {error.read()[:300]!r}") from error
    except OSError:
        return None


class Plane:
    """What they have in common: one process, started from a command line."""

    process = None

    def spawn(self, command, log, **more):
        self.log_path = log
        with open(log, "a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **more)

    def kill(self):
        """Without a farewell, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait_for(self, answers, what, limit):
        until = time.monotonic() + limit
        while not answers():
            if self.process.poll() is not None or time.monotonic() > until:
                with open(self.log_path) as log:
                    raise NotUp(f"{what} did not come up\n{log.read()[-2000:]}")
            time.sleep(0.05)


class Go(Plane):
    """The server of go-control-plane/, over ADS."""

    def __init__(self, binary, cache, mode, folder):
        self.binary, self.cache, self.mode, self.folder = binary, cache, mode, folder
        self.xds, self.control = free_ports(2)
        self.nacks = {}
        # In SotW a snapshot cache sends everything with each snapshot. The others send only what
        # changed, so that a client may wait long for the endpoints of a changed cluster.
        self.resends_endpoints = cache == "snapshot" and mode == "sotw"

    def start(self, state):
        command = [self.binary, "-xds", f"127.0.0.1:{self.xds}", "-control", f"127.0.0.1:{self.control}",
                   "-cache", self.cache]
        self.spawn(command, os.path.join(self.folder, "plane.log"))
        self.wait_for(lambda: ask(self._url("status")), "go-control-plane", 10)
        self.load(state)

    def kill(self):
        self.refusals()
        super().kill()

    def _url(self, path):
        return f"http://127.0.0.1:{self.control}/{path}"

    def load(self, state):
        if ask(self._url("state"), json.dumps(state).encode()) is None:
            raise NotUp("go-control-plane does not answer")

    def status(self):
        answer = ask(self._url("status"))
        return json.loads(answer) if answer else None

    async def change(self, state, _scene):
        """Loads a state and waits until all that is sent for it is answered."""
        before = self._responses(self.status())
        self.load(state)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            status = await asyncio.to_thread(self.status)
            if self._responses(status) > before and status["open"] == 0:
                return True
            await asyncio.sleep(0.005)
        return False

    @staticmethod
    def _responses(status):
        return sum(kind["responses"] for kind in status["types"].values())

    async def followed(self, limit):
        until = time.monotonic() + limit
        while time.monotonic() < until and not (await asyncio.to_thread(self.status))["streams"]:
            await asyncio.sleep(0.05)

    def refusals(self):
        """By type, of all its lives."""
        if self.process is not None:
            status = self.status()
            for kind, counted in (status or {"types": {}})["types"].items():
                known = self.nacks.setdefault(kind, [])
                known.extend(t for t in counted["texts"] if t not in known)
        return self.nacks

    def bootstrap(self, admin):
        ads = {"ads": {}, "resource_api_version": "V3"}
        h2 = {HTTP_OPTIONS: {"@type": "type.googleapis.com/" + HTTP_OPTIONS,
                             "explicit_http_config": {"http2_protocol_options": {}}}}
        return {
            "node": {"id": "proxy-1", "cluster": "test"},
            "admin": address(admin),
            "dynamic_resources": {
                "ads_config": {"api_type": {"sotw": "GRPC", "delta": "DELTA_GRPC"}[self.mode],
                               "transport_api_version": "V3", "set_node_on_first_message_only": True,
                               "grpc_services": [{"envoy_grpc": {"cluster_name": "plane"}}]},
                "cds_config": ads, "lds_config": ads},
            "static_resources": {"clusters": [
                cluster("plane", self.xds, typed_extension_protocol_options=h2)]},
        }


class Sovereign(Plane):
    """sovereign from PyPI with the templates of sovereign/, polled with REST-JSON."""

    resends_endpoints = True

    def __init__(self, python, folder):
        self.python, self.folder = python, folder
        (self.port,) = free_ports(1)
        self.state_path = os.path.join(folder, "state.json")
        self.config_path = os.path.join(folder, "sovereign.yaml")
        with open(os.path.join(HERE, "sovereign", "sovereign.yaml")) as f:
            text = f.read()
        text = text.replace("@TEMPLATES@", os.path.join(HERE, "sovereign")).replace("@STATE@", self.state_path)
        with open(self.config_path, "w") as f:
            f.write(text)

    def start(self, state):
        self.load(state)
        environment = {
            **os.environ, "SOVEREIGN_CONFIG": "file://" + self.config_path, "SOVEREIGN_HOST": "127.0.0.1",
            "SOVEREIGN_PORT": str(self.port), "SOVEREIGN_WORKERS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
        # A group of its own: the worker would outlive a killed master for a while.
        self.spawn([self.python, "-m", "sovereign.server"], os.path.join(self.folder, "plane.log"),
                   env=environment, cwd=self.folder, start_new_session=True)
        self.wait_for(lambda: ask(f"http://127.0.0.1:{self.port}/healthcheck"), "sovereign", 30)

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
        super().kill()

    def load(self, state):
        write_json(self.state_path, [state])

    async def change(self, state, scene):
        """It says nothing of what proxies took, so the traffic is asked."""
        self.load(state)
        took, _ = await scene.converges(8)
        return took is not None

    async def followed(self, limit):
        """A poll tells nobody that it is one of many."""

    def refusals(self):
        return {}

    def bootstrap(self, admin):
        rest = {"resource_api_version": "V3", "api_config_source": {
            "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["plane"],
            "refresh_delay": "0.2s", "request_timeout": "2s"}}
        return {
            "node": {"id": "proxy-1", "cluster": "test"},
            "admin": address(admin),
            "dynamic_resources": {"cds_config": rest, "lds_config": rest},
            "static_resources": {"clusters": [cluster("plane", self.port)]},
        }
