"""``python -m benchmarks.speed [NAME...] [--json]``: our seconds against a plain baseline's, one row per benchmark.

A benchmark is a module ``bench_<name>.py`` in this folder with a function ``run()`` that returns ``name``,
``ours_s``, ``baseline_s``, ``ratio``, ``equal`` and ``sizes``. Further facts of a row are printed below it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

_COLUMNS = {"name", "ours_s", "baseline_s", "ratio", "equal", "sizes"}


def names() -> list[str]:
    """Return the names of all benchmarks in this folder."""
    return sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def hardware() -> dict[str, Any]:
    """Return what the times depend on."""
    return {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen benchmarks; the exit code is 1 if a result differs from its baseline's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"known: {', '.join(names())}; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(unknown)}; known: {', '.join(names())}")
    rows = []
    for name in options.names or names():
        print(f"Running {name} ...", file=sys.stderr)
        rows.append(importlib.import_module(f"benchmarks.speed.bench_{name}").run())
    if options.json:
        print(json.dumps({"hardware": hardware(), "benchmarks": rows}, indent=2))
    else:
        print(f"{'name':<10} {'ours':>10} {'baseline':>10} {'ratio':>8}  equal  sizes")
        for row in rows:
            print(
                f"{row['name']:<10} {row['ours_s']:>9.4f}s {row['baseline_s']:>9.4f}s {row['ratio']:>7.1f}x  "
                f"{'yes' if row['equal'] else 'NO':<5}  {row['sizes']}"
            )
            for name, facts in row.items():
                if name not in _COLUMNS:
                    print(f"  {name}: {json.dumps(facts)}")
        print(f"hardware: {hardware()}")
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
