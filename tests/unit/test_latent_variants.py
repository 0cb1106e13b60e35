"""Every file of ``benchmarks/methods/latentr3/`` does what its name says: shown by behaviour, on a tiny model.

Which test shows it of which file stands in ``SHOWN_BY``, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import latent.answer_rl
import latent.policy
from baselines.llm.bigrec import BigRec
from baselines.llm.tuned import TunedConfig
from latent.attention import LatentAttention
from latent.config import LatentR3Config
from latent.method import LatentR3
from latent.model import THOUGHT_TOKEN
from latent.policy import LatentPolicy
from recbench.contracts.config import build_config
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.rankings import Rankings
from recbench.contracts.seeding import derive_seed
from recbench.llm.sft import collate_rows, training_rows
from recbench.testing.tiny import tiny_catalog, tiny_split
from recbench.testing.tiny_llm import make_tiny_llm

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "methods" / "latentr3"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
#: Sizes, and learning rates that move something within a few steps.
SMALL: dict[str, Any] = {
    "sft": {
        "epochs": 1,
        "batch_size": 32,
        "micro_batch_size": 16,
        "learning_rate": 1e-3,
        "max_rows": 32,
        "eval_rows": 4,
    },
    "rl": {"max_rows": 16, "batch_size": 8, "samples": 3, "learning_rate": 1e-2, "log_steps": 1, "warmup_steps": 0},
    "decoding": {"beams": 4, "batch_size": 64},
}

QUERIES = tiny_split().test.queries().take(np.arange(12))


def content(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    below = {key: merged(base.get(key, {}), value) for key, value in over.items() if isinstance(value, Mapping)}
    return {**base, **over, **below}


def config(name: str | None, **sizes: Any) -> LatentR3Config:
    """Return a file's configuration at test size (None: the default one)."""
    own = content(name)["config"] if name else {}
    return build_config(LatentR3Config, merged(merged(SMALL, own), sizes), str(name))


@dataclass
class World:
    """Fits that are made once, on one data set and model."""

    folder: Path
    llm: Path
    fits: list[tuple[dict[str, Any], LatentR3]] = field(default_factory=list)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    n_contexts: int = 0

    def context(self, log: list[dict[str, Any]] | None = None) -> RunContext:
        self.n_contexts += 1
        work, spec = self.folder / f"work-{self.n_contexts}", BackboneSpec(name=str(self.llm))
        records: list[dict[str, Any]] = [] if log is None else log
        return RunContext(
            tiny_catalog(), 3, "cpu", work, self.folder / "cache", spec, log=lambda record: records.append(dict(record))
        )

    def fitted(self, chosen: LatentR3Config) -> LatentR3:
        """Return a configuration fitted as ``recbench run --keep-model`` would: on top of what was fitted before."""
        log: list[dict[str, Any]] = []
        method, ctx, split = LatentR3(chosen), self.context(log), tiny_split()
        start = method.starts_from()
        if start is not None:
            ctx.start_model.mkdir(parents=True)
            self.of(start.config).save(ctx.start_model)
        method.fit(split.train, split.valid, ctx)
        self.logs[str(method.fit_identity())] = log
        return method

    def of(self, chosen: LatentR3Config) -> LatentR3:
        """Return a fit of this configuration; fits with equal identities are made once."""
        identity = LatentR3(chosen).fit_identity()
        kept = next((method for known, method in self.fits if known == identity), None)
        if kept is None:
            kept = self.fitted(chosen)
            self.fits.append((identity, kept))
        if kept.config == chosen:
            return kept
        method = LatentR3(chosen)
        method._fitted = kept._fitted
        return method

    def log(self, method: LatentR3) -> list[dict[str, Any]]:
        return self.logs[str(method.fit_identity())]

    def stages(self, method: LatentR3) -> set[str]:
        """Return which stages the fit did itself."""
        return {record["stage"] for record in self.log(method)}

    def lists(self, method: LatentR3) -> Rankings:
        return method.rank(QUERIES, 4, self.context())


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_llm_folder) -> World:
    return World(tmp_path_factory.mktemp("variants"), tiny_llm_folder)


