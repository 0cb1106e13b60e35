"""What is counted over many worlds, by the functions that `recbench compare` uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from benchmarks.calibration.worlds import World
from recbench.stats.bootstrap import BootstrapMeans, bootstrap_means
from recbench.stats.clustered import Errors, SeedLevel, errors_of_differences, user_covariance, user_df
from recbench.stats.equivalence import tost_p
from recbench.stats.paired import sign_flip_p, t_test
from recbench.stats.power import detection_factor
from recbench.stats.ranks import rank_ranges
from recbench.stats.seeds import scaled_interval, two_level_means

ALPHA = 0.05
_BLOCK = 50  # worlds whose resamples are drawn together


@dataclass(frozen=True)
class Share:
    """How often something happened.

    Attributes:
        setting: the worlds.
        what: what happened.
        target: how often it should, or None where it only shows what goes wrong.
        count, n_worlds: how often it did.
    """

    setting: str
    what: str
    target: float | None
    count: int
    n_worlds: int

    @property
    def value(self) -> float:
        """The share of worlds."""
        return self.count / self.n_worlds

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share that more worlds would have (Clopper and Pearson)."""
        low, high = proportion_confint(self.count, self.n_worlds, alpha=0.05, method="beta")
        return float(low), float(high)


@dataclass(frozen=True)
class Draws:
    """How many worlds are drawn, and with how much chance inside each.

    Attributes:
        setting: what they are called.
        n_worlds: worlds.
        n_resamples: resamples of the bootstrap, and flips of the permutation test, in each.
        seed: source of chance.
    """

    setting: str
    n_worlds: int
    n_resamples: int
    seed: int


@dataclass(frozen=True)
class _Drawn:
    """One world: totals (U, E) averaged over seeds, run means (E, S), and R resamples of the means (R, E)."""

    totals: np.ndarray
    run_means: np.ndarray
    boot: BootstrapMeans
    number: int


def _draw(world: World, shifts: tuple[float, ...], n_seeds: int, draws: Draws) -> Iterator[list[_Drawn]]:
    """Yield blocks of worlds; those of a block share the draws of the bootstrap, which saves most of the time."""
    rng = np.random.default_rng(draws.seed)
    n = len(shifts)
    for begin in range(0, draws.n_worlds, _BLOCK):
        drawn = [world.draw(shifts, n_seeds, rng) for _ in range(min(_BLOCK, draws.n_worlds - begin))]
        totals = [one.mean(axis=1).T for one in drawn]
        boot = bootstrap_means(np.hstack(totals), world.sizes, draws.n_resamples, draws.seed + begin)
        yield [
            _Drawn(
                totals[k],
                one.sum(axis=2) / world.sizes.sum(),
                BootstrapMeans(boot.means[:, k * n : (k + 1) * n], boot.seed),
                begin + k,
            )
            for k, one in enumerate(drawn)
        ]


def _seeds(drawn: _Drawn) -> SeedLevel:
    n, n_seeds = drawn.run_means.shape
    models = tuple(tuple(f"{drawn.number}/{entry}/{seed}" for seed in range(n_seeds)) for entry in range(n))
    return SeedLevel(tuple(drawn.run_means), models)


def _errors(world: World, drawn: _Drawn) -> Errors:
    return errors_of_differences(user_covariance(drawn.totals, world.sizes), user_df(world.sizes), _seeds(drawn))


def check_users(world: World, *, shift: float, draws: Draws) -> list[Share]:
    """Compare two methods of one seed each; ``shift`` is how much better the first one is on the logistic scale."""
    truth = world.true_mean(shift) - world.true_mean()
    n_users, n_examples = len(world.sizes), world.sizes.sum()
    counts: Counter[str] = Counter()
    for block in _draw(world, (shift, 0.0), 1, draws):
        differences = np.stack([one.totals[:, 0] - one.totals[:, 1] for one in block], axis=1)
        counts["sign-flip test rejects"] += int(
            (sign_flip_p(differences, draws.n_resamples, draws.seed + block[0].number) < ALPHA).sum()
        )
        for one, totals in zip(block, differences.T, strict=True):
            errors = _errors(world, one)
            error, df = float(errors.standard_error[0, 1]), float(errors.df[0, 1])
            found = float(totals.sum() / n_examples)
            resampled = two_level_means(one.boot, _seeds(one))
            low, high = scaled_interval(resampled[:, 0] - resampled[:, 1], found, error, df)
            counts["interval covers"] += low <= truth <= high
            counts["t-test over users rejects"] += (t_test(found, error, df)[0] or 0.0) < ALPHA
            # A method that is better by exactly the margin must rarely be called equivalent.
            margin = 4 * error
            counts["TOST rejects at the margin"] += tost_p(found - truth + margin, error, df, margin, n_users) < ALPHA
            # A difference of just the detectable size is found this often.
            there = found - truth + detection_factor(df, ALPHA) * error
            counts["detectable difference found"] += (t_test(there, error, df)[0] or 0.0) < ALPHA
            rows = np.repeat(totals / world.sizes, world.sizes)
            counts["t-test over rows rejects (wrong)"] += stats.ttest_1samp(rows, 0.0).pvalue < ALPHA
    targets = {
        "sign-flip test rejects": ALPHA,
        "t-test over users rejects": ALPHA,
        "interval covers": 1 - ALPHA,
        "TOST rejects at the margin": ALPHA,
        "detectable difference found": 0.8,
        "t-test over rows rejects (wrong)": None,
    }
    if shift:
        targets = {what: target for what, target in targets.items() if "reject" not in what or "margin" in what}
    return [Share(draws.setting, what, target, counts[what], draws.n_worlds) for what, target in targets.items()]


