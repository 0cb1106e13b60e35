"""Ten-beam constrained decoding of real prompts over a catalogue of 12,101 titles, against the published way.

The baseline is how published codes decode: Hugging Face ``generate`` with a Python dictionary from prefixes of tokens
to the tokens allowed next, which copies every prompt for every beam. Both ways decode the same batches with the same
model and must give the same titles. What the constraint costs is measured by playing the model calls of our search
again with a plain choice of the best tokens of the whole vocabulary in place of the trie: the difference is the trie.

``python -m benchmarks.speed.bench_decode --help`` lists options for other devices, models and sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from recbench.artifacts.paths import home
from recbench.contracts.dataset import Dataset
from recbench.contracts.errors import DataError
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.protocol import Protocol
from recbench.data.importing import import_dataset
from recbench.data.sources.options import ImportOptions
from recbench.data.split import make_split
from recbench.data.store import load_dataset
from recbench.llm import beam
from recbench.llm.beam import BeamResult, DeviceTrie, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.head import LogprobHead
from recbench.llm.presets import PRESETS, cached_preset, train_tokenizer
from recbench.llm.tree import AnswerTree
from recbench.llm.writer import TitleWriter

NAME = "decode"
DATASET = "beauty_2014"
DATA_VARIABLE = "RECBENCH_SPEED_DATA"
BEAMS = 10
PENALTIES = {"bigrec": 1.0, "d3": 0.0}
SCORE_TOLERANCE = {"cpu": 1e-3, "cuda": 5e-2}
TIE = 1e-4
# The shape of Qwen2.5-1.5B, for absolute figures on a GPU. Its own tokenizer is not needed for those.
LARGE = Qwen2Config(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
    num_key_value_heads=2, max_position_embeddings=32_768, tie_word_embeddings=True, bos_token_id=None,
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """A model and batches of real prompts.

    Attributes:
        batches: prompt ids and mask (B, P), padded on the left.
        weights: where the weights come from, in words.
    """

    writer: TitleWriter
    codec: TitleCodec
    batches: list[tuple[Tensor, Tensor]]
    weights: str


def find_dataset() -> Dataset:
    """Return beauty_2014: prepared, or read from the folder that the environment names or that lies beside us.

    Raises:
        DataError: it is nowhere.
    """
    try:
        return load_dataset(DATASET)
    except DataError:
        beside = Path(__file__).resolve().parents[3] / "shared" / "data" / DATASET
        folder = Path(os.environ.get(DATA_VARIABLE) or beside)
        if not folder.is_dir():
            raise DataError(
                f"The benchmark '{NAME}' needs the data set {DATASET}, which is neither prepared nor at {folder}.",
                f"Import it (recbench datasets import FOLDER --name {DATASET}) or name its folder in {DATA_VARIABLE}.",
            ) from None
        return import_dataset([folder], ImportOptions(name=DATASET))


def make_workload(model: str, device: str, n_batches: int, batch_size: int) -> Workload:
    """Return a model and prompts of test rows, drawn with a fixed seed; rows of like length share a batch.

    Args:
        model: a preset ("micro"), with its cached weights where some run has pretrained it on this data, else with
            random ones; or "1.5b": random weights of Qwen2.5-1.5B's shape, in bfloat16 on CUDA.
    """
    dataset = find_dataset()
    split = make_split(dataset, Protocol())
    ctx = RunContext(dataset.catalog, 0, device, home(), home(), BackboneSpec(name=model))
    if model in PRESETS:
        preset = PRESETS[model]
        try:
            folder = cached_preset(model, split.train.fingerprint, ctx)
            lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
            weights = "pretrained"
        except DataError:
            tokenizer = train_tokenizer(dataset.catalog, preset.vocabulary)
            shape = Qwen2Config(
                vocab_size=len(tokenizer), hidden_size=preset.width, intermediate_size=preset.inner,
                num_hidden_layers=preset.layers, num_attention_heads=preset.heads,
                num_key_value_heads=preset.kv_heads, tie_word_embeddings=True, bos_token_id=None,
            )  # fmt: skip
            lm, weights = _random_model(shape), "random (the preset is not pretrained on this data here)"
    else:
        tokenizer = train_tokenizer(dataset.catalog, PRESETS["micro"].vocabulary)
        lm, weights = _random_model(LARGE), "random"
    if device.startswith("cuda"):
        lm = lm.to(device, torch.bfloat16)
    codec = TitleCodec(tokenizer, dataset.catalog)
    rows = np.random.default_rng(0).choice(len(split.test), n_batches * batch_size, replace=False)
    prompts = sorted(codec.prompts(split.test.take(np.sort(rows)).queries()), key=len)
    batches = [
        codec.pad_prompts(prompts[start : start + batch_size], device) for start in range(0, len(prompts), batch_size)
    ]
    return Workload(TitleWriter(lm).eval(), codec, batches, weights)


def _random_model(shape: Qwen2Config) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = Qwen2ForCausalLM(shape)
        # Wider than the usual start, so that the model has preferences.
        lm.get_input_embeddings().weight.data *= 4
    return lm


def allowed_next(answers: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Return the tokens that may follow every prefix, as published codes keep them."""
    allowed: dict[tuple[int, ...], set[int]] = {}
    for answer in answers:
        for length in range(len(answer)):
            allowed.setdefault(answer[:length], set()).add(answer[length])
    return {prefix: sorted(tokens) for prefix, tokens in allowed.items()}