@pytest.fixture(scope="module")
def default(world) -> LatentR3:
    return world.of(config(None))


def moved(method: LatentR3, start: LatentR3) -> set[str]:
    """Return which parts have other weights: "lm", "attention"."""
    before = dict(start._model.writer.named_parameters())
    return {
        name.split(".")[0]
        for name, weight in method._model.writer.named_parameters()
        if not torch.equal(weight, before[name])
    }


def batch(method: LatentR3, n_rows: int) -> dict[str, torch.Tensor]:
    rows = training_rows(tiny_split().train, method._model.codec, n_rows, 0, "test")
    example = torch.tensor([row["example_id"] for row in rows])
    return {**collate_rows(method._model.codec, rows), "example_id": example}


def gradient(method: LatentR3, rows: dict[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
    """Return the gradient of stage 2's loss on rows of a batch, as one number per value weight of LatentRATT."""
    writer = method._model.writer
    writer.zero_grad()
    policy = LatentPolicy(writer, method.config.rl, seed=1)
    policy(**{name: tensor[start:stop] for name, tensor in rows.items()})["loss"].backward()
    found = writer.attention.value.weight.grad.clone()
    writer.zero_grad()
    return found


def adds_up(method: LatentR3, n_rows: int) -> bool:
    """Return whether the gradient of a batch is the mean of its halves' gradients: they do not know of each other."""
    rows, half = batch(method, n_rows), n_rows // 2
    whole = gradient(method, rows, 0, n_rows)
    halves = (gradient(method, rows, 0, half) + gradient(method, rows, half, n_rows)) / 2
    return bool((whole - halves).norm() < 1e-3 * whole.norm())


def scores(lists: Rankings) -> list[dict[int, float]]:
    return [
        dict(zip(lists.items[a:b].tolist(), lists.scores[a:b].tolist(), strict=True))
        for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is_and_has_its_test(name: str) -> None:
    text, values = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), content(name)
    assert text.startswith("# ")
    assert ("space" in values) or values["method"] == "latentr3"
    assert name in SHOWN_BY


def test_laptop(default) -> None:
    chosen = config("laptop")
    budget = {
        "sft": {"max_rows", "eval_rows", "epochs", "batch_size", "micro_batch_size", "learning_rate"},
        "rl": {"max_rows", "warmup_steps", "batch_size", "learning_rate", "log_steps", "samples"},
        "decoding": {"batch_size", "beams"},
    }
    assert chosen.model_dump(exclude=budget) == LatentR3Config().model_dump(exclude=budget)


def test_d3(world, default) -> None:
    method = LatentR3(config("d3"))
    assert method.fit_identity() == default.fit_identity()
    normalised, plain = scores(world.lists(default)), scores(world.lists(world.of(method.config)))
    answers = default._model.codec.answers
    shared = 0
    for ours, theirs in zip(normalised, plain, strict=True):
        for item in ours.keys() & theirs.keys():
            length = len(answers.tokens[answers.of_item[item]])
            assert theirs[item] == pytest.approx(ours[item] * length, rel=1e-4)
            shared += 1
    assert shared > 0


def test_without_reasoning(world, default) -> None:
    method = world.fitted(config("without-reasoning"))
    assert world.stages(method) == {"sft"}
    assert not hasattr(method._model.writer, "attention")
    assert THOUGHT_TOKEN not in method._model.codec.tokenizer.get_vocab()
    assert THOUGHT_TOKEN in default._model.codec.tokenizer.get_vocab()
    bigrec = BigRec(build_config(TunedConfig, {key: SMALL[key] for key in ("sft", "decoding")}, "x"))
    split, ctx = tiny_split(), world.context()
    bigrec.fit(split.train, split.valid, ctx)
    theirs, ours = bigrec.rank(QUERIES, 4, ctx), world.lists(method)
    assert np.array_equal(ours.items, theirs.items)
    assert np.array_equal(ours.scores, theirs.scores)
    # The two read each other's models.
    folder = world.folder / "bigrec"
    folder.mkdir()
    bigrec.save(folder)
    read = world.lists(LatentR3.load(folder, method.config, world.context()))
    assert np.array_equal(read.scores, theirs.scores)


def test_without_latentratt(world) -> None:
    method = world.of(config("without-latentratt"))
    writer = method._model.writer
    assert world.stages(method) == {"sft"}
    assert not list(writer.attention.parameters())
    rows = batch(method, 3)
    with torch.no_grad():
        _, hidden = writer.read_hidden(rows["prompt_ids"], rows["prompt_mask"])
        thought = writer.read(rows["prompt_ids"], rows["prompt_mask"]).pending
    torch.testing.assert_close(thought, hidden[:, -1:], atol=1e-5, rtol=1e-4)


def test_without_latentratt_rl(world) -> None:
    method, start = world.of(config("without-latentratt-rl")), world.of(config("without-latentratt"))
    assert method.starts_from().fit_identity() == start.fit_identity()
    assert world.stages(method) == {"rl"}
    assert moved(method, start) == {"lm"}


def test_sft_only(world, default) -> None:
    method = world.of(config("sft-only"))
    assert world.stages(method) == {"sft"}
    assert default.starts_from().fit_identity() == method.fit_identity()
    assert world.stages(default) == {"rl"}
    assert moved(default, method) == {"attention"}


def test_group_advantage(world, default) -> None:
    grouped = LatentR3(config("group-advantage"))
    grouped._fitted = default._fitted
    # By default two prompts share a baseline; in groups each prompt is on its own.
    assert adds_up(default, 4)
    assert adds_up(grouped, 2)
    rows = batch(default, 2)
    assert not torch.allclose(gradient(grouped, rows, 0, 2), gradient(default, rows, 0, 2), rtol=0.01, atol=0)


def test_thought_policy(world, default) -> None:
    method = LatentR3(config("thought-policy"))
    method._fitted = default._fitted
    writer, settings, rows = method._model.writer, method.config.rl, batch(method, 2)
    found = gradient(method, rows, 0, 2)
    # By hand: minus the mean over samples of A eps / sigma^2, carried back through the thought alone.
    policy = LatentPolicy(writer, settings, seed=1)
    thought = writer.read(rows["prompt_ids"], rows["prompt_mask"]).pending[:, -1]
    noise = policy.noise(rows["example_id"].tolist(), thought)
    with torch.no_grad():
        rewards = policy._rewards(**rows)
    advantages = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)
    thought.backward(-(advantages.unsqueeze(2) * noise).mean(dim=1) / settings.sigma**2 / len(thought))
    expected = writer.attention.value.weight.grad.clone()
    writer.zero_grad()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)
    assert world.stages(world.of(config("thought-policy"))) == {"rl"}


