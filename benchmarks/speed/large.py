"""``python -m benchmarks.speed.large``: LatentR3 with a model of full size, on a GPU.

Three parts, all with random weights of Qwen2.5-1.5B's shape in bfloat16 (on the CPU a preset's shape in float32, to try
the script): the steps of SFT and LR-GRPO against the published way of computing them, in one process, with rows of
equal length; both stages as ``recbench run`` makes them, on training rows of a real data set, with tokens per second
and model FLOP utilisation; and ten-beam decoding of its test rows. The result is one JSON document, also kept under
``benchmarks/results/`` with the hardware in it.

Model FLOPs are what the method needs when every token is read once: a prompt of P tokens, its thought and an answer of
T tokens pass the body of the model (2 FLOPs per weight and token, and attention), and T of them its head; a backward
pass costs twice a forward pass, or once where the weights are frozen. Reading the shared instruction once per batch
saves some of that, which counts as speed, not as utilisation lost. The peak is the best rate of a large matrix product
on the same device in the same process.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from benchmarks.speed import bench_rl, bench_sft
from benchmarks.speed.training_steps import BEGINNING, random_writer, shape_of
from latent.reasoner import LatentWriter
from latent.rl import reinforce
from latent.rl_config import RlSettings
from recbench.artifacts.files import write_json
from recbench.contracts.dataset import Dataset
from recbench.contracts.examples import Examples
from recbench.contracts.method import RunContext
from recbench.contracts.protocol import Protocol
from recbench.contracts.split import Split
from recbench.data.split import default_strategy, make_split
from recbench.data.store import load_dataset
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig, rank_titles
from recbench.llm.presets import train_tokenizer
from recbench.llm.sft import SftSettings, fine_tune, training_rows

RESULTS = Path(__file__).resolve().parents[1] / "results"
# Titles in pieces of about the length that Qwen's own tokenizer makes, which is not needed for speed.
_VOCABULARY = 16_384
#: Training rows of the paper's CDs.
PAPER_ROWS = 49_252


@dataclass(frozen=True)
class Setup:
    """What the measurements of the stages share."""

    writer: LatentWriter
    codec: TitleCodec
    dataset: Dataset
    split: Split
    device: str

    def context(self, folder: Path, records: list[dict[str, Any]]) -> RunContext:
        """Return the surroundings of one stage, which writes its log into ``records``."""
        folder.mkdir(parents=True, exist_ok=True)
        return RunContext(
            self.dataset.catalog, 0, self.device, folder, folder, log=lambda record: records.append(dict(record))
        )


def run(
    model: str, device: str, dataset: str, sft_rows: int, rl_rows: int, test_rows: int, repeats: int
) -> dict[str, Any]:
    """Make all measurements.

    Args:
        model: "1.5b", or a preset's name for its shape.
        device: "cpu" or "cuda".
        dataset: a prepared data set.
        sft_rows, rl_rows: training rows of the two stages.
        test_rows: rows to decode.
        repeats: timed pairs of steps.

    Raises:
        DataError: the data set is not prepared.
    """
    peak = peak_flops(device)
    steps = {module.NAME: module.measure(BEGINNING, repeats, model, device) for module in (bench_sft, bench_rl)}
    setup = _setup(model, device, dataset)
    with tempfile.TemporaryDirectory() as scratch:
        stages = {
            "sft": _sft(setup, Path(scratch) / "sft", sft_rows, peak),
            "rl": _rl(setup, Path(scratch) / "rl", rl_rows, peak),
        }
        decoding = _decode(setup, Path(scratch) / "decode", test_rows)
    return {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "hardware": _hardware(device),
        "model": {"shape": model, "parameters": _weights(setup.writer)[0], "dtype": str(setup.writer.lm.dtype)},
        "dataset": dataset,
        "peak_matmul_flops_per_s": peak,
        "steps_against_published": steps,
        "stages": stages,
        "decoding": decoding,
    }


def _setup(model: str, device: str, name: str) -> Setup:
    dataset = load_dataset(name)
    split = make_split(dataset, Protocol(split=default_strategy(dataset)))
    shape = shape_of(model)
    tokenizer: PreTrainedTokenizerBase = train_tokenizer(dataset.catalog, min(_VOCABULARY, shape.vocab_size - 1))
    writer = random_writer(_starting_small(shape), device)
    return Setup(writer, TitleCodec(tokenizer, dataset.catalog), dataset, split, device)


def _starting_small(shape: Qwen2Config) -> Qwen2Config:
    """Return the shape with small first weights, so that the loss of real steps stays in its bounds."""
    small = Qwen2Config(**{**shape.to_dict(), "initializer_range": 0.005})
    small._attn_implementation = "sdpa"
    return small


def peak_flops(device: str, size: int | None = None, repeats: int = 5) -> float:
    """Return the best rate of a square matrix product, in FLOP/s: bfloat16 on CUDA, float32 on the CPU."""
    on_gpu = device.startswith("cuda")
    size = size or (8192 if on_gpu else 1024)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _weights(writer: LatentWriter) -> tuple[int, int]:
    """Return all weights of the language model, and those of its body (blocks without embeddings and head)."""
    total = sum(weight.numel() for weight in writer.lm.parameters())
    embeddings = {id(part.weight) for part in (writer.lm.get_input_embeddings(), writer.lm.get_output_embeddings())}
    body = sum(weight.numel() for weight in writer.lm.parameters() if id(weight) not in embeddings)
    return total, body


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass through a model of some shape."""

    body_weights: int
    layers: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, writer: LatentWriter) -> Flops:
        """Return the counts of a model."""
        config = writer.lm.config
        return cls(_weights(writer)[1], config.num_hidden_layers, config.hidden_size, config.vocab_size)

    def body(self, tokens: int, before: int = 0) -> int:
        """Return the FLOPs of ``tokens`` tokens in the blocks, each seeing ``before`` tokens and those ahead of it."""
        seen = tokens * before + tokens * (tokens + 1) // 2
        return 2 * self.body_weights * tokens + 4 * self.layers * self.width * seen

    def head(self, tokens: int) -> int:
        """Return the FLOPs of the logits of ``tokens`` tokens."""
        return 2 * self.width * self.vocabulary * tokens

    def sft(self, prompt: int, answer: int) -> int:
        """Return the FLOPs of a row of fine-tuning, forward and backward."""
        return 3 * (self.body(prompt + answer + 1) + self.head(answer))

    def rl(self, prompt: int, answer: int, samples: int) -> int:
        """Return the FLOPs of a prompt of LR-GRPO under a frozen model, whose weights get no gradients."""
        suffix = samples * (self.body(answer + 1, before=prompt) + self.head(answer))
        return self.body(prompt) + 2 * suffix