def check_seeds(world: World, *, n_seeds: int, draws: Draws) -> list[Share]:
    """Compare two equal methods of several seeds: does the two-level interval cover 0, where one over users fails?"""
    counts: Counter[str] = Counter()
    for block in _draw(world, (0.0, 0.0), n_seeds, draws):
        for one in block:
            errors = _errors(world, one)
            error, df = float(errors.standard_error[0, 1]), float(errors.df[0, 1])
            means = one.totals.sum(axis=0) / world.sizes.sum()
            found = float(means[0] - means[1])
            resampled = two_level_means(one.boot, _seeds(one))
            low, high = scaled_interval(resampled[:, 0] - resampled[:, 1], found, error, df)
            counts["interval covers"] += low <= 0 <= high
            counts["test over users and seeds rejects"] += (t_test(found, error, df)[0] or 0.0) < ALPHA
            users_only = np.quantile(one.boot.means[:, 0] - one.boot.means[:, 1], [0.025, 0.975])
            counts["interval over users alone covers"] += bool(users_only[0] <= 0 <= users_only[1])
            plain = _plainly_resampled(one, np.random.default_rng([draws.seed, one.number]))
            low, high = np.quantile(plain[:, 0] - plain[:, 1], [0.025, 0.975])
            counts["interval of plainly resampled seeds covers"] += bool(low <= 0 <= high)
    targets = {
        "interval covers": 1 - ALPHA,
        "test over users and seeds rejects": ALPHA,
        "interval over users alone covers": None,
        "interval of plainly resampled seeds covers": None,
    }
    return [Share(draws.setting, what, target, counts[what], draws.n_worlds) for what, target in targets.items()]


def _plainly_resampled(drawn: _Drawn, rng: np.random.Generator) -> np.ndarray:
    """Return resamples (R, E) with S of the S seeds drawn and nothing mended, for comparison."""
    resampled = drawn.boot.means.copy()
    n_seeds = drawn.run_means.shape[1]
    for entry, run_means in enumerate(drawn.run_means):
        picked = rng.integers(0, n_seeds, (len(resampled), n_seeds))
        resampled[:, entry] += run_means[picked].mean(axis=1) - run_means.mean()
    return resampled


def check_ranks(world: World, *, shifts: tuple[float, ...], draws: Draws) -> list[Share]:
    """Rank several methods: do all ranges of ranks hold the true ranks, and is the best one in the best set?"""
    true_means = np.array([world.true_mean(shift) for shift in shifts])
    best_rank = 1 + (true_means[None, :] > true_means[:, None] + 1e-12).sum(axis=1)
    worst_rank = len(shifts) - (true_means[None, :] < true_means[:, None] - 1e-12).sum(axis=1)
    counts: Counter[str] = Counter()
    for block in _draw(world, shifts, 1, draws):
        for one in block:
            means = one.totals.sum(axis=0) / world.sizes.sum()
            resampled = two_level_means(one.boot, _seeds(one))
            ranks = rank_ranges(means, resampled, _errors(world, one), ALPHA)
            counts["all ranges of ranks hold"] += bool(
                np.all(ranks.low <= best_rank) and np.all(worst_rank <= ranks.high)
            )
            counts["the best is in the best set"] += bool(np.all(ranks.low[true_means == true_means.max()] == 1))
    return [
        Share(draws.setting, what, 1 - ALPHA, counts[what], draws.n_worlds)
        for what in ("all ranges of ranks hold", "the best is in the best set")
    ]


def as_rows(shares: Iterable[Share]) -> list[dict[str, object]]:
    """Return plain values for JSON."""
    return [
        {
            "setting": one.setting,
            "what": one.what,
            "target": one.target,
            "value": one.value,
            "low": one.interval[0],
            "high": one.interval[1],
            "n_worlds": one.n_worlds,
        }
        for one in shares
    ]