def test_advantage_8_groups(default) -> None:
    method = LatentR3(config("advantage-8-groups", rl={"batch_size": 16}))
    method._fitted = default._fitted
    assert adds_up(method, 16)
    rows = batch(method, 8)
    in_pairs = gradient(default, rows, 0, 8)
    assert not torch.allclose(gradient(method, rows, 0, 8), in_pairs, rtol=0.01, atol=0)


def test_advantage_whole_batch(world, default) -> None:
    # One step of 16 prompts: none of them can be left out without a change of all advantages.
    method = LatentR3(config("advantage-whole-batch", rl={"batch_size": 16}))
    eight = LatentR3(config("advantage-8-groups", rl={"batch_size": 16}))
    method._fitted = eight._fitted = default._fitted
    rows = batch(method, 16)
    assert not torch.allclose(gradient(method, rows, 0, 16), gradient(eight, rows, 0, 16), rtol=0.01, atol=0)
    assert method.config.rl.scope == method.config.rl.batch_size
    assert world.stages(world.of(config("advantage-whole-batch"))) == {"rl"}


@pytest.mark.parametrize(
    ("name", "parts"), [("original-grpo", {"lm", "attention"}), ("original-grpo-latentratt", {"attention"})]
)
def test_original_grpo(world, monkeypatch, name: str, parts: set[str]) -> None:
    written = []
    draw = latent.answer_rl.sample_titles

    def watched(writer, prefix, *arguments):
        titles = draw(writer, prefix, *arguments)
        written.append(titles.clone())
        return titles

    monkeypatch.setattr(latent.answer_rl, "sample_titles", watched)
    chosen = config(name, rl={"learning_rate": 1e-2, "max_rows": 24, "samples": 8})
    method, start = world.of(chosen), world.of(config("sft-only"))
    assert len(written) == 3
    assert all(len(titles) == 8 * 8 for titles in written)
    facts = method.summary()["rl"]
    assert facts["groups"] == 24
    assert facts["zero_variance_groups"] < 24
    steps = [record for record in world.log(method) if "loss" in record]
    assert all(0 <= record["reward_unperturbed"] <= 1 for record in steps)
    assert all("kl" in record for record in steps)
    assert moved(method, start) == parts


