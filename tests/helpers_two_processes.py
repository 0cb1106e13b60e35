"""Training stages that a test starts as one process or, by ``torch.distributed.run``, as several."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

from latent.answer_rl import reinforce_answers
from latent.attention import LatentAttention
from latent.config import LatentRlSettings
from latent.reasoner import LatentWriter
from latent.rl import reinforce
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.decode import DecodingConfig
from recbench.llm.sft import SftSettings, fine_tune
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split

#: Asks for FSDP as `accelerate launch` does with benchmarks/distributed/fsdp.yaml.
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


class Killed(Exception):
    """A stage is broken off in all processes."""


def main(backbone: Path, folder: Path, plans: str) -> None:
    """Train tiny models; every process writes the weights, logs and results of each into ``folder``.

    Args:
        plans: JSON, by name: "sft" and perhaps "rl", settings of the stages; "thoughts", 1 by default; "plain", where
            the model has none; "kill", optimizer steps of both stages after which it is broken off once and begun anew.
    """
    torch.set_num_threads(1)
    for name, plan in json.loads(plans).items():
        if "kill" in plan:
            with suppress(Killed):
                train(backbone, folder, name, plan, plan["kill"])
        log, weights, results = train(backbone, folder, name, plan)
        save_file(weights, folder / f"{name}-{number()}.safetensors")
        # Processes other than the first are silent.
        (folder / f"{name}-{number()}.json").write_text(json.dumps({"log": log, "results": results}))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def number() -> int:
    """Return the number of this process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def train(
    backbone: Path, folder: Path, name: str, plan: dict[str, Any], kill: int | None = None
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the log, the weights after each stage, and the stages' results, with the share of weights held."""
    log: list[dict] = []
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder / name, folder, log=lambda record: log.append(dict(record)))
    lm = AutoModelForCausalLM.from_pretrained(backbone)
    plain = plan.get("plain", False)
    attention = LatentAttention(lm.config.hidden_size, 0.3)
    writer = TitleWriter(lm) if plain else LatentWriter(lm, attention, plan.get("thoughts", 1))
    codec, split = TitleCodec(AutoTokenizer.from_pretrained(backbone), ctx.catalog), tiny_split()
    weights, results = {}, []
    with watched(kill) as held:
        sft = SftSettings.model_validate(plan["sft"])
        folders = ctx.work_dir / "sft", ctx.work_dir / "rl"
        results.append(
            fine_tune(writer, codec, split.train, split.valid, sft, folders[0], ctx, DecodingConfig(beams=4))
        )
        weights.update({f"sft.{key}": weight.detach().clone() for key, weight in writer.named_parameters()})
        if "rl" in plan:
            rl = LatentRlSettings.model_validate(plan["rl"])
            arguments = (writer, codec, split.train, rl, folders[1], ctx)
            results.append(reinforce_answers(*arguments)[0] if rl.reward == "match" else reinforce(*arguments))
            weights.update({f"rl.{key}": weight.detach().clone() for key, weight in writer.named_parameters()})
    shared = ["DTensor", "FSDP"]
    assert not [m for m in writer.modules() if any(word in type(m).__name__ for word in shared)]
    assert {type(weight) for weight in writer.parameters()} == {torch.nn.Parameter}
    return log, weights, [{**result.__dict__, "held": sorted(held)} for result in results]


@contextmanager
def watched(kill: int | None) -> Iterator[set[float]]:
    """Inside, the shares of the trained weights that this process holds are added to the set in every step.

    Args:
        kill: steps after which :class:`Killed` is raised.
    """
    held: set[float] = set()
    steps = 0

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal steps
        steps += 1
        if kill is not None and steps > kill:
            raise Killed
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        own = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights]
        held.add(round(sum(part.numel() for part in own) / sum(weight.numel() for weight in weights), 2))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield held
    finally:
        handle.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