def _sft(setup: Setup, folder: Path, rows: int, peak: float) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    ctx = setup.context(folder, records)
    settings = SftSettings(
        epochs=1, max_rows=rows, eval_rows=16, learning_rate=1e-6, batch_size=32, micro_batch_size=16, log_steps=1,
        patience=None,
    )  # fmt: skip
    train = setup.split.train
    lengths = _lengths(setup, train, rows, "sft")
    with _Memory(setup.device) as memory:
        fine_tune(setup.writer, setup.codec, train, setup.split.valid, settings, folder, ctx)
    flops = Flops.of(setup.writer)
    needed = sum(flops.sft(prompt, answer) for prompt, answer in lengths)
    return {**_speed(records, lengths, needed, peak), "peak_memory_bytes": memory.peak}


def _rl(setup: Setup, folder: Path, rows: int, peak: float) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    ctx = setup.context(folder, records)
    settings = RlSettings(max_rows=rows, learning_rate=1e-6, log_steps=1)
    train = setup.split.train
    lengths = _lengths(setup, train, rows, "rl")
    with _Memory(setup.device) as memory:
        reinforce(setup.writer, setup.codec, train, settings, folder, ctx)
    flops = Flops.of(setup.writer)
    needed = sum(flops.rl(prompt, answer, settings.samples) for prompt, answer in lengths)
    found = _speed(records, lengths, needed, peak)
    minutes = PAPER_ROWS / found["rows_per_s"] / 60
    return {**found, "peak_memory_bytes": memory.peak, "minutes_for_the_papers_cds": minutes}


