"""`recbench latency`: how long a fitted method takes to answer, by the latency protocol of the LatentR3 paper."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recbench.cli.options import (
    RUNS,
    BackboneOption,
    ConfigOption,
    DatasetOption,
    Device,
    LimitTestOption,
    LimitTrainOption,
    MethodOption,
    RunsDirOption,
    SeedOption,
    SetOption,
)
from recbench.cli.output import JsonFlag, console, print_json, progress
from recbench.contracts.errors import UsageError

if TYPE_CHECKING:
    from recbench.artifacts.latency import LatencyRecord
    from recbench.contracts.latency import LatencyFigures, Timing
    from recbench.experiment.latency_subject import LatencySubject

log = logging.getLogger(__name__)


def latency(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A stored run to measure, in place of --method and --dataset.")
    ] = None,
    method: MethodOption = None,
    dataset: DatasetOption = None,
    backbone: BackboneOption = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    limit_train: LimitTrainOption = None,
    limit_test: LimitTestOption = None,
    rows: Annotated[int, typer.Option(help="Random test rows, the same for every method.", min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="Rows answered at once.", min=1)] = 4,
    repeats: Annotated[int, typer.Option(help="Passes over all rows.", min=1)] = 3,
    warm_up: Annotated[int, typer.Option(help="Batches before them that are not timed.", min=0)] = 1,
    runs_dir: RunsDirOption = RUNS,
    device: Annotated[
        Device | None, typer.Option(help="Where torch computes.  [default: auto; for a RUN its own device]")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how long a method takes to answer a few requests at a time.

    The model is the one that 'recbench run --keep-model' kept; where there is none it is fitted first, and kept. The
    result, with the time of every batch, lies in RUNS_DIR/<dataset>/<method>/.latency/ and appears in reports beside
    the run. Run folders stay as they are. Let nothing else run meanwhile: the command warns where something did.

    Examples:

        recbench latency 3f2a91

        recbench latency --method bigrec --dataset ml-100k --backbone nano

        recbench latency --method bigrec --dataset ml-100k --set decoding.search=exact --json

        recbench latency --method sasrec --dataset ml-100k --batch-size 1 --rows 50
    """
    flags: dict[str, Any] = {
        "method": method,
        "dataset": dataset,
        "backbone": backbone,
        "seed": seed,
        "protocol": {"limit_train": limit_train, "limit_test": limit_test},
    }
    # Packages that print while they are imported or used must not end up among the results.
    with redirect_stdout(sys.stderr):
        from recbench.experiment.latency import figures_of
        from recbench.experiment.latency_measure import LatencyOptions, measure_latency

        subject, folder = _subject(run, config, flags, assignments or [], device, runs_dir)
        options = LatencyOptions(rows=rows, batch_size=batch_size, repeats=repeats, warm_up=warm_up)
        record, path = measure_latency(subject, options, folder, ["recbench", *sys.argv[1:]], progress())
        for warning in record.warnings:
            log.warning(warning)
    figures = figures_of(record)
    if as_json:
        print_json({"path": str(path), "figures": _figures_json(figures), **record.model_dump(mode="json")})
        return
    _show(record, figures, path)


def _subject(
    run: str | None,
    config: Path | None,
    flags: dict[str, Any],
    assignments: list[str],
    device: Device | None,
    runs_dir: Path,
) -> tuple[LatencySubject, Path]:
    """Return what is measured, and the folder of all runs that it belongs to."""
    from recbench.artifacts.store import RunStore
    from recbench.experiment.config import build_experiment
    from recbench.experiment.latency_subject import LatencySubject
    from recbench.experiment.plan import make_plan

    if run is None:
        asked = build_experiment(config, flags, assignments)
        return LatencySubject.of_plan(make_plan(asked, device.value if device else "auto")), runs_dir
    others = {name: value for name, value in flags.items() if name != "protocol"} | flags["protocol"]
    given = [f"--{name.replace('_', '-')}" for name, value in {**others, "config": config}.items() if value is not None]
    given += ["--set"] if assignments else []
    if given:
        raise UsageError(
            f"A run is named ({run}), and {', '.join(given)} too.", "Give a RUN, or a configuration without it."
        )
    stored = RunStore(runs_dir).get(run)
    # A run folder elsewhere has its kept models beside it: RUNS/<dataset>/<method>/<run id>.
    folder = stored.paths.folder.resolve().parents[2] if Path(run).is_dir() else runs_dir
    return LatencySubject.of_run(stored, device.value if device else None), folder


def _figures_json(figures: LatencyFigures) -> dict[str, Any]:
    named = {"headline": figures.headline, "compute": figures.compute, "call": figures.call}
    clocks = {name: {**asdict(one), "spread": one.spread} if one else None for name, one in named.items()}
    return {**clocks, "cpu_ms": figures.cpu_ms}


def _show(record: LatencyRecord, figures: LatencyFigures, path: Path) -> None:
    from rich.table import Table

    from recbench.experiment.latency import setting_of

    out = console()
    # A local folder goes by its last part, as in tables; a hub model keeps its owner.
    name = record.backbone.name if record.backbone else ""
    backbone = f" ({Path(name).name if Path(name).is_absolute() else name})" if name else ""
    what = f"{record.method}{backbone} on {record.dataset}, seed {record.seed}"
    out.print(f"{what}: {setting_of(record).text}.", markup=False, soft_wrap=True)
    table = Table("clock", "ms per request", "batch p50", "batch p95", "each repeat", "spread")
    clocks = {"compute": figures.compute, "call": figures.call}
    known = {clock: timing for clock, timing in clocks.items() if timing}
    for clock, timing in known.items():
        table.add_row(clock, *_texts(timing))
    out.print(table)
    for clock in known:
        out.print(f"{clock}: {record.inside[clock]}.", markup=False, soft_wrap=True)
    steps = f"Steps of the title search per batch: {record.steps:.1f}. " if record.steps is not None else ""
    tokens = (
        "" if record.reasoning_tokens is None else f"Tokens of reasoning per request: {record.reasoning_tokens:.1f}. "
    )
    memory = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in record.peak_memory_bytes.items())
    cpu = f"Processor time per request: {figures.cpu_ms:.3g} ms. "
    out.print(f"{cpu}{steps}{tokens}Peak memory of the {record.peak_memory_of}: {memory}.", markup=False)
    out.print(f"Measured: {path}", markup=False, soft_wrap=True)


def _texts(timing: Timing) -> list[str]:
    numbers = (timing.request_ms, timing.batch_p50_ms, timing.batch_p95_ms)
    repeats = " ".join(f"{value:.3g}" for value in timing.repeats_ms)
    return [*(f"{value:.3g}" for value in numbers), repeats, f"{timing.spread:.0%}"]
