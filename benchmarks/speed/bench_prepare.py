"""Amazon 2018 from raw files: our preparation against the published rules in Python loops, in time and in memory.

``python -m benchmarks.speed prepare`` takes 2 million generated review lines (1.3 GB of disk and 5 GB of memory for the
baseline); ``python -m benchmarks.speed.bench_prepare --lines 100000`` fewer, ``--growth`` shows how time and memory of
ours grow with the size, and what that means for the largest category.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.raw_reviews import RawFiles, write_raw_files

NAME = "prepare"
LINES = 2_000_000
GROWTH = (500_000, 1_000_000, 2_000_000, 4_000_000)
#: Reviews of Books, the largest category of 2018, and what its preparation may use.
BOOKS = 51_311_621
MEMORY_LIMIT = 8 << 30

_MB = 10**6


def run(lines: int = LINES) -> dict[str, Any]:
    """Time both ways on the same files, each in a process of its own, and compare what they write byte by byte."""
    with tempfile.TemporaryDirectory(prefix="recbench-prepare-") as name:
        folder = Path(name)
        files = write_raw_files(folder, lines)
        ours = _measure("ours", files, folder / "ours")
        baseline = _measure("published", files, folder / "published")
        equal = _same_files(folder / "ours" / "csv", folder / "published" / "csv")
    return {
        "name": NAME,
        "ours_s": ours["seconds"],
        "baseline_s": baseline["seconds"],
        "ratio": baseline["seconds"] / ours["seconds"],
        "equal": equal,
        "sizes": {
            "lines": lines,
            "rows": ours["rows"],
            "window": ours["window"],
            "ours_cpu_s": round(ours["cpu_seconds"], 2),
            "baseline_cpu_s": round(baseline["cpu_seconds"], 2),
            "ours_mb": round(ours["peak_bytes"] / _MB),
            "baseline_mb": round(baseline["peak_bytes"] / _MB),
            "memory_ratio": round(baseline["peak_bytes"] / ours["peak_bytes"], 1),
        },
    }


def growth(sizes: Sequence[int] = GROWTH) -> dict[str, Any]:
    """Measure ours at several sizes, fit a line, and read off the largest category."""
    points = []
    for lines in sizes:
        with tempfile.TemporaryDirectory(prefix="recbench-prepare-") as name:
            files = write_raw_files(Path(name), lines)
            point = _measure("ours", files, Path(name) / "ours")
        points.append({"lines": lines, **point})
        print(f"{lines:>10,} lines: {point['seconds']:6.1f} s, {point['peak_bytes'] / _MB:6.0f} MB", file=sys.stderr)
    lines, seconds, peak = (np.array([point[key] for point in points]) for key in ("lines", "seconds", "peak_bytes"))
    forecast = {
        key: float(np.polyval(np.polyfit(lines, values, 1), BOOKS))
        for key, values in (("seconds", seconds), ("peak_bytes", peak))
    }
    return {"points": points, "books": {"lines": BOOKS, **forecast, "fits": forecast["peak_bytes"] < MEMORY_LIMIT}}


def _measure(way: str, files: RawFiles, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "benchmarks.speed.bench_prepare"]
    arguments = ["--work", way, str(files.reviews), str(files.meta), str(files.least_items), str(out)]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _work(way: str, reviews: Path, meta: Path, least_items: int, out: Path) -> dict[str, Any]:
    """Do it one way in this process, and write the rows (not timed) as csv files."""
    return {"ours": _ours, "published": _published}[way](reviews, meta, least_items, out)


def _ours(reviews: Path, meta: Path, least_items: int, out: Path) -> dict[str, Any]:
    from recbench.contracts.protocol import Protocol
    from recbench.data.export import export_dataset
    from recbench.data.sources.amazon import CATEGORIES, amazon_2018
    from recbench.data.split import make_split

    start = _clocks()
    dataset = amazon_2018(CATEGORIES["cds"], reviews, meta, scratch=out / "scratch", least_items=least_items)
    split = make_split(dataset, Protocol())
    result = _result(start, len(split.train) + len(split.valid) + len(split.test))
    export_dataset(dataset, out / "csv", "d3-csv", split)
    (out / "csv" / "about.json").unlink()
    return {**result, "window": dataset.source.partition("window ")[2].partition(" ")[0]}


def _published(reviews: Path, meta: Path, least_items: int, out: Path) -> dict[str, Any]:
    from benchmarks.speed.published_rules import prepare

    start = _clocks()
    published = prepare(reviews, meta, least_items)
    if published is None:
        raise RuntimeError("the generated files leave no window")
    result = _result(start, len(published.rows))
    published.write(out / "csv", "cds")
    return {**result, "window": f"{published.start[0]}-{published.start[1]:02d}"}


def _result(start: tuple[float, float], rows: int) -> dict[str, Any]:
    """Return what was used since the start; processor seconds tell more than seconds where others work too."""
    seconds, cpu_seconds = (now - then for now, then in zip(_clocks(), start, strict=True))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": _peak_bytes(), "rows": rows}


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _peak_bytes() -> int:
    """Return the largest memory that this process has held (a new program's own: ``ru_maxrss`` may be its parent's)."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _same_files(one: Path, other: Path) -> bool:
    names = [
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) for folder in (one, other)
    ]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def main() -> int:
    """Run at a chosen size, or show the growth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.bench_prepare", description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES, help="review lines to generate")
    parser.add_argument("--growth", action="store_true", help="ours at several sizes, with a forecast for Books")
    parser.add_argument("--work", nargs=5, metavar=("WAY", "REVIEWS", "META", "ITEMS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        way, reviews, meta, least_items, out = options.work
        print(json.dumps(_work(way, Path(reviews), Path(meta), int(least_items), Path(out))))
        return 0
    result = growth() if options.growth else run(options.lines)
    print(json.dumps(result, indent=2))
    return 0 if result.get("equal", True) else 1


if __name__ == "__main__":
    sys.exit(main())