def test_thought_at_inference(world, default) -> None:
    names = ("d3", "masked-thought", "absent-thought", "zero-thought", "token-embedding-thought")
    # Thoughts of a model that was hardly trained say little; this one's say something.
    outspoken = deepcopy(default._fitted)
    with torch.no_grad():
        outspoken.writer.attention.value.bias += torch.linspace(-2, 2, 32)
    found = []
    for name in names:
        method = LatentR3(config(name, decoding={"length_penalty": 0.0}))
        assert method.fit_identity() == default.fit_identity()
        method._fitted = outspoken
        found.append(world.lists(method).scores[:4])
    for number, one in enumerate(found):
        for other in found[:number]:
            assert np.abs(one - other).max() > 2e-4


def test_two_thoughts(world, default, monkeypatch) -> None:
    seen = []
    read = latent.policy.sample_logprobs

    def watched(writer, prefix, pending, *rest):
        seen.append((prefix, pending.detach()))
        return read(writer, prefix, pending, *rest)

    monkeypatch.setattr(latent.policy, "sample_logprobs", watched)
    method = world.of(config("two-thoughts"))
    assert method.starts_from().fit_identity() == default.fit_identity()
    assert world.stages(method) == {"rl"}
    assert moved(method, default) == {"attention"}
    assert {"rl", "rl_of_start", "sft"} <= method.summary().keys()
    for prefix, pending in seen:
        # The first thought was read once per prompt, without noise; the second one waits, in K versions.
        assert prefix.cache.get_seq_length() == prefix.mask.shape[1]
        assert pending.shape[1:3] == (3, 1)
        assert torch.equal(pending[:, 0], prefix.pending)
        assert (pending[:, 1:] != pending[:, :1]).any()
    rows = batch(method, 2)
    with torch.no_grad():
        two, one = (m._model.writer.read(rows["prompt_ids"], rows["prompt_mask"]) for m in (method, default))
    assert two.mask.shape[1] == one.mask.shape[1] + 1


def test_kl(world, default) -> None:
    method = world.of(config("kl"))
    steps = [record for record in world.log(method) if "loss" in record]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[1]["kl"] > 0
    assert all("kl" not in record for record in world.log(default))


