"""A small title writer that was really trained, for benchmarks whose work depends on what the model believes."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Any

from recbench.artifacts.files import atomic_folder, read_json
from recbench.artifacts.paths import home
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.split import default_strategy, make_split
from recbench.data.store import load_dataset
from recbench.llm.backbone import open_backbone
from recbench.llm.codec import TitleCodec
from recbench.llm.presets import cached_preset, preset_recipe
from recbench.llm.sft import SftSettings, fine_tune
from recbench.llm.storage import load_lm, save_lm
from recbench.llm.writer import TitleWriter

SEED = 42


@dataclass(frozen=True)
class Trained:
    """A fine-tuned title writer with its data.

    Attributes:
        writer, codec: of the model.
        split: the data set's rows.
        facts: what the training was and the seconds it took (of fine-tuning; a preset's pretraining is not in them).
    """

    writer: TitleWriter
    codec: TitleCodec
    split: Split
    facts: dict[str, Any]


def trained_writer(
    dataset_name: str,
    backbone: str,
    max_rows: int | None,
    epochs: int = 1,
    device: str = "cpu",
    pretrain: bool = True,
) -> Trained:
    """Return a preset backbone fine-tuned on training rows; made once, then kept.

    It lies under ``RECBENCH_HOME/benchmarks/<hash>``. Every further epoch is a training of its own that goes on from
    the kept model of the epoch before, with a fresh optimizer and at half its peak learning rate.

    Args:
        max_rows: training rows, drawn at random; None for all.
        epochs: passes over the rows.
        pretrain: pretrain the preset where no run has done so, which may take an hour.

    Raises:
        DataError: the preset is not pretrained on this data, and must not be.
    """
    dataset = load_dataset(dataset_name)
    split = make_split(dataset, Protocol(split=default_strategy(dataset)))
    # Small batches: with so few rows it is the number of steps that decides how far the model gets.
    given = {"max_rows": max_rows, "epochs": 1, "batch_size": 16, "eval_rows": 200, "patience": None}
    data = [dataset.catalog.fingerprint, split.train.fingerprint]
    key = hash_json([{**given, "epochs": epochs}, SEED, preset_recipe(backbone), *data])
    root = home() / "benchmarks"
    folder = root / key
    ctx = RunContext(
        catalog=dataset.catalog,
        seed=SEED,
        device=device,
        work_dir=root / f"{key}.work",
        cache_dir=home(),
        backbone=BackboneSpec(name=backbone, revision=preset_recipe(backbone), requested=backbone),
    )
    if not folder.is_dir():
        if not pretrain:
            cached_preset(backbone, split.train.fingerprint, ctx)
        opened = open_backbone(split.train, ctx)
        before: dict[str, Any] = {"steps": 0, "seconds": 0.0}
        writer, codec = TitleWriter(opened.model), TitleCodec(opened.tokenizer, dataset.catalog)
        if epochs > 1:
            started = trained_writer(dataset_name, backbone, max_rows, epochs - 1, device, pretrain)
            writer, codec, before = started.writer, started.codec, started.facts
        settings = SftSettings(**given, learning_rate=opened.sft_learning_rate / 2 ** (epochs - 1))
        start = time.perf_counter()
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        result = fine_tune(writer, codec, split.train, split.valid, settings, ctx.work_dir / "sft", ctx)
        facts = {
            "rows": max_rows or len(split.train),
            "epochs": epochs,
            "steps": before["steps"] + result.steps,
            "best_loss": result.best_loss,
            "seconds": before["seconds"] + time.perf_counter() - start,
        }
        with atomic_folder(folder) as temporary:
            save_lm(temporary, writer.lm, opened.tokenizer, facts)
        shutil.rmtree(ctx.work_dir, ignore_errors=True)
    lm, tokenizer, _ = load_lm(folder, ctx)
    facts = dict(read_json(folder / "facts.json"))
    return Trained(TitleWriter(lm).eval(), TitleCodec(tokenizer, dataset.catalog), split, facts)
