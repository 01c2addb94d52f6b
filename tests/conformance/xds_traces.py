#!/usr/bin/env python3
"""Compares traces of the xDS kit's scenarios with those of a reference proxy (Envoy).

    xds_traces.py --reference DIR --mine DIR [--mode sotw,delta] [--only NAME,...]

What must be the same: the status of every probe and whether the second port is open; the order in which
types are first asked for; for every response whether it was accepted; what is subscribed to after a
step; what a reconnecting client says it has. When it happens, how often, and in which order unrelated
types are answered may differ, and so may the text of a refusal.

What must hold for a proxy beyond that (it is not asked of Envoy): it does not end; a refusal has a code
and a text that names the resource, of at most 4 KiB; an accepted version is the one that was sent, a
refused response leaves the one before; the node is on the first message of a stream only.

Where Envoy 1.40 is not to be followed:
  ttl (both modes)   it crashes in SotW, and ignores the TTL in delta; the route in use is to be kept, as
                     one that was removed, and to be replaced when it is sent again
  nack, delta        of the good cluster that came with a bad one it loses the good one
"""

import argparse
import json
import os
import re
import sys

NAMED = ("EDS", "RDS", "SDS")
TEXT_LIMIT = 4096
SERVED = {"/a": 200, "/b": 204, "/": 204}
# (scenario, mode, step): probes that are right although the reference has others.
BETTER = {("nack", "delta", "route valid again"): {"/b": 200}}


class Step:
    def __init__(self, raw):
        self.name = raw["step"]
        self.probe, self.second_port, self.exit = raw["probe"], raw["second_port"], raw["proxy_exit"]
        # (type, names, removed): verdict; in the order of arrival.
        self.responses = {}
        # First requests of their type on a stream that began in this step, by stream and type.
        self.first = []
        # What is subscribed to at the end.
        self.names = {}


class Trace:
    """A trace with what is asked and answered put together."""

    def __init__(self, raw):
        self.name, self.mode = raw["scenario"], raw["mode"]
        self.faults = [f"the scenario ended with {raw['error']}"] if raw.get("error") else []
        self.agent = None
        self.life = 0
        self.names = {}
        self.accepted = {}
        self.sent = {}
        self.steps = []
        verdicts = self._verdicts(raw["steps"])
        self.life = 0
        for step in raw["steps"]:
            self.steps.append(self._step(step, verdicts))

    def _verdicts(self, steps):
        """By stream and nonce. An answer may come steps later."""
        found, life = {}, 0
        for event in (e for s in steps for e in s["events"]):
            if event["event"] == "stream-start":
                life += 1
            elif event["event"] == "request":
                nonce = event["request"].get("responseNonce")
                if nonce:
                    key = (life, event["type"], nonce)
                    if "errorDetail" in event["request"]:
                        found[key] = "NACK"
                    else:
                        found.setdefault(key, "ACK")
        return found

    def _step(self, raw, verdicts):
        step = Step(raw)
        for event in raw["events"]:
            if event["event"] == "stream-start":
                self.life += 1
                self.names = {}
                self.first_message = True
            elif event["event"] == "response":
                verdict = verdicts.get((self.life, event["type"], event["nonce"]), "no answer")
                key = (event["type"], tuple(sorted(event["names"])), tuple(sorted(event["removed"])))
                step.responses.pop(key, None)
                step.responses[key] = verdict
                self.sent[(self.life, event["type"], event["nonce"])] = event
            elif event["event"] == "request":
                self._request(step, event)
        step.names = {kind: sorted(names - {"*"}) for kind, names in self.names.items()}
        return step

    def _request(self, step, event):
        kind, request = event["type"], event["request"]
        if "node" in event:
            self.agent = event["node"].get("userAgentName", "")
        if ("node" in event) != self.first_message:
            self.faults.append(f"{step.name}: the node is " + ("repeated" if "node" in event else "missing"))
        self.first_message = False
        if self.mode == "sotw":
            self.names[kind] = set(request.get("resourceNames", []))
        else:
            held = self.names.setdefault(kind, set())
            held |= set(request.get("resourceNamesSubscribe", []))
            held -= set(request.get("resourceNamesUnsubscribe", []))
        if event["kind"] == "INIT":
            has = sorted(request.get("initialResourceVersions", {})) or bool(request.get("versionInfo"))
            step.first.append((self.life, kind, sorted(self.names[kind] - {"*"}), has))
            if request.get("responseNonce"):
                self.faults.append(f"{step.name}: the first request for {kind} carries a nonce")
        self._answer(step, event)

    def _answer(self, step, event):
        """What an answer says beside yes and no."""
        kind, request = event["type"], event["request"]
        answered = self.sent.get((self.life, kind, request.get("responseNonce")))
        error = request.get("errorDetail")
        if error is not None:
            text = error.get("message", "")
            names = [n for n in (answered or {}).get("names", []) if not n.startswith("<")]
            if error.get("code") != 13 or not text or len(text.encode()) > TEXT_LIMIT:
                self.faults.append(f"{step.name}: the refusal has code {error.get('code')} and {len(text)} characters")
            if names and self.agent != "envoy" and not any(re.search(rf"\b{re.escape(n)}\b", text) for n in names):
                self.faults.append(f"{step.name}: the refusal names none of {names}: {text[:200]}")
            if self.mode == "sotw" and request.get("versionInfo", "") != self.accepted.get(kind, ""):
                self.faults.append(f"{step.name}: the refusal of {kind} claims version {request.get('versionInfo')!r}")
        elif answered is not None and self.mode == "sotw" and event["kind"] == "ACK":
            if request.get("versionInfo") != answered["version"]:
                self.faults.append(f"{step.name}: {answered['version']} of {kind} accepted as {request.get('versionInfo')!r}")
            self.accepted[kind] = answered["version"]


