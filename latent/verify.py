"""``python -m latent.verify FOLDER [--json]``: does this machine compute LatentR3 as the published code does?

Run it on a new torch, transformers or GPU stack before you trust the numbers. It computes every quantity of a golden
set with the code that recbench trains and ranks with, and prints the largest error, the tolerance and pass or fail.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from latent.golden import GoldenSet, read_golden
from latent.objective import batch_advantage
from latent.reasoner import LatentWriter
from recbench.contracts.errors import RecbenchError
from recbench.llm.beam import BeamResult, DeviceTrie, beam_search
from recbench.llm.exact import BoundedTrie, ExactSettings, exact_search
from recbench.llm.grpo import group_advantage, perplexity_reward, policy_loss
from recbench.llm.trie import build_trie
from recbench.llm.writer import Prefix, mean_answer_loss, token_logprobs

ABSOLUTE = 1e-5
RELATIVE = 1e-4
ADVANTAGE = 5e-5
BEAM_SCORE = 2e-5


@dataclass(frozen=True)
class Check:
    """One quantity: its largest error, measured as ``kind`` says, and the tolerance."""

    name: str
    error: float
    tolerance: float
    kind: str

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


def verify(golden: GoldenSet) -> list[Check]:
    """Compare our implementation with every quantity of a golden set."""
    parts: tuple[Callable[[GoldenSet], Iterator[Check]], ...] = (_forward, _inference, _sft, _rl, _beam)
    return [check for part in parts for check in part(golden)]


def _absolute(name: str, ours: Tensor, theirs: Tensor, tolerance: float = ABSOLUTE) -> Check:
    # Float32 rounding grows with the values: a sum of log-probabilities of -70 is known to 1e-5 at best.
    rounding = 1e-6 * float(theirs.abs().max())
    return Check(name, float((ours - theirs).abs().max()), tolerance + rounding, "largest absolute difference")


def _relative(name: str, ours: Tensor, theirs: Tensor) -> Check:
    error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    return Check(name, error, RELATIVE, "relative L2 difference")


def _left_padded(rows: list[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=fill) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    return ids, mask


def _right_padded(rows: list[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    ids, mask = _left_padded([row.flip(0) for row in rows], fill)
    return ids.flip(1), mask.flip(1)


def _batch(golden: GoldenSet) -> tuple[list[Tensor], list[Tensor]]:
    """Return the batch's prompts (without thought token) and answers, unpadded."""
    prompts, answers = [], []
    for ids, n_prompt, n_target in zip(
        golden["batch.input_ids"], golden["batch.prompt_lens"], golden["batch.target_lens"], strict=True
    ):
        prompts.append(ids[: n_prompt - 1])
        answers.append(ids[n_prompt : n_prompt + n_target])
    return prompts, answers


@torch.no_grad()
def _forward(golden: GoldenSet) -> Iterator[Check]:
    writer = golden.writer()
    ids, mask = golden["batch.input_ids"], golden["batch.attention_mask"]
    hidden = writer.lm.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    yield _absolute("fwd.H_pass1", hidden[real], golden["fwd.H_pass1"][real])

    prompts, answers = _batch(golden)
    prefix = writer.read(*_left_padded(prompts, golden.eos))
    yield _absolute("fwd.r", prefix.pending[:, 0], golden["fwd.r"])
    answer_ids, answer_mask = _right_padded(answers, golden.eos)
    logits = writer.logits(writer.answer_hidden(prefix, answer_ids, answer_mask))
    real = answer_mask.bool()
    yield _absolute("fwd.target_logits", logits[real], golden["fwd.target_logits"])
    logprobs = token_logprobs(logits, answer_ids)
    yield _absolute("fwd.target_token_logps", logprobs[real], golden["fwd.target_token_logps"])


@torch.no_grad()
def _inference(golden: GoldenSet) -> Iterator[Check]:
    writer = golden.writer()
    ids, mask = golden["infer.left_input_ids"], golden["infer.left_attention_mask"]
    prefix = writer.read(ids[:, :-1], mask[:, :-1])
    yield _absolute("infer.next_token_logits", _first_logits(writer, prefix), golden["infer.next_token_logits"])
    alone = [
        _first_logits(writer, writer.read(row[kept.bool()][None, :-1], kept[kept.bool()][None, :-1]))
        for row, kept in zip(ids, mask, strict=True)
    ]
    yield _absolute("infer.next_token_logits, each row alone", torch.cat(alone), golden["infer.next_token_logits"])


def _first_logits(writer: LatentWriter, prefix: Prefix) -> Tensor:
    answer = torch.zeros((prefix.mask.shape[0], 1), dtype=torch.int64)
    return writer.logits(writer.answer_hidden(prefix, answer, torch.ones_like(answer))[:, -1])


