"""What a rollout leaves behind to learn from: sampled texts, their log-probabilities, and what they were worth.

Dimensions: G prompts, K samples per prompt, R = G K rows, T tokens of a text (right-padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from recbench.artifacts.files import read_json, write_json
from recbench.llm.grpo import clip_fraction, kl_penalty, policy_loss


@dataclass(frozen=True)
class Experience:
    """What is kept of one prompt's rollout while it is learned from.

    Attributes:
        tokens: the K texts.
        old_logprobs: float32 (K, T), under the model that wrote them; 0 where padded.
        reference_logprobs: float32 (K, T), under the starting model; None without KL.
        advantages: float32 (K,).
    """

    tokens: Sequence[Sequence[int]]
    old_logprobs: Tensor
    reference_logprobs: Tensor | None
    advantages: Tensor


def cut_experiences(
    tokens: Sequence[Sequence[int]], logprobs: Tensor, reference: Tensor | None, advantages: Tensor
) -> list[Experience]:
    """Cut a rollout of R rows into the experiences of its prompts; ``advantages`` is (G, K)."""
    samples = advantages.shape[1]
    return [
        Experience(
            tokens[start : start + samples],
            logprobs[start : start + samples],
            None if reference is None else reference[start : start + samples],
            advantages[start // samples],
        )
        for start in range(0, len(tokens), samples)
    ]


def experience_loss(
    logprobs: Tensor, mask: Tensor, past: Sequence[Experience], clips: tuple[float, float], beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the clipped policy loss of texts that were sampled before, + ``beta`` KL(policy || starting model).

    Args:
        logprobs: (R, T), of the experiences' tokens under the model as it is now, with gradients.
        mask: int64 (R, T).
        past: R / K experiences, in the rows' order.
        clips: how far the ratio may go below and above 1.
        beta: weight of the KL, which needs experiences with ``reference_logprobs``.

    Returns:
        The loss (a scalar), and what is worth a note: "clip_fraction" and, where it was measured, "kl".
    """
    width = mask.shape[1]
    advantages = torch.cat([experience.advantages for experience in past])
    old = _joined([experience.old_logprobs for experience in past], width)
    loss = policy_loss(logprobs, old, advantages, mask, *clips)
    notes = {"clip_fraction": clip_fraction(logprobs, old, advantages, mask, *clips)}
    reference = [experience.reference_logprobs for experience in past if experience.reference_logprobs is not None]
    if reference:
        notes["kl"] = kl_penalty(logprobs, _joined(reference, width), mask)
        loss = loss + beta * notes["kl"]
    return loss, notes


def _joined(parts: Sequence[Tensor], width: int) -> Tensor:
    """Return (R, ``width``): the rows of all parts (K, T), cut or padded with 0 at their ends."""
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def pad_texts(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both int64 (R, T), padded on the right."""
    parts = [torch.tensor(row, dtype=torch.int64) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()
    return ids.to(device), mask.to(device)


class GroupCount:
    """Prompts so far, and those whose K rewards were equal, which have no advantage and so no policy gradient.

    It is kept on disk per optimizer step: steps behind the checkpoint that a stage resumes from are counted afresh.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stored = read_json(path) if path.exists() else {}
        self._steps: dict[int, list[int]] = {int(step): counts for step, counts in stored.items()}
        self._begun: set[int] = set()

    def add(self, step: int, groups: int, equal: int) -> None:
        """Count a forward pass's prompts, over all processes."""
        if step not in self._begun:
            self._begun.add(step)
            self._steps[step] = [0, 0]
        everywhere = reduce(torch.tensor([groups, equal], device=PartialState().device), reduction="sum").tolist()
        self._steps[step] = [old + new for old, new in zip(self._steps[step], everywhere, strict=True)]
        if PartialState().is_main_process:
            write_json(self.path, self._steps)

    def totals(self) -> dict[str, int]:
        """Return all rollouts' prompts ("groups") and those of equal rewards ("zero_variance_groups")."""
        groups, equal = (sum(counts[place] for counts in self._steps.values()) for place in (0, 1))
        return {"groups": groups, "zero_variance_groups": equal}
