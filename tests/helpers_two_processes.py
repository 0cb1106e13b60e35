"""A stage of fine-tuning that a test starts as one process or, by ``torch.distributed.run``, as several."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec
from recbench.llm.sft import SftSettings, fine_tune
from recbench.llm.writer import TitleWriter
from recbench.testing.tiny import tiny_catalog, tiny_split


def main(backbone: Path, folder: Path, settings: str) -> None:
    """Fine-tune a tiny model; process 0 writes its weights, its log and the result into ``folder``."""
    torch.set_num_threads(1)
    log: list[dict] = []
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder, log=lambda record: log.append(dict(record)))
    writer = TitleWriter(AutoModelForCausalLM.from_pretrained(backbone))
    codec = TitleCodec(AutoTokenizer.from_pretrained(backbone), ctx.catalog)
    split, config = tiny_split(), SftSettings.model_validate_json(settings)
    result = fine_tune(writer, codec, split.train, split.valid, config, ctx.work_dir, ctx)
    distributed = torch.distributed.is_initialized()
    number = torch.distributed.get_rank() if distributed else 0
    save_file({name: weight.detach() for name, weight in writer.named_parameters()}, folder / f"{number}.safetensors")
    # Processes other than the first are silent.
    (folder / f"{number}.json").write_text(json.dumps({"log": log, "result": result.__dict__}))
    if distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
