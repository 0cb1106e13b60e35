"""One step of LR-GRPO: rewards, loss and gradients of a few prompts, against 2 + 2 full passes over K copies of each.

Ours reads the frozen model's prompt once, without gradients, and all samples side by side behind it, once.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.published_latent import rl_loss
from benchmarks.speed.training_steps import BEGINNING, CONDITIONS, compare_steps, make_work
from latent.policy import LatentPolicy
from latent.rl_config import RlSettings

NAME = "rl"
GROUPS, SAMPLES, PROMPT, ANSWER = 4, 8, 180, 12


def run(repeats: int = 3) -> dict[str, Any]:
    """Time the step with prompts that share an instruction, as all real ones do, and with ones that share nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shared, nothing = (measure(beginning, repeats) for beginning in (BEGINNING, 0))
    finally:
        torch.set_num_threads(threads)
    sizes = {"prompts": GROUPS, "samples": SAMPLES, "prompt_tokens": PROMPT, "shared_tokens": BEGINNING}
    return {
        "name": NAME,
        **shared,
        "sizes": {**sizes, "answer_tokens": ANSWER, **CONDITIONS, "repeats": repeats},
        "nothing_shared": nothing,
    }


def measure(beginning: int, repeats: int, model: str = "micro", device: str = "cpu") -> dict[str, Any]:
    """Time the step with prompts that share their first ``beginning`` tokens."""
    work = make_work(model, GROUPS, PROMPT, ANSWER, beginning, device)
    work.writer.lm.requires_grad_(False)
    settings = RlSettings(samples=SAMPLES)
    policy = LatentPolicy(work.writer, settings, seed=0)
    batch = {**work.batch, "example_id": torch.arange(GROUPS, device=device)}
    noise = policy.noise(range(GROUPS), work.prompt_ids.new_zeros(work.writer.lm.config.hidden_size).float())
    return compare_steps(
        work,
        lambda: policy(**batch)["loss"],
        lambda: rl_loss(work.writer.lm, work.attention, work.sequences, noise, settings.scope)[0],
        repeats,
    )
