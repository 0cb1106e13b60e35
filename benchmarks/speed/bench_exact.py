"""The true ten best titles of every query against a ten-beam search that misses some: what does the proof cost?

Both search the same tree of the same trained model, batch by batch in turn. A model that was trained is needed: the
work of an exact search depends on how much of its probability the model gives to few titles. Preset backbones are
fine-tuned for one epoch on 24,000 training rows the first time (the time is in the output) and kept in RECBENCH_HOME.
``--rows all`` takes every training row, as a model in use would be trained: hours on a CPU, and less work per proof.
Reading the prompts is the same for both and not counted, but in ``times_beam_with_prompts``: what a request costs.
``times_published`` compares that with what a request costs the published way, whose beam search is that of
``bench_decode``, on the shortest and the longest batch of prompts.

For a few queries the whole catalogue is scored. That tells how many tokens every proof must look at: a search that
knows no more of an unread token than that its log-probability is at most 0 can rule nothing out earlier.

``python -m benchmarks.speed.bench_exact --help`` lists options for other data sets, backbones and sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.speed.bench_decode import Workload, allowed_next, generate_with_prefixes
from benchmarks.speed.trained import SEED, Trained, trained_writer
from recbench.contracts.errors import DataError
from recbench.contracts.seeding import numpy_rng
from recbench.llm.beam import BeamResult, DeviceTrie, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.exact import BoundedTrie, ExactResult, ExactSettings, exact_search
from recbench.llm.trie import build_trie
from recbench.llm.writer import Prefix, TitleWriter

NAME = "exact"
TITLES = 10
PENALTIES = {"d3": 0.0, "bigrec": 1.0}
TRAINING_ROWS = 24_000
# Queries whose whole catalogue is scored, and titles scored at once.
SCORED_QUERIES, SCORED_AT_ONCE = 2, 128
# The aims: exact time as a multiple of the beam's, at 95% proven.
AIMS = {"d3": 3.0, "bigrec": 8.0}
CASES = (("beauty_2014", "micro"), ("ml-100k", "nano"))
TOLERANCE = 1e-3


def run() -> dict[str, Any]:
    """Measure all cases whose backbone is pretrained on this machine; the first one by sums gives the headline."""
    measured, left_out = [], {}
    for dataset, backbone in CASES:
        try:
            trained = trained_writer(dataset, backbone, TRAINING_ROWS, pretrain=False)
        except DataError as error:
            left_out[f"{dataset}, {backbone}"] = error.message
            print(f"Left out: {dataset}, {backbone}: {error}", file=sys.stderr)
            continue
        measured.append(measure(trained, dataset, backbone))
    if not measured:
        raise DataError("No case of the benchmark 'exact' can be measured here.", "; ".join(left_out.values()))
    first = measured[0]["searches"]["d3"]
    return {
        "name": NAME,
        "ours_s": first["exact_s"],
        "baseline_s": first["beam_s"],
        "ratio": first["beam_s"] / first["exact_s"],
        "equal": all(search["consistent"] for case in measured for search in case["searches"].values()),
        "sizes": {"titles_wanted": TITLES, "cases": measured, "left_out": left_out},
    }


def measure(
    trained: Trained, dataset: str, backbone: str, n_batches: int = 8, batch_size: int = 8,
    settings: ExactSettings | None = None, scored_queries: int = SCORED_QUERIES,
) -> dict[str, Any]:  # fmt: skip
    """Search for the best titles of test queries both ways, for both flavours."""
    codec, test = trained.codec, trained.split.test
    rows = np.sort(numpy_rng(SEED, "bench-exact").choice(len(test), n_batches * batch_size, replace=False))
    prompts = sorted(codec.prompts(test.take(rows).queries()), key=len)
    batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    trie = DeviceTrie.of(build_trie(codec.answers.tokens), torch.device(trained.writer.device))
    settings = settings or ExactSettings()
    searches = {flavour: _compare(trained, trie, batches, penalty, settings) for flavour, penalty in PENALTIES.items()}
    chosen = np.linspace(0, len(prompts) - 1, scored_queries).round().astype(int)
    needed = least_expansions(trained.writer, codec, trie, [prompts[place] for place in chosen], TITLES)
    for flavour, aim in AIMS.items():
        search = searches[flavour]
        search["least_expansions"] = needed[flavour]
        search["aim"] = f"95% proven within {aim:g} times the beam's time"
        search["reached"] = search["proven_share"] >= 0.95 and search["times_beam"] <= aim
    return {
        "dataset": dataset,
        "backbone": backbone,
        "catalogue_titles": len(codec.answers.tokens),
        "mean_title_tokens": float(np.mean([len(answer) for answer in codec.answers.tokens])),
        "mean_prompt_tokens": float(np.mean([len(prompt) for prompt in prompts])),
        "queries": len(prompts),
        "batch_size": batch_size,
        "training": trained.facts,
        "settings": settings.model_dump(),
        "searches": searches,
    }


def _compare(
    trained: Trained, trie: DeviceTrie, batches: Sequence[Sequence[Sequence[int]]], penalty: float,
    settings: ExactSettings,
) -> dict[str, Any]:  # fmt: skip
    writer, bounded = trained.writer, BoundedTrie.of(trie, penalty)
    read_s, beam_s, exact_s, missed, exact_steps, beam_steps = [], [], [], [], 0, 0
    proven: list[bool] = []
    expansions: list[int] = []
    consistent = True
    with torch.inference_mode():
        for batch in batches:
            ids, mask = trained.codec.pad_prompts(batch, writer.device)
            seconds, prefix = _timed(lambda i=ids, m=mask: writer.read(i, m))
            read_s.append(seconds)
            seconds, beam = _timed(lambda p=prefix: beam_search(writer, p, trie, TITLES, penalty))
            beam_s.append(seconds)
            seconds, exact = _timed(lambda p=prefix: exact_search(writer, p, bounded, TITLES, settings))
            exact_s.append(seconds)
            beam_steps += beam.steps
            exact_steps += exact.steps
            proven += exact.proven.tolist()
            expansions += exact.expansions.tolist()
            missed += _missed(beam, exact)
            consistent &= _is_consistent(trained, prefix, beam, exact, penalty)
    return {
        "times_beam": sum(exact_s) / sum(beam_s),
        "times_beam_with_prompts": (sum(exact_s) + sum(read_s)) / (sum(beam_s) + sum(read_s)),
        "times_published": _times_published(
            trained, batches, penalty, [r + e for r, e in zip(read_s, exact_s, strict=True)]
        ),
        "times_beam_median_batch": statistics.median(e / b for e, b in zip(exact_s, beam_s, strict=True)),
        "read_s": statistics.median(read_s),
        "beam_s": statistics.median(beam_s),
        "exact_s": statistics.median(exact_s),
        "proven_share": float(np.mean(proven)),
        "expansions": {
            "mean": float(np.mean(expansions)),
            "p95": float(np.percentile(expansions, 95)),
            "max": max(expansions),
        },
        "steps": {"beam": beam_steps, "exact": exact_steps},
        "true_titles_missed_by_beam": float(np.mean(missed)),
        "consistent": consistent,
    }


def _times_published(
    trained: Trained, batches: Sequence[Sequence[Sequence[int]]], penalty: float, exact_s: Sequence[float]
) -> float:
    """Return how many times the published beam search's time the exact search takes, prompts included."""
    allowed = allowed_next(trained.codec.answers.tokens)
    chosen = sorted({0, len(batches) - 1})
    padded = [trained.codec.pad_prompts(batches[place], trained.writer.device) for place in chosen]
    work = Workload(trained.writer, trained.codec, padded, weights="fine-tuned")
    seconds, _ = _timed(lambda: generate_with_prefixes(work, allowed, penalty))
    return sum(exact_s[place] for place in chosen) / seconds


