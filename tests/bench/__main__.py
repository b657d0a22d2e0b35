"""The command: ``python -m tests.bench [--quick] [--only CASE] [--proxy NAME] [--publish]``."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from dataclasses import replace
from pathlib import Path

from tests.bench import report
from tests.bench.cases import CASES
from tests.bench.run import Settings, measure

QUICK = Settings(connections=(32,), rounds=1, seconds=1, idle=1000, warmup=False)
# A proxy that forwards needs two descriptors a connection, so that ours takes no more connections than half of them.
RESERVED_FDS = 200


def main() -> None:
    """Measure, print the table, and keep the figures if asked."""
    options = _options()
    settings = QUICK if options.quick else Settings()
    settings = replace(
        settings,
        connections=tuple(options.connections or settings.connections),
        rounds=options.rounds or settings.rounds,
        seconds=options.seconds or settings.seconds,
        proxies=tuple(options.proxy or ()),
        idle=min(options.idle or settings.idle, _room()),
    )
    results = measure(options.only or list(CASES), settings)
    document = report.document(results, settings)
    sys.stdout.write(report.markdown(document) + "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if options.publish:
        report.publish(document)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, for a first impression")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}")
    names = dict.fromkeys(name for case in CASES.values() for name in case.proxies)
    parser.add_argument("--proxy", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--connections", action="append", type=int, help="instead of 1, 32 and 128")
    parser.add_argument("--rounds", type=int, help="turns that each proxy gets")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--idle", type=int, help="idle connections to open")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--publish", action="store_true", help="write them into docs/explanation")
    return parser.parse_args()


def _room() -> int:
    """Raise the limit on open files as far as it goes, and return how many idle connections fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard // 2 - RESERVED_FDS


if __name__ == "__main__":
    main()
