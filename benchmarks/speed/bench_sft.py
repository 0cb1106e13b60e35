"""One step of fine-tuning with a latent thought: loss and gradients of a micro-batch, against two full passes.

Ours reads the prompt once, keeps its keys and values with their gradients, makes the thought, and reads the answer
behind it; the instruction that all prompts share is read once for all of them.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.published_latent import sft_loss
from benchmarks.speed.training_steps import BEGINNING, CONDITIONS, compare_steps, make_work
from recbench.llm.sft import SftObjective

NAME = "sft"
ROWS, PROMPT, ANSWER = 16, 180, 12


def run(repeats: int = 5) -> dict[str, Any]:
    """Time the step with prompts that share an instruction, as all real ones do, and with ones that share nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shared, nothing = (measure(beginning, repeats) for beginning in (BEGINNING, 0))
    finally:
        torch.set_num_threads(threads)
    sizes = {"rows": ROWS, "prompt_tokens": PROMPT, "shared_tokens": BEGINNING, "answer_tokens": ANSWER}
    return {
        "name": NAME,
        **shared,
        "sizes": {**sizes, **CONDITIONS, "repeats": repeats},
        "nothing_shared": nothing,
    }


def measure(beginning: int, repeats: int, model: str = "micro", device: str = "cpu") -> dict[str, Any]:
    """Time the step with prompts that share their first ``beginning`` tokens."""
    work = make_work(model, ROWS, PROMPT, ANSWER, beginning, device)
    objective = SftObjective(work.writer)
    return compare_steps(
        work,
        lambda: objective(**work.batch)["loss"],
        lambda: sft_loss(work.writer.lm, work.attention, work.sequences),
        repeats,
    )
