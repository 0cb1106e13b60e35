"""A declared family of tests: which pairs, metrics and data sets were to be compared, written down before looking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import Field

from recbench.artifacts.store import RunStore
from recbench.contracts.comparison import ComparedFamily
from recbench.contracts.config import StrictModel, build_config
from recbench.contracts.errors import ConfigError
from recbench.evaluation.accuracy import Truth, check_metric, comparable_metrics, metric_column
from recbench.experiment.align import align
from recbench.experiment.compare import check_truth
from recbench.experiment.pairs import CompareOptions, PairFacts, judge
from recbench.experiment.select import select
from recbench.experiment.statistics import MeasuredMetric, Pair, comparison_of, measure, pair_facts
from recbench.stats.equivalence import parse_margin


class FamilyTests(StrictModel):
    """Some tests of a family: every pair on every metric, truth and data set."""

    pairs: tuple[tuple[str, str], ...] = Field(
        min_length=1, description="pairs [A, B] of methods, run ids or run folders; each must stand for one entry"
    )
    metrics: tuple[str, ...] = Field(("NDCG@10",), min_length=1, description="metrics, as NDCG@10 or HR@5")
    truths: tuple[str, ...] = Field(("item",), min_length=1, description="item, title, or both")
    datasets: tuple[str, ...] | None = Field(
        None, min_length=1, description="data sets; null: the one that all runs of the pairs are on"
    )


class FamilyFile(StrictModel):
    """The whole family; p-values are adjusted over all of its tests together."""

    name: str = Field(min_length=1, description="what the family is called in reports")
    why: str = Field("", description="what is to be shown, in a sentence")
    alpha: float | None = Field(None, gt=0, lt=0.5, description="bound on wrong findings (share of 1); null: 0.05")
    margin: str | float | None = Field(
        None, description="difference that does not matter: 0.002 in the metric's unit, or '2%' of B's mean"
    )
    tests: tuple[FamilyTests, ...] = Field(min_length=1, description="the tests")


def read_family(path: Path) -> FamilyFile:
    """Read a family from a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or has wrong keys or values (all are named).
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The family file {path} cannot be read: {error}", "Give a YAML file.") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"The family file {path} holds no mapping.",
            "It needs the keys name and tests; see recbench compare --help.",
        )
    return build_config(FamilyFile, values, f"family {path}")


@dataclass(frozen=True)
class _Table:
    """The tests of one data set, truth and metric."""

    measured: MeasuredMetric
    pairs: list[Pair]


def compare_family(
    store: RunStore, family: FamilyFile, *, protocol: str | None = None, options: CompareOptions | None = None
) -> ComparedFamily:
    """Run all tests of a declared family and adjust over exactly these.

    Args:
        store: the runs.
        family: the tests; its alpha and margin go before those of ``options``.
        protocol: takes only runs whose protocol hash begins with this.
        options: margin, correction, further tests.

    Raises:
        UsageError: a reference stands for no or several entries, an unknown metric, a test that is named twice.
        ArtifactError: a run's metrics are damaged or cover other examples.
    """
    options = options or CompareOptions()
    if family.alpha is not None:
        options = replace(options, alpha=family.alpha)
    if family.margin is not None:
        options = replace(options, margin=parse_margin(str(family.margin)))
    tables = [table for block in _by_dataset(family) for table in _tables(store, *block, protocol)]
    facts: list[list[PairFacts]] = [pair_facts(table.measured, table.pairs, options) for table in tables]
    everything = [fact for of_table in facts for fact in of_table]
    judged = iter(judge(everything, options))
    return ComparedFamily(
        name=family.name,
        why=family.why,
        comparisons=tuple(
            comparison_of(
                table.measured,
                [next(judged) for _ in of_table],
                options,
                n_tests=len(everything),
                family=family.name,
            )
            for table, of_table in zip(tables, facts, strict=True)
        ),
    )


Test = tuple[str, str, Truth, str]  # references A and B, truth, metric


def _by_dataset(family: FamilyFile) -> Iterator[tuple[str | None, list[Test]]]:
    """Yield each data set with its tests, in order.

    Raises:
        ConfigError: a test is named twice, in either direction: it would be counted twice.
    """
    found: dict[str | None, list[Test]] = {}
    for block in family.tests:
        for dataset in block.datasets or (None,):
            for truth in map(check_truth, block.truths):
                for metric in block.metrics:
                    for a, b in block.pairs:
                        tests = found.setdefault(dataset, [])
                        if any({a, b} == set(test[:2]) and (truth, metric) == test[2:] for test in tests):
                            where = f" on {dataset}" if dataset else ""
                            raise ConfigError(
                                f"The family '{family.name}' names the test of {a} against {b} by {truth} {metric}"
                                f"{where} twice.",
                                "Name each test once: the correction counts them.",
                            )
                        tests.append((a, b, truth, metric))
    yield from found.items()


def _tables(store: RunStore, dataset: str | None, tests: Sequence[Test], protocol: str | None) -> list[_Table]:
    """Return one table per truth and metric of one data set, with the pairs to test."""
    references = list(dict.fromkeys(reference for a, b, _, _ in tests for reference in (a, b)))
    selection = select(store, references, dataset, protocol)
    entries = selection.entries
    number = {reference: entries.index(selection.one(reference, "member of the family")) for reference in references}
    columns = entries[0].runs[0].metrics().columns
    wanted: dict[tuple[Truth, str], list[Pair]] = {}
    for a, b, truth, metric in tests:
        if number[a] == number[b]:
            raise ConfigError(f"'{a}' and '{b}' are the same entry ({entries[number[a]].label}).", "Name two.")
        known = check_metric(metric, comparable_metrics(columns, truth))
        wanted.setdefault((truth, known), []).append((number[a], number[b]))
    aligned = align(entries, [metric_column(truth, metric) for truth, metric in wanted])
    return [_Table(measure(entries, aligned, metric, truth), pairs) for (truth, metric), pairs in wanted.items()]
