"""Fine-tuned language models on disk, in the form that ``from_pretrained`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from recbench.artifacts.files import read_json, write_json
from recbench.contracts.method import RunContext
from recbench.llm.quiet import no_progress_bars

_FACTS = "facts.json"


def save_lm(folder: Path, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any]) -> None:
    """Write a model (safetensors), its tokenizer and plain facts about its training."""
    with no_progress_bars():
        lm.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    write_json(folder / _FACTS, facts)


def load_lm(folder: Path, ctx: RunContext) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Read what :func:`save_lm` wrote, onto the run's device, in the precision it was saved in."""
    with no_progress_bars():
        lm = AutoModelForCausalLM.from_pretrained(folder / "lm", dtype="auto")
    return lm.to(ctx.device), AutoTokenizer.from_pretrained(folder / "lm"), read_json(folder / _FACTS)