def _lengths(setup: Setup, train: Examples, rows: int, purpose: str) -> list[tuple[int, int]]:
    """Return the tokens of prompt and answer of the rows that a stage trains on."""
    chosen = training_rows(train, setup.codec, rows, 0, purpose)
    return [(len(row["input_ids"]), len(row["answer"])) for row in chosen]


def _speed(records: list[dict[str, Any]], lengths: list[tuple[int, int]], needed: int, peak: float) -> dict[str, Any]:
    """Return rates from a stage's own log: steps after the first two, which pay for warming up."""
    steps = [record for record in records if "tokens_per_s" in record and "loss" in record]
    warm = steps[2:] or steps
    tokens_per_s = len(warm) / sum(1 / record["tokens_per_s"] for record in warm)
    tokens = sum(prompt + answer for prompt, answer in lengths)
    flops_per_s = tokens_per_s * needed / tokens
    return {
        "rows": len(lengths),
        "prompt_tokens": sum(prompt for prompt, _ in lengths) / len(lengths),
        "answer_tokens": sum(answer for _, answer in lengths) / len(lengths),
        "steps": len(steps),
        "tokens_per_s": tokens_per_s,
        "rows_per_s": tokens_per_s * len(lengths) / tokens,
        "model_flops_per_s": flops_per_s,
        "utilisation": flops_per_s / peak,
    }


def _decode(setup: Setup, folder: Path, rows: int) -> dict[str, Any]:
    queries = setup.split.test.take(range(min(rows, len(setup.split.test)))).queries()
    config = DecodingConfig(batch_size=16)
    ctx = setup.context(folder, [])
    warm = queries.take(range(min(16, len(queries))))
    rank_titles(setup.writer, setup.codec, warm, config, folder / "warm", ctx)
    with _Memory(setup.device) as memory:
        start = time.perf_counter()
        rank_titles(setup.writer, setup.codec, queries, config, folder / "timed", replace(ctx, timings_s={}))
        _wait(setup.device)
        seconds = time.perf_counter() - start
    return {
        "rows": len(queries),
        "beams": config.beams,
        "batch_size": config.batch_size,
        "seconds": seconds,
        "seconds_per_1000_rows": 1000 * seconds / len(queries),
        "peak_memory_bytes": memory.peak,
    }


class _Memory:
    """The most memory that a CUDA device held inside; None elsewhere."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self.peak: int | None = None

    def __enter__(self) -> _Memory:
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = torch.cuda.max_memory_allocated() if self._on_gpu else None


def _hardware(device: str) -> dict[str, Any]:
    on_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_properties(0).name if on_gpu else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "cuda": torch.version.cuda if on_gpu else None,
    }


def main() -> None:
    """Run with options, print the document and keep it."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1.5b" if on_gpu else "nano", help="1.5b, nano or micro: the shape")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu", help="cpu or cuda")
    parser.add_argument("--dataset", default="cds_2018_latentr3", help="a prepared data set (default: %(default)s)")
    parser.add_argument("--sft-rows", type=int, default=2048 if on_gpu else 128, help="default: %(default)s")
    parser.add_argument("--rl-rows", type=int, default=2048 if on_gpu else 64, help="default: %(default)s")
    parser.add_argument("--test-rows", type=int, default=1000 if on_gpu else 16, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs of steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default: %(default)s)")
    options = parser.parse_args()
    document = run(
        options.model, options.device, options.dataset, options.sft_rows, options.rl_rows, options.test_rows,
        options.repeats,
    )  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    day = document["made"][:10]
    write_json(options.out / f"{day}-large-{options.model}-{options.device}.json", document)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
