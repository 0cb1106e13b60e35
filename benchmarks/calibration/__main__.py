"""``python -m benchmarks.calibration [--worlds N] [--json]``: are the statistics of `recbench compare` as good as said?

Two equal methods are compared in many made-up worlds. Tests at 5% should reject in 5% of them, 95% intervals should
hold the truth in 95%. The interval behind a share is that of the simulation itself: the target should lie inside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator

from benchmarks.calibration.checks import Draws, Share, as_rows, check_ranks, check_seeds, check_users
from benchmarks.calibration.worlds import World, user_sizes
from recbench.contracts.seeding import derive_seed

_RESAMPLES = 2_000
_SEED = 20_260_101


def shares(n_worlds: int) -> Iterator[Share]:
    """Run all checks, one setting after the other."""
    settings = {
        "50 users, 1 example each": user_sizes(50, 1, 0.0),
        "200 users, sizes as in CDs": user_sizes(200, 2.5, 0.9),
        "1,700 users, sizes as in CDs": user_sizes(1700, 2.5, 0.9),
        "166 users, sizes as in ml-100k": user_sizes(166, 24, 1.37),
    }
    some, tail = settings["200 users, sizes as in CDs"], settings["166 users, sizes as in ml-100k"]
    for name, sizes in settings.items():
        yield from check_users(World(sizes), shift=0.0, draws=_draws(f"{name}, nothing differs", n_worlds))
    for name, sizes in (("200 users, sizes as in CDs", some), ("166 users, sizes as in ml-100k", tail)):
        yield from check_users(World(sizes), shift=0.5, draws=_draws(f"{name}, the first is better", n_worlds))
    for n_seeds in (2, 3, 5):
        for word, seed_sd in (("do not differ", 0.0), ("differ like users", 0.2), ("differ more", 0.6)):
            world = World(some, seed_sd=seed_sd, luck_sd=0.5)
            draws = _draws(f"200 users, {n_seeds} seeds that {word}", n_worlds)
            yield from check_seeds(world, n_seeds=n_seeds, draws=draws)
    better = (0.6, 0.5, 0.5, 0.3, 0.0, 0.0)
    yield from check_ranks(World(some), shifts=(0.0,) * 6, draws=_draws("200 users, 6 equal methods", n_worlds))
    yield from check_ranks(World(some), shifts=better, draws=_draws("200 users, 6 methods, some better", n_worlds))


def _draws(setting: str, n_worlds: int) -> Draws:
    """Every setting has worlds of its own, so that one unlucky draw does not show in several."""
    return Draws(setting, n_worlds, _RESAMPLES, derive_seed(_SEED, setting) % 2**32)


def main(arguments: list[str] | None = None) -> int:
    """Print a Markdown table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("--worlds", type=int, default=4_000, help="simulated worlds per setting (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    if options.worlds < 1:
        parser.error("--worlds needs a number of at least 1")
    begun = time.perf_counter()
    found: list[Share] = []
    for share in shares(options.worlds):
        if not found or found[-1].setting != share.setting:
            print(f"{share.setting} ({time.perf_counter() - begun:.0f} s)", file=sys.stderr)
        found.append(share)
    seconds = time.perf_counter() - begun
    if options.json:
        print(json.dumps({"worlds": options.worlds, "seconds": seconds, "shares": as_rows(found)}, indent=2))
        return 0
    print("| worlds | what | target | share | 95% of the simulation |\n| :-- | :-- | --: | --: | --: |")
    for share in found:
        target = "–" if share.target is None else f"{share.target:.0%}"
        low, high = share.interval
        print(f"| {share.setting} | {share.what} | {target} | {share.value:.1%} | {low:.1%} to {high:.1%} |")
    print(f"\n{options.worlds:,} worlds per setting, {_RESAMPLES:,} resamples and flips, {seconds:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
