"""Training stages that a test starts as one process or, by ``torch.distributed.run``, as several."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from latent.rl import reinforce
from latent.rl_config import RlSettings
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.sft import SftSettings, fine_tune
from recbench.testing.tiny import tiny_catalog, tiny_split


def main(backbone: Path, folder: Path, sft: str, rl: str) -> None:
    """Train a tiny model with a thought; every process writes its weights, its log and the results into ``folder``.

    Args:
        sft, rl: settings of the two stages, as JSON.
    """
    torch.set_num_threads(1)
    log: list[dict] = []
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder, log=lambda record: log.append(dict(record)))
    lm = AutoModelForCausalLM.from_pretrained(backbone)
    writer = LatentWriter(lm, LatentAttention(lm.config.hidden_size, 0.3))
    codec, split = TitleCodec(AutoTokenizer.from_pretrained(backbone), ctx.catalog), tiny_split()
    results = []
    settings = SftSettings.model_validate_json(sft)
    results.append(fine_tune(writer, codec, split.train, split.valid, settings, ctx.work_dir / "sft", ctx))
    warm = {f"sft.{name}": weight.detach().clone() for name, weight in writer.named_parameters()}
    results.append(reinforce(writer, codec, split.train, RlSettings.model_validate_json(rl), ctx.work_dir / "rl", ctx))
    distributed = torch.distributed.is_initialized()
    number = torch.distributed.get_rank() if distributed else 0
    weights = {name: weight.detach() for name, weight in writer.attention.named_parameters()}
    save_file({**warm, **weights}, folder / f"{number}.safetensors")
    # Processes other than the first are silent.
    (folder / f"{number}.json").write_text(json.dumps({"log": log, "results": [r.__dict__ for r in results]}))
    if distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
