#!/usr/bin/env python3
"""Runs the external xDS kit against a proxy and holds the figures to their floors.

    xds_kit.py --kits DIR --python PYTHON --proxy 'PROXY -c {bootstrap}' [--only scenario,control,replay]
               [--mode sotw,delta] [--limit N] [--floors FILE] [--out DIR]

Sections, each in both modes:
  scenario   eight protocol scenarios, the traces compared with Envoy's (xds_traces.py)
  control    what happens to traffic while the management server works, fails and errs
  replay     configurations of real management servers: accepted and refused as Envoy does;
             --limit takes an even sample of so many, which has a floor of its own
Exits with 1 if a section is below its floor or did not finish. A better figure is printed, so that the
file can be raised by hand.
"""

import argparse
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LIMITS = {"scenario": 300, "control": 150, "replay": 3000}


def free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def base_port():
    """The first of ten free ports in a row, below those that the system gives to connections."""
    bases = list(range(12000, 32000, 10))
    random.shuffle(bases)
    return next(base for base in bases if all(free(base + i) for i in range(10)))


def commands(section, mode, a):
    """One after the other; the last prints `N passed, N failed`."""
    kit = os.path.join(a.kits, "xds")
    common = ["--proxy", a.proxy, "--mode", mode]
    if section == "scenario":
        traces = os.path.join(a.out, "traces")
        yield [a.python, os.path.join(kit, "scenario.py"), *common, "--out", traces, "--base-port", str(base_port())]
        yield [a.python, os.path.join(HERE, "xds_traces.py"), "--mine", traces, "--mode", mode,
               "--reference", os.path.join(kit, "traces")]
    elif section == "control":
        yield [a.python, os.path.join(a.kits, "conform", "xds", "control_plane_check.py"), *common]
    else:
        # A network of its own: the cases bind many ports on many addresses.
        yield ["unshare", "-n", a.python, os.path.join(kit, "replay.py"), *common, "--corpus", a.corpus,
               "--out", os.path.join(a.out, f"replay-{mode}.jsonl"), "--limit", str(a.limit)]


def run(section, mode, a):
    """What passed, or None if it did not finish."""
    log = os.path.join(a.out, f"{section}-{mode}.log")
    until = time.monotonic() + LIMITS[section]
    with open(log, "w") as out:
        for command in commands(section, mode, a):
            try:
                subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               cwd=a.out, timeout=max(1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                out.write(f"\nstopped after {LIMITS[section]} s\n")
    with open(log, errors="replace") as f:
        text = f.read()
    figures = re.findall(r"(\d+) passed, (\d+) failed", text)
    if not figures:
        return None, text[-1500:]
    return tuple(map(int, figures[-1])), text


def classes(mode, a):
    """Cases that Envoy takes whole, and those in which it refuses something, apart: taking all unread
    would do well with the first."""
    with open(os.path.join(a.corpus, "INDEX.json")) as f:
        known = {case["case"]: case["class"] for case in json.load(f)}
    count = {"pos": [0, 0], "neg": [0, 0]}
    with open(os.path.join(a.out, f"replay-{mode}.jsonl")) as f:
        for line in f:
            case = json.loads(line)
            passed = count[known.get(case["case"], "pos")]
            passed[0] += case["ok"]
            passed[1] += 1
    return ", ".join(f"{name} {good} of {all_}" for name, (good, all_) in count.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kits", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--only", default="scenario,control,replay")
    parser.add_argument("--mode", default="sotw,delta")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--floors", default=os.path.join(HERE, "xds-floors.json"))
    parser.add_argument("--out")
    a = parser.parse_args()
    a.corpus = os.path.join(a.kits, "..", "corpus", "xds")
    a.out = os.path.abspath(a.out or tempfile.mkdtemp(prefix="causeway-xds-kit."))
    os.makedirs(a.out, exist_ok=True)
    with open(a.floors) as f:
        floors = json.load(f)
    bad = total_passed = total_failed = 0
    for section in a.only.split(","):
        for mode in a.mode.split(","):
            started = time.monotonic()
            figures, text = run(section, mode, a)
            name = f"{section}-{mode}" + (f"/{a.limit}" if section == "replay" and a.limit else "")
            took = f"{time.monotonic() - started:.0f} s"
            if figures is None:
                bad += 1
                print(f"FAIL {name}: it did not finish ({took})\n{text}", flush=True)
                continue
            passed, failed = figures
            total_passed, total_failed = total_passed + passed, total_failed + failed
            floor = floors.get(name, 0)
            more = "; " + classes(mode, a) if section == "replay" else ""
            print(f"{'PASS' if passed >= floor else 'FAIL'} {name}: {passed} passed, {failed} failed, "
                  f"{floor} needed{more} ({took})", flush=True)
            if passed < floor:
                bad += 1
                print("\n".join(line for line in text.splitlines() if not line.startswith("PASS"))[-4000:], flush=True)
            elif passed > floor:
                print(f"     the floor of {name} can be raised from {floor} to {passed}")
    print(f"{total_passed} passed, {total_failed} failed; logs in {a.out}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
