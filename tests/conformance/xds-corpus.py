#!/usr/bin/env python3
"""Compares what `causeway validate` says about a corpus of xDS snapshots with what Envoy said.

    xds-corpus.py CAUSEWAY CORPUS [--reasons N] [--list CLASS] [--only TEXT]

A corpus is a folder of cases. Each holds `snapshot.json` (lists of resources by type) and
`envoy.json` (Envoy's ACK or NACK for each type, by protocol mode). A case is of class `pos` when
Envoy takes all of it, `neg` otherwise; those in the folder `mission` are counted apart.

A type that Envoy did not ask for, or only for some names, is judged by what it asked for. `neg`
agrees when every type that Envoy refuses is refused here, `pos` when nothing is refused, `mission`
when the refused types are the same.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
from pathlib import Path

# Short names of `causeway validate` by Envoy's.
TYPES = {
    "CDS": "cluster",
    "EDS": "endpoints",
    "LDS": "listener",
    "RDS": "route",
    "SDS": "secret",
    "VHDS": "virtual_host",
    "SRDS": "envoy.config.route.v3.ScopedRouteConfiguration",
    "RTDS": "envoy.service.runtime.v3.Runtime",
    "ECDS": "envoy.config.core.v3.TypedExtensionConfig",
}


def run(binary, cases):
    """What the program says about each case."""
    said = {}
    for start in range(0, len(cases), 50):
        some = [str(case / "snapshot.json") for case in cases[start : start + 50]]
        done = subprocess.run(
            [binary, "validate", "--format", "json", *some], capture_output=True, text=True
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if len(lines) != len(some):
            sys.exit(f"{len(lines)} answers for {len(some)} cases: {done.stderr}")
        for line in lines:
            said[str(Path(line["target"]).parent)] = line["resources"]
    return said


def judge(envoy, resources):
    """Types that Envoy refuses, types refused here, and the reasons."""
    theirs, ours, reasons = set(), set(), []
    for kind, verdict in envoy["delta"]["types"].items():
        if verdict["result"] == "NONE":
            continue
        if verdict["result"] == "NACK":
            theirs.add(kind)
        asked = verdict.get("names")
        for resource in resources:
            if resource["type"] != TYPES.get(kind) or resource["state"] == "ok":
                continue
            if asked and resource["name"] not in asked:
                continue
            ours.add(kind)
            reasons.append((kind, resource))
    return theirs, ours, reasons


def shape(kind, resource):
    """A refusal without what is particular to one resource."""
    path = re.sub(r"\[[^\]]*\]", "[]", resource["path"])
    reason = re.sub(r"\d{2,}", "N", resource["reason"])
    return f"{kind} {path}: {reason}"[:230]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("causeway")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--reasons", type=int, default=30)
    parser.add_argument("--list", choices=["pos", "neg", "mission"])
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    cases = sorted(path.parent for path in args.corpus.rglob("envoy.json"))
    cases = [case for case in cases if args.only in str(case)]
    said = run(args.causeway, cases)

    total, agree = collections.Counter(), collections.Counter()
    histogram, alone = collections.Counter(), collections.Counter()
    for case in cases:
        envoy = json.loads((case / "envoy.json").read_text())
        theirs, ours, reasons = judge(envoy, said[str(case)])
        name = case.relative_to(args.corpus)
        if "mission" in case.parts:
            group, fine = "mission", theirs == ours
        elif theirs:
            group, fine = "neg", theirs <= ours
        else:
            group, fine = "pos", not ours
        total[group] += 1
        agree[group] += fine
        if group == "pos":
            shapes = {shape(*reason) for reason in reasons}
            histogram.update(shapes)
            if len(shapes) == 1:
                alone.update(shapes)
        if args.list == group and not fine:
            print(f"{name}: Envoy {sorted(theirs)}, here {sorted(ours)}")
            for kind, resource in reasons[:6]:
                print(f"    {shape(kind, resource)}")

    for group in sorted(total):
        share = 100 * agree[group] / total[group]
        print(f"{group}: {agree[group]} of {total[group]} agree ({share:.1f} %)")
    print("reasons in pos cases (cases with it, cases with nothing else):")
    for text, count in histogram.most_common(args.reasons):
        print(f"{count:5} {alone[text]:4}  {text}")


if __name__ == "__main__":
    main()
