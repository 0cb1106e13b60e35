"""AlphaRec on the vectors of a latent-reasoning model (paper table 14)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from latent.config import LatentR3Config
from latent.item_vectors import item_vectors
from latent.method import LatentR3
from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.examples import Queries
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.methods.load import build_method
from recbench.testing.tiny import tiny_catalog, tiny_split

LATENT = {
    "sft": {"epochs": 1, "batch_size": 32, "micro_batch_size": 16, "learning_rate": 1e-3, "max_rows": 64},
    "rl": {"enabled": False},
}
ALPHAREC = {"training": {"epochs": 4, "batch_size": 32, "negatives": 16, "eval_rows": 20}}
FROM_LATENT = {"embedding": "method", "source": {"method": "latentr3", "config": LATENT}, **ALPHAREC}


def context(folder: Path, llm: Path) -> RunContext:
    return RunContext(tiny_catalog(), 3, "cpu", folder / "work", folder / "cache", BackboneSpec(name=str(llm)))


@pytest.fixture(scope="module")
def latent(tmp_path_factory, tiny_llm_folder) -> tuple[LatentR3, RunContext]:
    ctx = context(tmp_path_factory.mktemp("latent-vectors"), tiny_llm_folder)
    method, split = LatentR3(build_config(LatentR3Config, LATENT, "test")), tiny_split()
    method.fit(split.train, split.valid, ctx)
    return method, ctx


def test_the_thought_of_an_item_is_that_of_a_history_of_this_one_item(latent) -> None:
    method, ctx = latent
    vectors, known = method.item_vectors("thought", 7, ctx)
    assert not known[23]
    assert (vectors[23] == 0).all()
    assert known.sum() == 59
    writer, codec = method._model.writer, method._model.codec
    for item in (0, 31, 50):
        one = Queries(np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([0, 1]),
                      np.array([item], np.int32))  # fmt: skip
        with torch.no_grad():
            _, hidden = writer.read_hidden(*codec.pad_prompts(codec.prompts(one)))
            expected = writer.attention(hidden, torch.ones(hidden.shape[:2], dtype=torch.int64))[0]
        torch.testing.assert_close(vectors[item], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vectors[5], vectors[17])


def test_the_title_vector_is_another_one(latent) -> None:
    method, ctx = latent
    thought, _ = method.item_vectors("thought", 16, ctx)
    title, known = method.item_vectors("title", 16, ctx)
    assert title.shape == thought.shape
    assert not torch.allclose(title[known], thought[known], atol=1e-3)


def test_an_unknown_vector_is_refused(latent) -> None:
    method, ctx = latent
    with pytest.raises(ConfigError, match=r"no vector 'thoughts'.*Did you mean 'thought'"):
        item_vectors(method._model.writer, method._model.codec, "thoughts", 8, ctx)


def test_alpharec_ranks_by_the_vectors_of_the_method_it_fits_first(tmp_path, tiny_llm_folder, latent) -> None:
    split, ctx = tiny_split(), context(tmp_path, tiny_llm_folder)
    method = build_method("alpharec", FROM_LATENT)
    assert method.capabilities.uses_backbone
    method.fit(split.train, split.valid, ctx)
    assert {"fit-source", "sft", "embed"} <= ctx.timings_s.keys()
    expected, known = latent[0].item_vectors("thought", 64, latent[1])
    assert method.summary()["text_width"] == expected.shape[1]
    assert method.summary()["items_without_vector"] == int((~known).sum())
    lists = method.rank(split.test.queries(), 10, ctx)
    lists.check(split.test.example_id, 60)
    # A second attempt in the same folder loads the fitted source instead of fitting it again.
    again = build_method("alpharec", FROM_LATENT)
    retry = context(tmp_path, tiny_llm_folder)
    again.fit(split.train, split.valid, retry)
    assert "sft" not in retry.timings_s
    np.testing.assert_array_equal(again.rank(split.test.queries(), 10, retry).items, lists.items)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"embedding": "method"}, "go together"), ({"source": {"method": "latentr3"}}, "go together"),
     ({"embedding": "method", "source": {"method": "popularity"}}, "gives no item vectors"),
     ({"embedding": "method", "source": {"method": "latentr4"}}, "Unknown method"),
     ({"embedding": "method", "source": {"method": "latentr3", "config": {"thots": 1}}}, "thots")],
)  # fmt: skip
def test_sources_that_make_no_sense_are_refused(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_method("alpharec", values)