@torch.inference_mode()
def least_expansions(
    writer: TitleWriter, codec: TitleCodec, trie: DeviceTrie, prompts: Sequence[Sequence[int]], n_titles: int
) -> dict[str, list[int]]:
    """Return how many nodes every proof of a query's ``n_titles`` best titles must expand, by flavour.

    A node must be expanded if its sum of log-probabilities could still grow into a better score than that of the last
    listed title. The whole catalogue is scored to know the sums of all nodes and the true list.
    """
    answers = codec.answers.tokens
    order = np.argsort([len(answer) for answer in answers], kind="stable")
    nodes = nodes_of_sequences(trie)
    is_leaf = trie.leaf.cpu() >= 0
    divisors = {flavour: BoundedTrie.of(trie, penalty).divisor.cpu() for flavour, penalty in PENALTIES.items()}
    found: dict[str, list[int]] = {flavour: [] for flavour in PENALTIES}
    for prompt in prompts:
        prefix = writer.read(*codec.pad_prompts([prompt], writer.device))
        total = torch.zeros(len(is_leaf), dtype=torch.float64)
        for start in range(0, len(order), SCORED_AT_ONCE):
            some = order[start : start + SCORED_AT_ONCE]
            labels = codec.pad_answers([answers[number] for number in some]).to(writer.device)
            mask = labels != -100
            logprob = writer.answer_logprobs(prefix.repeat(len(some)), labels.clamp(min=0), mask.long())
            total[torch.cat([nodes[number] for number in some])] = logprob.double().cumsum(1)[mask].cpu()
        for flavour, divisor in divisors.items():
            bound = total / divisor
            last_listed = bound[is_leaf].topk(n_titles).values[-1]
            found[flavour].append(int((~is_leaf & (bound > last_listed)).sum()))
    return found