def test_two_iterations(world, default, monkeypatch) -> None:
    rollouts = []
    draw = latent.policy.thought_noise

    def watched(seed, examples, rollout, *rest):
        rollouts.append((tuple(examples), rollout))
        return draw(seed, examples, rollout, *rest)

    monkeypatch.setattr(latent.policy, "thought_noise", watched)
    method = world.of(config("two-iterations"))
    assert method.summary()["rl"]["steps"] == 2 * default.summary()["rl"]["steps"]
    by_rollout = {rollout: [examples for examples, r in rollouts if r == rollout] for _, rollout in rollouts}
    assert sorted(by_rollout) == [0, 1]
    for examples in by_rollout.values():
        # The same prompts with the same noise are learned from twice.
        assert len(examples) == 2 * len(set(examples))
    assert any(record.get("clip_fraction", 0) > 0 for record in world.log(method))


def test_lora_3b(world) -> None:
    assert content("lora-3b")["backbone"] == "Qwen/Qwen2.5-3B"
    small = {"lora": {"rank": 3}}
    method, start = (world.of(config("lora-3b", sft=small, rl={"enabled": on})) for on in (True, False))
    assert method.starts_from().fit_identity() == start.fit_identity()
    assert moved(method, start) == {"attention"}
    before = dict(AutoModelForCausalLM.from_pretrained(world.llm).named_parameters())
    for name, weight in start._model.writer.lm.named_parameters():
        # The embedding has one more row, for the thought token.
        change = weight.detach()[: len(before[name])] - before[name]
        if name.endswith("proj.weight"):
            assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-3) <= 3, name
        else:
            assert not change.any(), name
    fresh = LatentAttention(32)
    fresh.reset(torch.Generator().manual_seed(derive_seed(3, "latent-attention")))
    assert not torch.equal(start._model.writer.attention.value.weight, fresh.value.weight)


def test_before_norm(world, default) -> None:
    method = world.of(config("before-norm", rl={"enabled": False}))
    writer, rows = method._model.writer, batch(method, 3)
    outputs: list[Any] = []
    handle = writer.lm.model.layers[-1].register_forward_hook(lambda *parts: outputs.append(parts[2]))
    with torch.no_grad():
        _, hidden = writer.read_hidden(rows["prompt_ids"], rows["prompt_mask"])
        after = writer.lm.model.norm(hidden)
        _, usual = default._model.writer.read_hidden(rows["prompt_ids"], rows["prompt_mask"])
    handle.remove()
    columns = [part if isinstance(part, torch.Tensor) else part[0] for part in outputs]
    assert torch.equal(hidden[:, -1], columns[-1][:, -1])
    # A norm gives all states one size; these have not been through it.
    assert after.norm(dim=-1).std() < 0.2 * after.norm(dim=-1).mean()
    assert not torch.allclose(hidden[:, -1], usual[:, -1], atol=1e-2)


def test_window(world) -> None:
    method = world.of(config("window", rl={"enabled": False}))
    attention = method._model.writer.attention
    hidden = torch.randn((1, 30, 32), generator=torch.Generator().manual_seed(0))
    mask = torch.ones((1, 30), dtype=torch.int64)
    with torch.no_grad():
        thought = attention(hidden, mask)
        for column, seen in ((0, False), (13, False), (14, True), (29, True)):
            changed = hidden.clone()
            changed[:, column] += 1
            assert torch.equal(attention(changed, mask), thought) != seen


def test_a_start_that_nobody_kept_is_made_first(world) -> None:
    kept = world.of(config("two-thoughts"))
    method, log, split = LatentR3(kept.config), [], tiny_split()
    method.fit(split.train, split.valid, world.context(log))
    assert list(dict.fromkeys(record["stage"] for record in log)) == ["start-sft", "start-rl", "rl"]
    assert moved(method, kept) == set()
    assert method.summary() == kept.summary()


