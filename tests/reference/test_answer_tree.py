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
    Qwen3Config,
)

from recbench.contracts.errors import ConfigError
from recbench.llm import lane_reader
from recbench.llm.hub_reader import HubReader
from recbench.llm.lane_reader import LaneReader
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
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral without windows": lambda: MistralConfig(**SIZES, sliding_window=None),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=5),
    "gemma2": lambda: Gemma2Config(**GEMMA, sliding_window=6),
    "gemma3": lambda: Gemma3TextConfig(
        **GEMMA, sliding_window=6, layer_types=["sliding_attention", "full_attention"], final_logit_softcapping=5.0
    ),
    "granite": lambda: GraniteConfig(**SIZES, logits_scaling=3.0),
    "cohere": lambda: CohereConfig(**SIZES, logit_scale=0.3),
}
IN_LANES = {"qwen2", "qwen3", "llama", "mistral without windows"}
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


def left_to_the_hub(writer: TitleWriter) -> TitleWriter:
    """Let Hugging Face's forward pass read, as for an architecture that our blocks do not know."""
    writer.lm.get_decoder().layers[0].register_forward_pre_hook(lambda *_: None)
    return writer


class RandomTree:
    """Paths of a random tree, grown in steps of several tokens, into slots from ``first_slot`` on."""

    def __init__(self, n_rows: int, seed: int, first_slot: int = 1) -> None:
        self.random, self.first_slot = random.Random(seed), first_slot
        self.paths: list[list[list[int]]] = [[] for _ in range(n_rows)]
        self.dead: list[set[int]] = [set() for _ in range(n_rows)]

    def forget(self, first: int, real: torch.Tensor | None, n_new: int) -> None:
        """Let nothing follow the slots from ``first`` on that have no token."""
        kept = set(range(len(self.paths) * n_new)) if real is None else set(real.tolist())
        for row in range(len(self.paths)):
            self.dead[row] |= {first + i for i in range(n_new) if row * n_new + i not in kept}

    def keep(self, rows: list[int]) -> None:
        self.paths, self.dead = [self.paths[row] for row in rows], [self.dead[row] for row in rows]

    def grow(self, n_new: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and parents (B, n_new), and remember the path that ends in every slot.

        At most ``depth`` of the new tokens follow each other.
        """
        tokens, parents = [], []
        for paths, dead in zip(self.paths, self.dead, strict=True):
            old, chain = len(paths), []
            for _ in range(n_new):
                older = [slot for slot in range(old) if slot not in dead]
                allowed = [ROOT, *older, *(old + i for i, length in enumerate(chain) if length < depth)]
                parent = self.random.choice(allowed)
                chain.append(1 + chain[parent - old] if parent >= old else 1)
                parents.append(parent if parent == ROOT else parent + self.first_slot)
                tokens.append(self.random.randrange(1, VOCABULARY))
                paths.append([*(paths[parent] if parent != ROOT else []), tokens[-1]])
        return torch.tensor(tokens).view(-1, n_new), torch.tensor(parents).view(-1, n_new)


def is_followed(parent: torch.Tensor, first: int) -> torch.Tensor:
    """Return bool (B, M): which new slots, numbered from ``first`` on, other new ones follow."""
    own = torch.arange(parent.shape[1]) + first
    return (parent[:, None, :] == own[:, None]).any(dim=2)


@torch.no_grad()
def plain_logits(writer: TitleWriter, embeds: torch.Tensor, path: list[int]) -> torch.Tensor:
    """Logits after the inputs ``embeds`` (T, H) and a path, by one unpadded forward pass."""
    if path:
        embeds = torch.cat([embeds, writer.embed(torch.tensor(path))])
    return writer.lm(inputs_embeds=embeds[None], use_cache=False).logits[0, -1]


@torch.no_grad()
def check(writer: TitleWriter, prefix: Prefix, inputs: list[torch.Tensor], room: int, atol: float = 2e-4) -> None:
    """Grow random trees and compare the logits of every slot; drop a row on the way, make a call of several lanes."""
    tree = AnswerTree(writer, prefix, room)
    start = writer.logits(tree.start())
    # The pending inputs have the first slots.
    before = prefix.pending.shape[1]
    grown = RandomTree(len(inputs), 1, before)
    random_slots = torch.Generator().manual_seed(3)
    for row, embeds in enumerate(inputs):
        torch.testing.assert_close(start[row], plain_logits(writer, embeds, []), atol=atol, rtol=1e-3)
    for step, (n_new, depth) in enumerate([(1, 1), (4, 1), (5, 5), (4, 2), (2, 1), (37, 3), (6, 3)]):
        if step == 3:
            tree.keep(torch.tensor([0, 2]))
            inputs = [inputs[0], inputs[2]]
            grown.keep([0, 2])
        first = tree.n_slots - before
        token, parent = grown.grow(n_new, depth)
        real = None
        if step in (4, 5):
            # Some slots get no token; nothing follows them later.
            has_token = torch.rand(token.shape, generator=random_slots) < 0.7
            has_token |= is_followed(parent, first + before)
            real = has_token.flatten().nonzero().squeeze(1)
            token, parent = token.where(has_token, 0), parent.where(has_token, ROOT)
        logits = writer.logits(tree.extend(token, parent, depth, real))
        assert (tree.n_rows, tree.n_slots) == (len(inputs), before + first + n_new)
        places = torch.arange(token.numel()) if real is None else real
        assert len(logits) == len(places)
        for place, found in zip(places.tolist(), logits, strict=True):
            row, slot = place // n_new, first + place % n_new
            expected = plain_logits(writer, inputs[row], grown.paths[row][slot])
            torch.testing.assert_close(found, expected, atol=atol, rtol=1e-3)
        grown.forget(first, real, n_new)


def prompt_inputs(writer: TitleWriter) -> list[torch.Tensor]:
    return [writer.embed(torch.tensor(prompt)) for prompt in PROMPTS]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_equals_plain_forward_passes(name: str) -> None:
    writer = make_writer(name)
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS)), 4)
    tree.start()
    assert isinstance(tree._reader, LaneReader if name in IN_LANES else HubReader)
    check(writer, writer.read(*left_pad(PROMPTS, extra=2)), prompt_inputs(writer), room=4)


@pytest.mark.parametrize("name", sorted(IN_LANES))
@torch.no_grad()
def test_both_ways_read_the_same(name: str) -> None:
    writer = left_to_the_hub(make_writer(name))
    check(writer, writer.read(*left_pad(PROMPTS, extra=2)), prompt_inputs(writer), room=4)


@pytest.mark.parametrize("width", [1, 5])
@torch.no_grad()
def test_lanes_of_any_width(monkeypatch, width: int) -> None:
    monkeypatch.setattr(lane_reader, "_LANE", width)
    writer = make_writer("qwen2")
    check(writer, writer.read(*left_pad(PROMPTS, extra=2)), prompt_inputs(writer), room=4)


@pytest.mark.parametrize("hub", [False, True])
@torch.no_grad()
def test_a_beginning_that_all_prompts_share(hub: bool) -> None:
    writer = make_writer("llama")
    writer = left_to_the_hub(writer) if hub else writer
    prompts = [[*range(20, 50), *prompt] for prompt in PROMPTS]
    inputs = [writer.embed(torch.tensor(prompt)) for prompt in prompts]
    check(writer, writer.read(*left_pad(prompts)), inputs, room=4)


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


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("n_pending", [1, 3])
@pytest.mark.parametrize("hub", [False, True])
@torch.no_grad()
def test_first_tokens_are_read_with_the_pending_inputs(hub: bool, n_pending: int, seen: bool) -> None:
    writer = left_to_the_hub(make_writer("qwen2")) if hub else make_writer("qwen2")
    read = writer.read(*left_pad(PROMPTS[:2]))
    pending = torch.randn(2, n_pending, 32, generator=torch.Generator().manual_seed(0))
    prefix = Prefix(read.cache, read.mask, pending, pending_seen=seen)
    plain, together = AnswerTree(writer, prefix, 4), AnswerTree(writer, prefix, 4)
    root = n_pending - 1
    expected = [plain.start()]
    expected.append(plain.extend(torch.tensor([[5, 6], [7, 8]]), torch.tensor([[ROOT, n_pending], [ROOT, ROOT]]), 2))
    # The second row has one token less.
    token, parent = torch.tensor([[0, 5, 6], [0, 7, 0]]), torch.tensor([[ROOT, root, n_pending], [ROOT, ROOT, ROOT]])
    found = together.start(token, parent, 3, torch.tensor([0, 1, 2, 3, 4]))
    torch.testing.assert_close(found, torch.cat(expected)[[0, 2, 3, 1, 4]], atol=1e-5, rtol=1e-4)
    assert together.n_slots == n_pending + 2
    more = torch.tensor([[9], [9]]), torch.tensor([[n_pending + 1], [n_pending]])
    torch.testing.assert_close(together.extend(*more), plain.extend(*more), atol=1e-5, rtol=1e-4)


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
        first = tree.n_slots - 1
        logits = writer.logits(tree.extend(*grown.grow(n_new, 1))).float().log_softmax(-1).view(3, n_new, -1)
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
    masks: list[torch.Tensor] = []
    writer.lm.get_decoder().layers[0].register_forward_pre_hook(
        lambda _, __, options: masks.append(options["attention_mask"]), with_kwargs=True
    )
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS[:1])), 4)
    tree.start()
    masks.clear()
    prompt, token = len(PROMPTS[0]), torch.full((1, 20), 5)
    tree.extend(token, torch.full((1, 20), ROOT))
    tree.extend(token[:, :2], torch.tensor([[4, 4]]))
    tree.extend(token[:, :1], torch.tensor([[22]]))
    # The prompt's last token has a slot too.
    assert [mask.shape[-1] for mask in masks] == [prompt + 20, prompt + 1 + 2, prompt + 2 + 1]


@torch.no_grad()
def test_a_lane_looks_at_its_own_prompt_and_slots_and_no_others(monkeypatch) -> None:
    writer = make_writer("qwen2")
    widths: list[int] = []
    attend = lane_reader.F.scaled_dot_product_attention
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS)), 4)
    tree.start()
    monkeypatch.setattr(lane_reader, "_LANE", 16)
    monkeypatch.setattr(
        lane_reader.F,
        "scaled_dot_product_attention",
        lambda query, key, *rest, **options: widths.append(key.shape[2]) or attend(query, key, *rest, **options),
    )
    tree.extend(torch.full((3, 20), 5), torch.full((3, 20), ROOT))
    # 20 tokens are two lanes of ten, which see nothing of each other.
    expected = [prompt + 10 for prompt in (8, 8, 3, 3, 1, 1)]
    assert widths == expected * 2
    widths.clear()
    # One token for the second row, two for the third.
    tree.extend(torch.full((3, 2), 5), torch.tensor([[ROOT, ROOT], [5, ROOT], [8, 21]]), 2, torch.tensor([2, 4, 5]))
    assert widths == [3 + 2, 1 + 3] * 2


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


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
@torch.no_grad()
def test_what_a_tree_held_is_free_as_soon_as_it_is_gone(name: str) -> None:
    writer = make_writer(name)
    tree = AnswerTree(writer, writer.read(*left_pad(PROMPTS)), 4)
    tree.start()
    tree.extend(torch.full((3, 20), 5), torch.full((3, 20), ROOT))
    reader = weakref.ref(tree._reader)
    # A cycle would keep the keys and values of finished batches until the garbage collector comes by.
    gc.disable()
    try:
        del tree
        assert reader() is None
    finally:
        gc.enable()