def generate_with_prefixes(
    work: Workload, allowed: dict[tuple[int, ...], list[int]], penalty: float
) -> list[list[tuple[int, float]]]:
    """Decode the published way. Returns (answer, score) of every row, best first."""
    eos = work.codec.eos
    number = {answer: place for place, answer in enumerate(work.codec.answers.tokens)}
    lists = []
    for ids, mask in work.batches:
        width = ids.shape[1]
        output = work.writer.lm.generate(
            input_ids=ids,
            attention_mask=mask,
            prefix_allowed_tokens_fn=lambda _, sequence, width=width: allowed.get(
                tuple(sequence[width:].tolist()), [eos]
            ),
            do_sample=False,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            length_penalty=penalty,
            early_stopping=False,
            max_new_tokens=max(len(answer) for answer in work.codec.answers.tokens),
            eos_token_id=eos,
            pad_token_id=eos,
            return_dict_in_generate=True,
            output_scores=True,
        )
        written = output.sequences[:, width:].tolist()
        answers = [tuple(row[: row.index(eos) + 1]) if eos in row else tuple(row) for row in written]
        scored = [(number.get(a, -1), float(s)) for a, s in zip(answers, output.sequences_scores, strict=True)]
        lists += [scored[start : start + BEAMS] for start in range(0, len(scored), BEAMS)]
    return lists


def decode_ours(work: Workload, trie: DeviceTrie, penalty: float) -> list[BeamResult]:
    """Decode with the tree of answers and the flat trie."""
    return [beam_search(work.writer, work.writer.read(ids, mask), trie, BEAMS, penalty) for ids, mask in work.batches]


Call = tuple[str, tuple[Any, ...]]