@pytest.mark.parametrize("name", ["d3", "two-thoughts", "without-latentratt", "lora-3b", "masked-thought"])
def test_a_loaded_fit_ranks_as_the_saved_one(world, default, name: str) -> None:
    sizes = {"sft": {"lora": {"rank": 3}}} if name == "lora-3b" else {}
    method = world.of(config(name, **sizes))
    folder = world.folder / f"saved-{name}"
    folder.mkdir()
    method.save(folder)
    assert (folder / "latent_attention.safetensors").exists() == (name != "without-latentratt")
    ours, theirs = world.lists(method), world.lists(LatentR3.load(folder, method.config, world.context()))
    assert np.array_equal(ours.items, theirs.items)
    assert np.array_equal(ours.scores, theirs.scores)


def test_llama_from_prompt_to_list(tmp_path: Path) -> None:
    llama = World(tmp_path, make_tiny_llm(tmp_path / "llama", tiny_catalog().titles, kind="llama3"))
    sizes = {"sft": {"lora": {"rank": 2}, "max_rows": 16}, "rl": {"max_rows": 8}}
    method = llama.of(config(None, thoughts=2, hidden="before_norm", **sizes))
    assert llama.stages(method) == {"rl"}
    assert moved(method, llama.of(method.config.begins_with)) == {"attention"}
    lists = llama.lists(method)
    lists.check(QUERIES.example_id, len(tiny_catalog()))
    assert (lists.lengths >= 4).all()


def points(name: str) -> list[LatentR3Config]:
    (setting, values), *others = content(name)["space"].items()
    fixed = {key: only for key, (only,) in others}
    found = []
    for value in values:
        tree: dict[str, Any] = {}
        for key, chosen in {setting: value, **fixed}.items():
            group, leaf = key.split(".")
            tree.setdefault(group, {})[leaf] = chosen
        found.append(build_config(LatentR3Config, tree, name))
    return found


@pytest.mark.parametrize("name", ["sigma-grid", "rl-grid", "sft-grid"])
def test_grid(name: str) -> None:
    tried = [LatentR3(chosen) for chosen in points(name)]
    fits = [method.fit_identity() for method in tried]
    assert all(fits.count(fit) == 1 for fit in fits)
    starts = [method.starts_from() for method in tried]
    if name == "sft-grid":
        assert starts == [None] * len(tried)
    else:
        alone = LatentR3(LatentR3Config()).starts_from().fit_identity()
        assert all(start.fit_identity() == alone for start in starts)


def test_noise_is_as_strong_as_sigma_says(default) -> None:
    rows = batch(default, 2)
    sizes = []
    for sigma in (0.1, 1.0):
        policy = LatentPolicy(default._model.writer, default.config.rl.model_copy(update={"sigma": sigma}), seed=1)
        policy(**rows)
        sizes.append(float(policy.take_notes()["noise_norm"][0]))
    assert sizes[1] == pytest.approx(10 * sizes[0], rel=1e-4)


SHOWN_BY = {
    "laptop": test_laptop,
    "d3": test_d3,
    "without-reasoning": test_without_reasoning,
    "without-latentratt": test_without_latentratt,
    "without-latentratt-rl": test_without_latentratt_rl,
    "sft-only": test_sft_only,
    "group-advantage": test_group_advantage,
    "thought-policy": test_thought_policy,
    "advantage-8-groups": test_advantage_8_groups,
    "advantage-whole-batch": test_advantage_whole_batch,
    "original-grpo": test_original_grpo,
    "original-grpo-latentratt": test_original_grpo,
    "masked-thought": test_thought_at_inference,
    "absent-thought": test_thought_at_inference,
    "zero-thought": test_thought_at_inference,
    "token-embedding-thought": test_thought_at_inference,
    "two-thoughts": test_two_thoughts,
    "kl": test_kl,
    "two-iterations": test_two_iterations,
    "lora-3b": test_lora_3b,
    "before-norm": test_before_norm,
    "window": test_window,
    "sigma-grid": test_grid,
    "rl-grid": test_grid,
    "sft-grid": test_grid,
}