def _sft(golden: GoldenSet) -> Iterator[Check]:
    writer = golden.writer()
    prompts, answers = _batch(golden)
    answer_ids, answer_mask = _right_padded(answers, golden.eos)
    prefix = writer.read(*_left_padded(prompts, golden.eos))
    loss = mean_answer_loss(writer.answer_logprobs(prefix, answer_ids, answer_mask), answer_mask)
    loss.backward()
    yield _relative("sft.loss", loss.detach().reshape(1), golden["sft.loss"])
    gradients = _gradients(writer)
    for match in golden.names(r"sft\.grad\.(.+)"):
        yield _relative(match[0], gradients[match[1]], golden[match[0]])
    for name, norm in golden.manifest.get("scalars", {}).get("sft_grad_l2", {}).items():
        ours = gradients[name].norm().reshape(1)
        yield _relative(f"sft_grad_l2 {name}", ours, torch.tensor([norm]))


def _gradients(writer: LatentWriter) -> dict[str, Tensor]:
    """Return all gradients under the names of the weights file."""
    return {
        name.removeprefix("lm."): parameter.grad
        for name, parameter in writer.named_parameters()
        if parameter.grad is not None
    }


@dataclass(frozen=True)
class _Rollout:
    """One group of a golden RL batch, ready to be scored."""

    name: str
    golden: GoldenSet

    def logprobs(self, writer: LatentWriter) -> Tensor:
        """Return (K, T): log-probabilities of the true answer under the K noisy thoughts."""
        noise, answer = self.golden[f"{self.name}.noise"], self.golden[f"{self.name}.target_ids"]
        row, mask = self.golden[f"{self.name}.input_ids"], self.golden[f"{self.name}.attention_mask"]
        kept = slice(None, -len(answer) - 1)
        with torch.no_grad():
            cache, hidden = writer.read_hidden(row[:, kept], mask[:, kept])
        prefix = writer.think(cache, hidden, mask[:, kept]).repeat(len(noise))
        noisy = Prefix(prefix.cache, prefix.mask, prefix.pending + noise[:, None])
        answers = answer.expand(len(noise), -1)
        return writer.answer_logprobs(noisy, answers, torch.ones_like(answers))


def _rl(golden: GoldenSet) -> Iterator[Check]:
    writer = golden.writer()
    writer.lm.requires_grad_(False)
    groups = [_Rollout(match[1], golden) for match in golden.names(r"(rl\.group\d+)\.noise")]
    logprobs = [group.logprobs(writer) for group in groups]
    rewards = torch.stack([perplexity_reward(lp.detach(), torch.ones_like(lp)) for lp in logprobs])
    yield _relative("rl.rewards", rewards.flatten(), golden["rl.rewards"])
    variants = {"": batch_advantage(rewards), "groupwise.": group_advantage(rewards)}
    for index, group in enumerate(groups):
        name = f"{group.name}.token_logps"
        yield _absolute(name, logprobs[index].detach(), golden[name])
        for variant, advantages in variants.items():
            prefix = f"{group.name}.{variant}"
            expected = golden[f"{prefix}advantages"]
            yield _absolute(f"{prefix}advantages", advantages[index], expected, ADVANTAGE)
            yield from _policy_checks(writer, golden, prefix, logprobs[index], advantages[index])
    yield from _off_policy(golden, groups, variants[""])


def _policy_checks(
    writer: LatentWriter,
    golden: GoldenSet,
    prefix: str,
    logprobs: Tensor,
    advantages: Tensor,
    old_logprobs: Tensor | None = None,
) -> Iterator[Check]:
    """Compare the loss of one group and its gradients, which stand in the set as ``<prefix>grad.<parameter>``."""
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    loss = policy_loss(logprobs, old, advantages, torch.ones_like(logprobs))
    writer.zero_grad()
    loss.backward(retain_graph=True)
    yield _absolute(f"{prefix}loss", loss.detach().reshape(1), golden[f"{prefix}loss"], ADVANTAGE)
    gradients = _gradients(writer)
    for match in golden.names(rf"{re.escape(prefix)}grad\.(.+)"):
        yield _relative(match[0], gradients[match[1]], golden[match[0]])


def _off_policy(golden: GoldenSet, groups: list[_Rollout], advantages: Tensor) -> Iterator[Check]:
    shifted = golden.writer()
    shifted.lm.requires_grad_(False)
    with torch.no_grad():
        for name, parameter in shifted.attention.named_parameters():
            parameter.add_(golden[f"rl.offpolicy.delta.attention.{name}"])
    for index, group in enumerate(groups):
        yield from _policy_checks(
            shifted,
            golden,
            f"{group.name}.offpolicy.",
            group.logprobs(shifted),
            advantages[index],
            golden[f"{group.name}.token_logps"],
        )