def differences(mine, reference):
    """What of a trace is not as it should be, as lines."""
    same = mine.agent == "envoy"
    found = list(mine.faults)
    if [s.name for s in mine.steps] != [s.name for s in reference.steps]:
        return found + [f"other steps: {[s.name for s in mine.steps]}"]
    if mine.name == "ttl" and not same:
        return found + after_ttl(mine)
    for ours, theirs in zip(mine.steps, reference.steps):
        def differs(what, a, b):
            found.append(f"{ours.name}: {what}: {a} and not {b}")

        better = {} if same else BETTER.get((mine.name, mine.mode, ours.name), {})
        for path, status in {**theirs.probe, **better}.items():
            if ours.probe.get(path) != status:
                differs(f"GET {path}", ours.probe.get(path), status)
        if ours.second_port != theirs.second_port:
            differs("second port open", ours.second_port, theirs.second_port)
        if ours.exit != theirs.exit:
            differs("exit", ours.exit, theirs.exit)
        responses(ours, theirs, differs)
        first_requests(ours, theirs, differs)
        for kind in NAMED:
            if ours.names.get(kind, []) != theirs.names.get(kind, []):
                differs(f"{kind} subscribed to", ours.names.get(kind, []), theirs.names.get(kind, []))
    return found


def responses(ours, theirs, differs):
    """Each response is answered as in the reference. Further ones must be accepted, since the server
    has nothing else to say than what it says to everybody."""
    for key, verdict in ours.responses.items():
        expected = theirs.responses.get(key, "ACK")
        if verdict != expected:
            differs(f"{key[0]} {list(key[1])} {list(key[2])}", verdict, expected)
    last = lambda step, kind: ([k for k in step.responses if k[0] == kind] or [None])[-1]
    for kind in sorted({key[0] for key in theirs.responses}):
        if last(ours, kind) != last(theirs, kind):
            differs(f"the last response for {kind}", last(ours, kind), last(theirs, kind))


def first_requests(ours, theirs, differs):
    """In their order on the first stream; later ones may be sent in any, since all is known by then."""
    a, b = ours.first, theirs.first
    if [first for first in b if first[0] > 1]:
        a, b = sorted(a), sorted(b)
    if a != b:
        differs("first requests (stream, type, names, what is had)", a, b)


def after_ttl(mine):
    found = []
    for step in mine.steps:
        if step.probe != SERVED:
            found.append(f"{step.name}: {step.probe} and not {SERVED}")
        if step.exit is not None:
            found.append(f"{step.name}: the proxy ended with {step.exit}")
        found += [f"{step.name}: {key}: {verdict}" for key, verdict in step.responses.items() if verdict != "ACK"]
    return found


def load(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return Trace(json.load(f))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--mine", required=True)
    parser.add_argument("--mode", default="sotw,delta")
    parser.add_argument("--only")
    arguments = parser.parse_args()
    passed = failed = 0
    for mode in arguments.mode.split(","):
        for name in sorted(os.listdir(arguments.reference)):
            scenario = name.split(".")[0]
            if not name.endswith(f".{mode}.json") or (arguments.only and scenario not in arguments.only.split(",")):
                continue
            mine = load(arguments.mine, name)
            found = differences(mine, load(arguments.reference, name)) if mine else ["there is no trace"]
            passed, failed = passed + (not found), failed + bool(found)
            print(f"{'FAIL' if found else 'PASS'} {scenario} {mode}")
            for line in found:
                print(f"     {line}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
