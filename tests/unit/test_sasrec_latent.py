"""SASRec with latent reasoning: the three rows of the paper's table 13, and what makes each of them that row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latent.sasrec.config import SasRecLatentConfig
from latent.sasrec.items import ItemCodec
from latent.sasrec.method import SasRecLatent
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.method import RunContext
from recbench.llm.grpo import perplexity_reward
from recbench.testing.method_checks import check_method
from recbench.testing.tiny import tiny_catalog, tiny_split

SMALL = {
    "width": 32, "inner_width": 64, "dropout": 0.1,
    "sft": {"epochs": 6, "batch_size": 64, "micro_batch_size": 64, "learning_rate": 3e-3},
    "rl": {"batch_size": 16, "micro_batch_size": 16, "samples": 4, "learning_rate": 1e-2, "max_rows": 64, "sigma": 0.3,
           "log_steps": 1},
}  # fmt: skip


def fitted(folder: Path, log: list | None = None, **changes) -> tuple[SasRecLatent, RunContext]:
    method = SasRecLatent(build_config(SasRecLatentConfig, {**SMALL, **changes}, "test"))
    sink = (lambda record: None) if log is None else (lambda record: log.append(dict(record)))
    ctx = RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", log=sink)
    split = tiny_split()
    method.fit(split.train, split.valid, ctx)
    return method, ctx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    log: list = []
    method, ctx = fitted(tmp_path_factory.mktemp("sasrec-latent"), log)
    return method, ctx, log


def reference_scores(method: SasRecLatent, history: list[int]) -> np.ndarray:
    """Two full passes over one history, as the paper's Eq. 2 and 3 say, without caches or padding."""
    writer = method._writer
    embeds = writer.lm.transformer.wte(torch.tensor([history]))
    with torch.no_grad():
        for _ in range(method.config.thoughts):
            hidden = writer.lm.transformer(inputs_embeds=embeds).last_hidden_state
            thought = writer.attention(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64))
            embeds = torch.cat([embeds, thought.unsqueeze(1)], dim=1)
        return writer.lm(inputs_embeds=embeds).logits[0, -1].numpy()


@pytest.mark.parametrize("thoughts", [0, 1, 2])
def test_scores_are_those_of_full_passes_over_history_and_thoughts(tmp_path, thoughts) -> None:
    sft = {**SMALL["sft"], "epochs": 1, "max_rows": 64}
    method, _ = fitted(tmp_path, thoughts=thoughts, sft=sft, rl={"enabled": False})
    queries = tiny_split().test.queries()
    scores = method._scores(queries)
    for row in (0, 7, len(queries) - 1):
        expected = reference_scores(method, queries.history(row).tolist())
        np.testing.assert_allclose(scores[row], expected, atol=2e-5)


def test_reinforcement_moves_latent_attention_and_nothing_else(run) -> None:
    method, ctx, _ = run
    before = dict(SasRecLatent.load(ctx.work_dir / "sft-model", method.config, ctx)._writer.named_parameters())
    moved = {name for name, weight in method._writer.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all(name.startswith("attention.") for name in moved)


def test_the_reward_is_minus_one_over_the_probability_of_the_next_item(run) -> None:
    method, _, log = run
    assert any("reward_unperturbed" in record for record in log if record["stage"] == "rl")
    rows = tiny_split().train.take(range(6))
    prefix = method._writer.read(*method._codec.pad_prompts(method._codec.prompts(rows)))
    target = torch.from_numpy(rows.target.astype(np.int64))[:, None]
    with torch.no_grad():
        logprob = method._writer.answer_logprobs(prefix, target, torch.ones_like(target))
    rewards = perplexity_reward(logprob, torch.ones_like(target))
    for row in range(6):
        scores = torch.from_numpy(reference_scores(method, rows.history(row).tolist()))
        assert float(rewards[row]) == pytest.approx(-1 / float(scores.softmax(0)[target[row, 0]]), rel=1e-3)


def test_without_thoughts_it_is_plain_and_never_reinforced(tmp_path) -> None:
    method, _ = fitted(tmp_path, thoughts=0, sft={**SMALL["sft"], "epochs": 1})
    assert "rl" not in method.summary()
    assert not any("attention.query" in name for name, _ in method._writer.named_parameters())


def test_long_histories_lose_their_oldest_items() -> None:
    codec, queries = ItemCodec(60, 3), tiny_split().test.queries()
    row = int(np.argmax(queries.history_length))
    assert codec.prompts(queries)[row] == queries.history(row)[-3:].tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"width": 30, "heads": 4}, "multiple of heads"), ({"width": 33, "heads": 3}, "odd"),
     ({"sft": {"select": "ndcg"}}, "select"), ({"sft": {"lora": {"rank": 4}}}, "lora")],
)  # fmt: skip
def test_settings_without_meaning_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(SasRecLatentConfig, values, "test")


@pytest.mark.slow
def test_it_keeps_the_contract() -> None:
    values = {**SMALL, "sft": {**SMALL["sft"], "epochs": 2}, "rl": {**SMALL["rl"], "max_rows": 16}}
    failed = [result for result in check_method("sasrec-latent", values) if result.status == "failed"]
    assert not failed