class RecordedTree(AnswerTree):
    """A tree that writes down what is asked of it."""

    def __init__(self, log: list[Call], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log = log

    def start(self, *arguments: Any) -> Tensor:
        """See :class:`AnswerTree`."""
        self.log.append(("start", arguments))
        return super().start(*arguments)

    def extend(self, *arguments: Any) -> Tensor:
        """See :class:`AnswerTree`."""
        self.log.append(("extend", arguments))
        return super().extend(*arguments)

    def keep(self, rows: Tensor) -> None:
        """See :class:`AnswerTree`."""
        self.log.append(("keep", (rows,)))
        super().keep(rows)


@dataclass
class Recorder:
    """Remembers the calls of every tree that a search makes, to play them again."""

    calls: list[list[Call]] = field(default_factory=list)

    def tree(self, *arguments: Any) -> AnswerTree:
        """Return a tree that writes its calls down."""
        self.calls.append([])
        return RecordedTree(self.calls[-1], *arguments)


def replay_without_trie(work: Workload, recorder: Recorder) -> None:
    """Make the same model calls; after each, choose the best tokens of the whole vocabulary as plain beams would."""
    for (ids, mask), calls in zip(work.batches, recorder.calls, strict=True):
        tree, head = AnswerTree(work.writer, work.writer.read(ids, mask), BEAMS * 32), LogprobHead(work.writer)
        for name, arguments in calls:
            read = {"start": tree.start, "extend": tree.extend}.get(name)
            if read is None:
                tree.keep(*arguments)
                continue
            token, _, _, real = arguments
            rows = torch.arange(token.numel()) if real is None else real.cpu()
            _best_tokens(head(read(*arguments)), (rows // token.shape[1]).bincount().tolist())


def _best_tokens(logprobs: Tensor, counts: list[int]) -> None:
    """Choose for every row the best tokens; the places of a row, ``counts`` of them, follow each other."""
    best = [of_row.flatten().topk(2 * BEAMS).indices for of_row in logprobs.split(counts) if len(of_row)]
    torch.stack(best).tolist()


def same_lists(ours: Sequence[BeamResult], theirs: list[list[tuple[int, float]]], tolerance: float) -> bool:
    """Whether scores agree, and titles too but for the order of those whose scores are closer than a tie."""
    sequence = torch.cat([result.sequence for result in ours]).tolist()
    score = torch.cat([result.score for result in ours]).tolist()
    for our_titles, our_scores, expected in zip(sequence, score, theirs, strict=True):
        if any(abs(a - b) > tolerance for a, (_, b) in zip(our_scores, expected, strict=True)):
            return False
        for title, (other, value) in zip(our_titles, expected, strict=True):
            tied = {
                t for t, s in zip(our_titles, our_scores, strict=True) if abs(s - value) <= max(TIE, tolerance / 10)
            }
            at_the_end = abs(value - expected[-1][1]) <= TIE
            if title != other and other not in tied and not at_the_end:
                return False
    return True


@dataclass(frozen=True)
class Times:
    """Seconds of several runs of one function: by the wall, and of this process's own work."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def over(self, other: Times, clock: str) -> float:
        """Return the median ratio of runs that stood side by side, which a busy machine slows alike."""
        return statistics.median(a / b for a, b in zip(getattr(self, clock), getattr(other, clock), strict=True))

    @property
    def noise(self) -> float:
        """The slowest run over the fastest."""
        return max(self.wall) / min(self.wall)


def time_in_turns(functions: Sequence[Callable[[], Any]], repeats: int, device: str) -> list[Times]:
    """Time functions in turns."""
    times = [Times() for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.wall.append(time.perf_counter() - wall)
            taken.cpu.append(time.process_time() - cpu)
    return times


def measure(work: Workload, penalty: float, device: str, repeats: int, baseline: bool) -> dict[str, Any]:
    """Time one flavour, all three ways."""
    trie = DeviceTrie.of(work.codec.answers.trie, torch.device(device))
    recorder = Recorder()
    with patch.object(beam, "AnswerTree", recorder.tree):
        ours = decode_ours(work, trie, penalty)
    reads = [arguments for calls in recorder.calls for name, arguments in calls if name != "keep"]
    answer_tokens = sum(token.numel() if real is None else len(real) for token, _, _, real in reads)
    requests = sum(len(ids) for ids, _ in work.batches)

    def decode() -> None:
        decode_ours(work, trie, penalty)

    timed, plain = time_in_turns([decode, lambda: replay_without_trie(work, recorder)], 2 * repeats, device)
    ours_s = statistics.median(timed.wall)
    facts = {
        "ours_s": ours_s,
        "ours_cpu_s": statistics.median(timed.cpu),
        "noise": timed.noise,
        "requests_per_s": requests / ours_s,
        "answer_tokens_per_s": answer_tokens / ours_s,
        "steps": sum(result.steps for result in ours),
        "model_calls": len(reads),
        "constraint_share": 1 - plain.over(timed, "wall"),
        "constraint_share_cpu": 1 - plain.over(timed, "cpu"),
    }
    if baseline:
        allowed = allowed_next(work.codec.answers.tokens)
        theirs: list[list[tuple[int, float]]] = []

        def decode_theirs() -> None:
            theirs[:] = generate_with_prefixes(work, allowed, penalty)

        timed, slow = time_in_turns([decode, decode_theirs], repeats, device)
        facts |= {
            "baseline_s": statistics.median(slow.wall),
            "baseline_cpu_s": statistics.median(slow.cpu),
            "ratio": slow.over(timed, "wall"),
            "ratio_cpu": slow.over(timed, "cpu"),
            "equal": same_lists(ours, theirs, SCORE_TOLERANCE[device.split(":")[0]]),
        }
    return facts


@torch.inference_mode()
def run(
    model: str = "micro",
    device: str = "cpu",
    n_batches: int = 2,
    batch_size: int = 8,
    repeats: int = 3,
    baseline: bool = True,
) -> dict[str, Any]:
    """Time both flavours of length penalty; the row's seconds are their sum, its ratio the smaller of the two.

    Raises:
        DataError: the data set is not there.
    """
    work = make_workload(model, device, n_batches, batch_size)
    flavours = {name: measure(work, penalty, device, repeats, baseline) for name, penalty in PENALTIES.items()}
    ours_s = sum(facts["ours_s"] for facts in flavours.values())
    baseline_s = sum(facts["baseline_s"] for facts in flavours.values()) if baseline else None
    lengths = [int(n) for _, mask in work.batches for n in mask.sum(dim=1)]
    return {
        "name": NAME,
        "ours_s": ours_s,
        "baseline_s": baseline_s,
        "ratio": min(facts["ratio"] for facts in flavours.values()) if baseline else None,
        "equal": all(facts.get("equal", True) for facts in flavours.values()),
        "sizes": {
            "titles": len(work.codec.answers.tokens),
            "requests": len(lengths),
            "batch": batch_size,
            "beams": BEAMS,
            "prompt_tokens": f"{min(lengths)} to {max(lengths)}",
            "model": f"{model}, {work.weights} weights",
            "device": device,
        },
        "flavours": flavours,
    }


def main() -> None:
    """Run with options and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="micro", choices=[*PRESETS, "1.5b"], help="weights' shape (default micro)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batches", type=int, default=2, help="batches to decode (default 2)")
    parser.add_argument("--batch-size", type=int, default=8, help="requests in a batch (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, of which the median counts (default 3)")
    parser.add_argument("--no-baseline", action="store_true", help="time our search only")
    options = parser.parse_args()
    row = run(
        options.model, options.device, options.batches, options.batch_size, options.repeats, not options.no_baseline
    )
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