@torch.no_grad()
def _beam(golden: GoldenSet) -> Iterator[Check]:
    writer = golden.writer()
    ids, mask = golden["beam.prompt_input_ids"][:, :-1], golden["beam.prompt_attention_mask"][:, :-1]
    sequences = [
        (*row[:length].tolist(), golden.eos)
        for row, length in zip(golden["beam.titles"], golden["beam.title_lens"], strict=True)
    ]
    distinct = list(dict.fromkeys(sequences))
    # Titles that several items share are one sequence; the set names them by the lowest index.
    item_of = torch.tensor([sequences.index(sequence) for sequence in distinct])
    trie = DeviceTrie.of(build_trie(distinct), ids.device)
    prefix = writer.read(ids, mask)

    answer_ids, answer_mask = _right_padded([torch.tensor(s) for s in sequences], golden.eos)
    rows = ids.shape[0]
    scored = writer.answer_logprobs(
        prefix.repeat(len(sequences)), answer_ids.repeat(rows, 1), answer_mask.repeat(rows, 1)
    )
    yield _absolute("beam.exact_sum_logp", scored.sum(-1).view(rows, -1), golden["beam.exact_sum_logp"])
    wrong = (answer_mask.sum(1) != golden["beam.exact_len_incl_eos"]).sum()
    yield Check("beam.exact_len_incl_eos", float(wrong), 0.0, "titles of another length")

    tokens, _ = _right_padded([torch.tensor(s) for s in distinct], golden.eos)
    for match in golden.names(r"beam\.lp(-?[\d.]+)\.single\.scores"):
        name, penalty = match[0].removesuffix(".scores"), float(match[1])
        scores, items = golden[match[0]], golden[f"{name}.item_index"]
        together = beam_search(writer, prefix, trie, scores.shape[1], penalty)
        alone = [beam_search(writer, _row(writer, ids, mask, r), trie, scores.shape[1], penalty) for r in range(rows)]
        merged = BeamResult(torch.cat([a.sequence for a in alone]), torch.cat([a.score for a in alone]), 0)
        for result, label in ((together, name), (merged, f"{name}, each row alone")):
            found = _named(result.sequence, item_of)
            yield from _list_checks(label, found, result.score, items, scores)
            yield _tokens_check(label, tokens[result.sequence], golden[f"{name}.sequences"], found == items)

    for match in golden.names(r"beam\.lp(-?[\d.]+)\.exact_ranking_distinct"):
        items, penalty = golden[match[0]].long(), float(match[1])
        totals, lengths = golden["beam.exact_sum_logp"].double(), golden["beam.exact_len_incl_eos"].double()
        scores = totals.gather(1, items) / lengths[items] ** penalty
        exact = exact_search(writer, prefix, BoundedTrie.of(trie, penalty), items.shape[1], ExactSettings())
        yield Check(f"{match[0]}.proven", float((~exact.proven).sum()), 0.0, "lists without proof")
        yield from _list_checks(match[0], _named(exact.sequence, item_of), exact.score, items, scores)


def _row(writer: LatentWriter, ids: Tensor, mask: Tensor, row: int) -> Prefix:
    kept = mask[row].bool()
    return writer.read(ids[row : row + 1, kept], mask[row : row + 1, kept])


def _named(sequence: Tensor, item_of: Tensor) -> Tensor:
    """Return the item numbers of sequence numbers, -1 where a place is empty."""
    return torch.where(sequence >= 0, item_of[sequence.clamp(min=0)], -1)


def _tokens_check(name: str, ours: Tensor, theirs: Tensor, same_title: Tensor) -> Check:
    """Compare the tokens of titles, filled with the end token, in the places that hold the same title."""
    width = min(ours.shape[2], theirs.shape[2])
    wrong = (ours[..., :width] != theirs[..., :width]).any(dim=2) & same_title
    return Check(f"{name}.sequences", float(wrong.sum()), 0.0, "titles of other tokens")


def _list_checks(
    name: str, items: Tensor, scores: Tensor, their_items: Tensor, their_scores: Tensor
) -> Iterator[Check]:
    yield _absolute(f"{name}.scores", scores, their_scores, BEAM_SCORE)
    # Two titles may swap places only where the reference scores them alike.
    wrong = 0
    for ours, theirs, score in zip(items, their_items, their_scores, strict=True):
        for place in (ours != theirs).nonzero().flatten().tolist():
            same = (theirs == ours[place]).nonzero().flatten()
            gap = abs(float(score[same[0]] - score[place])) if len(same) else float("inf")
            wrong += gap > BEAM_SCORE
    yield Check(f"{name}.item_index", float(wrong), 0.0, "places with another title")


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with manifest.json, weights and golden tensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare this machine's LatentR3 with golden numbers of the published code.

    Exit code 0 if all pass, 1 if one fails, 3 if the folder cannot be read.
    """
    try:
        checks = verify(read_golden(folder))
    except RecbenchError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    failed = [check.name for check in checks if not check.passed]
    if as_json:
        rows = [{**asdict(check), "passed": check.passed} for check in checks]
        typer.echo(json.dumps({"folder": folder.name, "passed": not failed, "checks": rows}, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            verdict = "pass" if check.passed else "FAIL"
            typer.echo(f"{verdict}  {check.name:<{width}}  error {check.error:.2e}  tolerance {check.tolerance:.0e}")
        typer.echo(f"{len(checks) - len(failed)} of {len(checks)} quantities agree with the published code.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
