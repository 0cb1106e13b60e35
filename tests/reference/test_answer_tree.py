"""A tree of answers gives what one plain forward pass per path gives, for every architecture."""

from __future__ import annotations

import gc
import random
import weakref
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
        self.random = random.Random(seed)
        self.paths: list[list[list[int]]] = [[] for _ in range(n_rows)]

    def grow(self, n_new: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and parents (B, n_new), and remember the path that ends in every slot.

        At most ``depth`` of the new tokens follow each other.
        """
        tokens, parents = [], []
        for paths in self.paths:
            old, chain = len(paths), []
            for _ in range(n_new):
                allowed = [ROOT, *range(old), *(old + i for i, length in enumerate(chain) if length < depth)]
                parent = self.random.choice(allowed)
                chain.append(1 + chain[parent - old] if parent >= old else 1)
                parents.append(parent)
                tokens.append(self.random.randrange(1, VOCABULARY))
                paths.append([*(paths[parent] if parent != ROOT else []), tokens[-1]])
        return torch.tensor(tokens).view(-1, n_new), torch.tensor(parents).view(-1, n_new)


@torch.no_grad()
def plain_logits(writer: TitleWriter, embeds: torch.Tensor, path: list[int]) -> torch.Tensor:
    """Logits after the inputs ``embeds`` (T, H) and a path, by one unpadded forward pass."""
    if path:
        embeds = torch.cat([embeds, writer.embed(torch.tensor(path))])
    return writer.lm(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]


@torch.no_grad()
def check(writer: TitleWriter, prefix: Prefix, inputs: list[torch.Tensor], room: int, atol: float = 2e-4) -> None:
    """Grow random trees and compare the logits of every slot; drop a row on the way, make a call of several lanes."""
    tree, grown = AnswerTree(writer, prefix, room), RandomTree(len(inputs), seed=1)
    start = writer.logits(tree.start())
    for row, embeds in enumerate(inputs):
        torch.testing.assert_close(start[row], plain_logits(writer, embeds, []), atol=atol, rtol=1e-3)
    for step, (n_new, depth) in enumerate([(1, 1), (4, 1), (5, 5), (4, 2), (2, 1), (37, 3), (6, 3)]):
        if step == 3:
            tree.keep(torch.tensor([0, 2]))
            inputs = [inputs[0], inputs[2]]
            grown.paths = [grown.paths[0], grown.paths[2]]
        first = tree.n_slots
        logits = writer.logits(tree.extend(*grown.grow(n_new, depth), depth))
        assert (tree.n_rows, tree.n_slots) == (len(inputs), first + n_new)
        for row, embeds in enumerate(inputs):
            for place in range(n_new):
                expected = plain_logits(writer, embeds, grown.paths[row][first + place])
                torch.testing.assert_close(logits[row, place], expected, atol=atol, rtol=1e-3)


def prompt_inputs(writer: TitleWriter) -> list[torch.Tensor]:
    return [writer.embed(torch.tensor(prompt)) for prompt in PROMPTS]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_plain_forward_passes(name: str) -> None:
    writer = make_writer(name)
    check(writer, writer.read(*left_pad(PROMPTS, extra=2)), prompt_inputs(writer), room=4)


@torch.no_grad()
def test_eager_attention() -> None:
    writer = make_writer("qwen2", attn_implementation="eager")
    check(writer, writer.read(*left_pad(PROMPTS)), prompt_inputs(writer), room=100)


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
@torch.no_grad()
def test_several_thoughts_wait_behind_the_prompt(name: str) -> None:
    writer = make_writer(name)
    prefix = writer.read(*left_pad(PROMPTS))
    thoughts = torch.randn(len(PROMPTS), 3, 32, generator=torch.Generator().manual_seed(0))
    waiting = Prefix(prefix.cache, prefix.mask, torch.cat([prefix.pending, thoughts], dim=1))
    inputs = [torch.cat(pair) for pair in zip(prompt_inputs(writer), thoughts, strict=True)]
    check(writer, waiting, inputs, room=1)


@torch.no_grad()
def test_prompts_of_one_token() -> None:
    writer = make_writer("qwen2")
    prompts = [[5], [6], [7]]
    inputs = [writer.embed(torch.tensor(prompt)) for prompt in prompts]
    check(writer, writer.read(*left_pad(prompts)), inputs, room=8)


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
@torch.no_grad()
def test_bfloat16_is_as_close_as_bfloat16_gets(name: str) -> None:
    writer = make_writer(name, dtype=torch.bfloat16)
    tree, grown = AnswerTree(writer, writer.read(*left_pad(PROMPTS)), 16), RandomTree(len(PROMPTS), seed=2)
    exact = make_writer(name)
    exact.load_state_dict(writer.state_dict())
    tree.start()
    for n_new in (3, 5):
        first = tree.n_slots
        logits = writer.logits(tree.extend(*grown.grow(n_new, 1))).float().log_softmax(-1)
        for row, embeds in enumerate(prompt_inputs(exact)):
            for place in range(n_new):
                expected = plain_logits(exact, embeds, grown.paths[row][first + place]).log_softmax(-1)
                assert (logits[row, place] - expected).abs().max() < 0.15


@torch.no_grad()
def test_the_prefix_stays_as_it_is() -> None:
    writer = make_writer("llama")
    prefix = writer.read(*left_pad(PROMPTS))
    for _ in range(2):
        check(writer, prefix, prompt_inputs(writer), room=3)
    assert prefix.cache.get_seq_length() == len(PROMPTS[0]) - 1


@torch.no_grad()
def test_a_call_looks_at_the_slots_that_its_tokens_need_and_no_others() -> None:
    writer = make_writer("qwen2")
    widths: list[int] = []
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS[:1])), 4)
    tree.start()
    layer = writer.lm.get_decoder().layers[0]
    layer.register_forward_pre_hook(
        lambda _, __, options: widths.append(options["attention_mask"].shape[-1]), with_kwargs=True
    )
    prompt, token = len(PROMPTS[0]), torch.full((1, 20), 5)
    tree.extend(token, torch.full((1, 20), ROOT))
    tree.extend(token[:, :2], torch.tensor([[3, 3]]))
    tree.extend(token[:, :1], torch.tensor([[21]]))
    # The first call has two lanes: 16 tokens, which look at no more than 16 slots each, and four.
    assert widths == [prompt + 16, prompt + 1 + 2, prompt + 2 + 1]


def test_attention_that_takes_no_mask_is_refused() -> None:
    writer = make_writer("qwen2")
    prefix = writer.read(*left_pad(PROMPTS))
    writer.lm.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="flash_attention_2"):
        AnswerTree(writer, prefix, 4)


def test_layers_of_an_unknown_kind_are_refused() -> None:
    writer = make_writer("qwen2")
    prefix = writer.read(*left_pad(PROMPTS))
    writer.lm.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ConfigError, match="chunked_attention"):
        AnswerTree(writer, prefix, 4)


@torch.no_grad()
def test_what_a_tree_held_is_free_as_soon_as_it_is_gone() -> None:
    writer = make_writer("qwen2")
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS)), 4)
    tree.start()
    tree.extend(torch.full((3, 20), 5), torch.full((3, 20), ROOT))
    cache = weakref.ref(tree._cache)
    # A cycle would keep the keys and values of finished batches until the garbage collector comes by.
    gc.disable()
    try:
        del tree
        assert cache() is None
    finally:
        gc.enable()
