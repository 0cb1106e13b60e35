"""A tree of answers gives what one plain forward pass per path gives, for every architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from recbench.contracts.errors import ConfigError
from recbench.llm.tree import ROOT, AnswerTree
from recbench.llm.writer import Prefix, TitleWriter

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
GEMMA = {**SIZES, "head_dim": 8, "query_pre_attn_scalar": 8}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen2 with windows": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=5),
    "gemma2": lambda: Gemma2Config(**GEMMA, sliding_window=6),
    "gemma3": lambda: Gemma3TextConfig(
        **GEMMA, sliding_window=6, layer_types=["sliding_attention", "full_attention"], final_logit_softcapping=5.0
    ),
    "granite": lambda: GraniteConfig(**SIZES, logits_scaling=3.0),
    "cohere": lambda: CohereConfig(**SIZES, logit_scale=0.3),
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15], [16]]


def make_writer(name: str, **options: object) -> TitleWriter:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        lm = AutoModelForCausalLM.from_config(CONFIGS[name](), **options).eval()
        for parameter in lm.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return TitleWriter(lm)


def left_pad(rows: list[list[int]], extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows)) + extra
    ids, mask = torch.zeros((len(rows), width), dtype=torch.int64), torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :], mask[i, width - len(row) :] = torch.tensor(row), 1
    return ids, mask


class RandomTree:
    """Paths of a random tree, grown in steps of several tokens."""

    def __init__(self, n_rows: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.paths: list[list[list[int]]] = [[] for _ in range(n_rows)]

    def grow(self, n_new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and parents (B, n_new), and remember the path that ends in every slot."""
        n_rows, old = len(self.paths), len(self.paths[0])
        token = torch.randint(1, VOCABULARY, (n_rows, n_new), generator=self.generator)
        parent = torch.randint(ROOT, max(old, 1), (n_rows, n_new), generator=self.generator) if old else token * 0 - 1
        for row, paths in enumerate(self.paths):
            paths += [
                [*(paths[p] if p != ROOT else []), t]
                for t, p in zip(token[row].tolist(), parent[row].tolist(), strict=True)
            ]
        return token, parent


@torch.no_grad()
def plain_logits(writer: TitleWriter, embeds: torch.Tensor, path: list[int]) -> torch.Tensor:
    """Logits after the prompt ``embeds`` (T, H) and a path, by one unpadded forward pass."""
    if path:
        embeds = torch.cat([embeds, writer.embed(torch.tensor(path))])
    return writer.lm(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]


def check(writer: TitleWriter, prefix: Prefix, inputs: list[torch.Tensor], room: int, atol: float = 2e-4) -> None:
    """Grow random trees and compare the logits of every slot; drop a row on the way."""
    tree, random_tree = AnswerTree(writer, prefix, room), RandomTree(len(inputs), seed=1)
    start = tree.start()
    for row, embeds in enumerate(inputs):
        torch.testing.assert_close(start[row], plain_logits(writer, embeds, []), atol=atol, rtol=1e-3)
    for step, n_new in enumerate([1, 4, 3, 5, 2]):
        if step == 3:
            kept = [0, 2]
            tree.keep(torch.tensor(kept))
            inputs = [inputs[row] for row in kept]
            random_tree.paths = [random_tree.paths[row] for row in kept]
        first = tree.n_slots
        logits = tree.extend(*random_tree.grow(n_new))
        assert (tree.n_rows, tree.n_slots) == (len(inputs), first + n_new)
        for row, embeds in enumerate(inputs):
            for place in range(n_new):
                expected = plain_logits(writer, embeds, random_tree.paths[row][first + place])
                torch.testing.assert_close(logits[row, place], expected, atol=atol, rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_plain_forward_passes(name: str) -> None:
    writer = make_writer(name)
    inputs = [writer.embed(torch.tensor(prompt)) for prompt in PROMPTS]
    check(writer, writer.read(*left_pad(PROMPTS, extra=2)), inputs, room=4)