def nodes_of_sequences(trie: DeviceTrie) -> list[torch.Tensor]:
    """Return the nodes on the path of every sequence, the root left out, int64 (tokens,)."""
    first_child, leaf = trie.first_child.cpu(), trie.leaf.cpu()
    parent = torch.repeat_interleave(torch.arange(len(leaf)), first_child.diff())
    parent = torch.cat([torch.tensor([-1]), parent]).tolist()
    ends = {int(leaf[node]): int(node) for node in (leaf >= 0).nonzero().squeeze(1)}
    paths = []
    for number in range(len(ends)):
        node, path = ends[number], []
        while node > 0:
            path.append(node)
            node = parent[node]
        paths.append(torch.tensor(path[::-1]))
    return paths


def _timed(work: Any) -> tuple[float, Any]:
    """Return CPU seconds of this process: the machine may be busy with other work."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _missed(beam: BeamResult, exact: ExactResult) -> list[int]:
    lists = zip(beam.sequence.tolist(), exact.sequence[:, :TITLES].tolist(), exact.proven.tolist(), strict=True)
    return [len(set(true) - set(found)) for found, true, is_proven in lists if is_proven]


def _is_consistent(trained: Trained, prefix: Prefix, beam: BeamResult, exact: ExactResult, penalty: float) -> bool:
    """Check the first titles' scores by plain scoring, and that no beam beats a proven list at any place."""
    answers = trained.codec.answers.tokens
    first, best = exact.sequence[:, 0], exact.score[:, :TITLES]
    # An unproven list may be empty: any title stands in for its missing first one, which is then not looked at.
    labels = trained.codec.pad_answers([answers[number] for number in first.clamp(min=0).tolist()]).to(first.device)
    mask = (labels != -100).long()
    plain = trained.writer.answer_logprobs(prefix, labels.clamp(min=0), mask).double().sum(1)
    plain = plain / mask.sum(1).double() ** penalty
    right = ((plain - best[:, 0]).abs() < TOLERANCE * (1 + plain.abs())) | (first < 0)
    not_beaten = (best >= beam.score.double() - TOLERANCE).all(dim=1) | ~exact.proven
    return bool(right.all()) and bool(not_beaten.all())


def row_count(text: str) -> int | None:
    """Read a number of rows, or "all"."""
    return None if text == "all" else int(text)


def main(arguments: list[str] | None = None) -> int:
    """Measure one case and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.bench_exact", description=__doc__)
    parser.add_argument("--dataset", default="beauty_2014")
    parser.add_argument("--backbone", default="micro", help="a preset; it is pretrained where that was not done")
    parser.add_argument(
        "--rows",
        type=row_count,
        default=TRAINING_ROWS,
        help=f"training rows of fine-tuning, or all (default {TRAINING_ROWS})",
    )
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--scored",
        type=int,
        default=SCORED_QUERIES,
        help="queries whose whole catalogue is scored, to count what a proof needs",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    defaults = ExactSettings()
    for name, value in defaults.model_dump().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    trained = trained_writer(options.dataset, options.backbone, options.rows, options.epochs)
    settings = ExactSettings(**{name: getattr(options, name) for name in defaults.model_dump()})
    case = measure(
        trained, options.dataset, options.backbone, options.batches, options.batch_size, settings, options.scored
    )
    print(json.dumps(case, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
