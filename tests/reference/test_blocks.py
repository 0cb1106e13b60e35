"""Our own pass over a model's blocks gives what Hugging Face's gives, and stands back where it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from recbench.llm.blocks import Blocks
from recbench.llm.lanes import lane_sizes
from recbench.llm.prompt_reader import read_prompts
from recbench.llm.writer import positions, run_body, shared_beginning

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "llama": lambda: LlamaConfig(**SIZES),
    "llama with biases and longer positions": lambda: LlamaConfig(
        **SIZES,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5e3},
    ),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
}
# Left padding, none, and padding behind a beginning.
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8, [1, 1, 1, 0, 0, 1, 1, 1]])


def make_model(config: PreTrainedConfig, **options: object) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        lm = AutoModelForCausalLM.from_config(config, **options).eval()
        for parameter in lm.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return lm


def embeds_of(lm: PreTrainedModel, *shape: int) -> torch.Tensor:
    ids = torch.randint(60, shape, generator=torch.Generator().manual_seed(1))
    return lm.get_input_embeddings()(ids)


class PlainMemory:
    """All columns of B rows in a cache, and attention as the definition says."""

    def __init__(self, cache: DynamicCache, mask: torch.Tensor) -> None:
        self.cache, self.mask = cache, mask

    def add(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        key, value = (part.unflatten(0, (len(self.mask), -1)).transpose(1, 2) for part in (key, value))
        self.cache.update(key, value, layer)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        key, value = self.cache.layers[layer].keys, self.cache.layers[layer].values
        query = query.unflatten(0, (len(self.mask), -1)).transpose(1, 2)
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        n_new, n_columns = query.shape[2], key.shape[2]
        seen = torch.ones((n_new, n_columns), dtype=torch.bool).tril(n_columns - n_new) & self.mask.bool()[:, None]
        scores = (scale * query @ key.transpose(2, 3)).masked_fill(~seen[:, None], torch.finfo().min)
        return (scores.softmax(dim=3) @ value).transpose(1, 2).flatten(2).flatten(0, 1)


def by_blocks(lm: PreTrainedModel, embeds: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """The same with blocks of our own, if they take the model."""
    blocks = Blocks.of(lm)
    if blocks is None:
        return run_body(lm, embeds, mask, cache)
    position = positions(mask)[:, -embeds.shape[1] :]
    return blocks(embeds.flatten(0, 1), position.flatten(), PlainMemory(cache, mask)).view_as(embeds)


def check_caches(ours: DynamicCache, theirs: DynamicCache, mask: torch.Tensor) -> None:
    real = mask.bool()
    for own, expected in zip(ours.layers, theirs.layers, strict=True):
        for name in ("keys", "values"):
            found, wanted = (getattr(layer, name).transpose(1, 2)[real] for layer in (own, expected))
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_hugging_face_in_two_pieces(name: str) -> None:
    lm = make_model(CONFIGS[name]())
    assert Blocks.of(lm) is not None
    embeds, ours, theirs = embeds_of(lm, 3, 8), DynamicCache(), DynamicCache()
    for start, end in ((0, 5), (5, 8)):
        mask, real = MASK[:, :end], MASK[:, start:end].bool()
        found = by_blocks(lm, embeds[:, start:end], mask, ours)
        expected = run_body(lm, embeds[:, start:end], mask, theirs)
        torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-4)
    check_caches(ours, theirs, MASK)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_rows_without_padding(name: str) -> None:
    lm = make_model(CONFIGS[name]())
    embeds, mask = embeds_of(lm, 2, 6), torch.ones((2, 6), dtype=torch.int64)
    found, expected = by_blocks(lm, embeds, mask, DynamicCache()), run_body(lm, embeds, mask, DynamicCache())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def check_prompts(lm: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, shared: int) -> None:
    blocks, theirs = Blocks.of(lm), DynamicCache()
    assert blocks is not None
    embed = lm.get_input_embeddings()
    ours = read_prompts(blocks, embed, ids, mask, shared)
    run_body(lm, embed(ids), mask, theirs)
    check_caches(ours, theirs, mask)
    for layer in ours.layers:
        assert not layer.keys.transpose(1, 2)[mask == 0].any()
        assert not layer.values.transpose(1, 2)[mask == 0].any()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_prompts_leave_what_a_whole_pass_leaves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbench.llm.prompt_reader._LANE", 3)
    lm = make_model(CONFIGS[name]())
    lengths = torch.tensor([5, 8, 2, 1])
    mask = (torch.arange(10) >= 10 - lengths[:, None]).long()
    ids = torch.randint(60, mask.shape, generator=torch.Generator().manual_seed(2))
    check_prompts(lm, ids, mask, shared=0)
    for row, length in enumerate(lengths.tolist()):
        ids[row, 10 - length] = 7
    check_prompts(lm, ids, mask, shared=1)
    check_prompts(lm, ids[:1], mask[:1], shared=0)


@given(
    beginning=st.integers(0, 6),
    own=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    lane=st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_prompts_of_any_shape(beginning: int, own: list[int], extra: int, lane: int) -> None:
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbench.llm.prompt_reader._LANE", lane)
        lm = make_model(CONFIGS["llama"]())
        width = beginning + max(own) + extra
        mask = (torch.arange(width) >= width - beginning - torch.tensor(own)[:, None]).long()
        ids = torch.randint(60, mask.shape, generator=torch.Generator().manual_seed(sum(own)))
        for row, length in enumerate(own):
            first = width - beginning - length
            ids[row, first : first + beginning] = torch.arange(beginning)
        shared = shared_beginning(ids, mask)
        assert shared >= (beginning if len(own) > 1 else 0)
        # What a writer reads: all but the last token.
        if mask[:, :-1].any():
            check_prompts(lm, ids[:, :-1], mask[:, :-1], shared)


@given(st.integers(0, 200), st.integers(1, 40))
def test_lanes_share_the_tokens_evenly(n_tokens: int, at_most: int) -> None:
    sizes = lane_sizes(n_tokens, at_most)
    assert sum(sizes) == n_tokens
    assert len(sizes) == -(-n_tokens // at_most)
    assert not sizes or 1 <= min(sizes) <= max(sizes) <= min(min(sizes) + 1, at_most)


def test_other_models_and_passes_with_gradients_are_left_to_hugging_face() -> None:
    lm = make_model(CONFIGS["qwen2"]())
    assert Blocks.of(lm) is None
    with torch.no_grad():
        assert Blocks.of(lm) is not None
        assert Blocks.of(lm.train()) is None
        windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
        for other in (
            make_model(Qwen2Config(**SIZES, **windows)),
            make_model(MistralConfig(**SIZES, sliding_window=4)),
            make_model(Gemma2Config(**SIZES, head_dim=8)),
            make_model(CONFIGS["qwen2"](), attn_implementation="eager"),
            make_model(CONFIGS["qwen2"]()).to(torch.bfloat16),
        ):
            assert Blocks.of(other) is None


@pytest.mark.parametrize("part", ["", ".self_attn", ".input_layernorm", ".post_attention_layernorm"])
@torch.no_grad()
def test_whoever_watches_a_layer_sees_it_called(part: str) -> None:
    lm = make_model(CONFIGS["llama"]())
    seen: list[int] = []
    module = lm.get_decoder().get_submodule(f"layers.1{part}")
    handle = module.register_forward_hook(lambda *_: seen.append(1))
    embeds, mask = embeds_of(lm, 1, 4), torch.ones((1, 4), dtype=torch.int64)
    by_blocks(lm, embeds, mask, DynamicCache())
    assert seen == [1]
    handle.remove()
    assert Blocks.of(lm) is not None


@torch.no_grad()
def test_projections_and_the_final_norm_may_be_replaced_and_watched() -> None:
    lm = make_model(CONFIGS["qwen2"]())
    seen: list[str] = []
    layer = lm.get_decoder().layers[0]
    layer.self_attn.q_proj = torch.nn.Sequential(layer.self_attn.q_proj, torch.nn.Tanh())
    lm.get_decoder().norm.register_forward_hook(lambda *_: seen.append("norm"))
    layer.mlp.up_proj.register_forward_hook(lambda *_: seen.append("up"))
    embeds, mask = embeds_of(lm, 1, 4), torch.ones((1, 4), dtype=torch.int64)
    assert Blocks.of(lm) is not None
    found, expected = by_blocks(lm, embeds, mask, DynamicCache()), run_body(lm, embeds, mask, DynamicCache())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert seen == ["up", "norm"] * 2
