"""AlphaRec as a method: planted tastes, items nobody had, sources of vectors, and what identifies a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.alpharec.config import AlphaRecConfig
from baselines.alpharec.method import AlphaRec
from recbench.contracts.config import build_config
from recbench.contracts.dataset import ItemCatalog
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples, build_examples
from recbench.contracts.method import RunContext
from recbench.data.store import save_dataset
from recbench.experiment.config import ExperimentConfig
from recbench.experiment.plan import make_plan
from recbench.llm.item_vectors import read_item_vectors, write_item_vectors
from recbench.methods.load import build_method
from recbench.testing.method_checks import assert_method
from recbench.testing.tiny import tiny_catalog, tiny_dataset

N_TASTES, PER_TASTE = 4, 10
N_PLANTED = N_TASTES * PER_TASTE
#: The last item of each taste occurs in no row.
COLD = np.arange(PER_TASTE - 1, N_PLANTED, PER_TASTE)
SHORT = {"width_ratio": 2, "training": {"epochs": 20, "batch_size": 32, "negatives": 16, "learning_rate": 0.005}}


def planted() -> tuple[Examples, ItemCatalog, torch.Tensor]:
    """Sixty users of one taste each, five items per user; a text vector tells the taste, under noise."""
    rng = np.random.default_rng(0)
    users = np.arange(60)
    own = [u % N_TASTES * PER_TASTE + rng.permutation(PER_TASTE - 1)[:5] for u in users]
    rows = build_examples(users, users, users, [items[:4] for items in own], [items[4] for items in own])
    ids = tuple(f"p{n}" for n in range(N_PLANTED))
    taste = np.eye(N_TASTES)[np.arange(N_PLANTED) // PER_TASTE]
    vectors = np.concatenate([taste, rng.normal(size=(N_PLANTED, 12)) * 0.1], axis=1).astype(np.float32)
    return rows, ItemCatalog(ids, ids), torch.from_numpy(vectors)


@pytest.fixture
def planted_file(tmp_path: Path) -> Path:
    _, catalog, vectors = planted()
    write_item_vectors(tmp_path / "planted.safetensors", catalog.ids, vectors)
    return tmp_path / "planted.safetensors"


def context(folder: Path, catalog: ItemCatalog) -> RunContext:
    return RunContext(catalog, 3, "cpu", folder, folder)


@pytest.mark.parametrize("users", ["instance", "static"])
def test_planted_tastes_are_found_and_items_nobody_had_are_among_them(
    tmp_path: Path, planted_file: Path, users: str
) -> None:
    rows, catalog, _ = planted()
    test = rows.take(np.arange(40, 60))
    ctx = context(tmp_path, catalog)
    method = build_method("alpharec", {"embedding": "file", "vectors": str(planted_file), "users": users, **SHORT})
    method.fit(rows.take(np.arange(40)), rows.take(np.arange(40, 50)), ctx)
    lists = method.rank(test.queries(), N_PLANTED, ctx)
    ranked = lists.items.reshape(len(test), N_PLANTED)
    own = (ranked[:, :PER_TASTE] // PER_TASTE == (test.user % N_TASTES)[:, None]).mean()
    hits = (ranked[:, :PER_TASTE] == test.target[:, None]).any(axis=1).mean()
    # A random list has a quarter of each. These users are new: their histories are all that is known of them.
    assert own > 0.85
    assert hits > 0.85
    cold_places = np.argsort(ranked, axis=1)[:, COLD]
    own_cold = cold_places[np.arange(len(test)), test.user % N_TASTES]
    assert (own_cold == cold_places.min(axis=1)).mean() > 0.85


def test_text_vectors_are_frozen_and_decide(tmp_path: Path, planted_file: Path) -> None:
    rows, catalog, vectors = planted()
    ctx = context(tmp_path, catalog)
    file_hash = AlphaRecConfig(embedding="file", vectors=str(planted_file)).source_hash
    lists = []
    for number, made in enumerate([vectors, vectors.roll(PER_TASTE // 2, dims=0)]):
        path = tmp_path / f"v{number}.safetensors"
        write_item_vectors(path, catalog.ids, made)
        method = build_method("alpharec", {"embedding": "file", "vectors": str(path), "head": "linear", **SHORT})
        method.fit(rows, rows.take([]), ctx)
        assert method.summary()["hidden_width"] is None
        lists.append(method.rank(rows.queries(), 5, ctx))
        torch.testing.assert_close(read_item_vectors(path, catalog)[0], made)
        assert (method.config.source_hash == file_hash) == (number == 0)
    assert not np.array_equal(lists[0].items, lists[1].items)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, {"users": "static", "head": "linear", "layers": 1}])
def test_contract(values: dict[str, object]) -> None:
    assert_method("alpharec", {"training": {"epochs": 6, "negatives": 16, "eval_rows": 20}, **values})


def test_items_without_title_are_ranked_like_an_average_item(tmp_path: Path, planted_file: Path) -> None:
    rows, catalog, vectors = planted()
    kept = np.setdiff1d(np.arange(N_PLANTED), [3, 39])
    write_item_vectors(planted_file, [catalog.ids[n] for n in kept], vectors[kept])
    found, known = read_item_vectors(planted_file, catalog)
    assert np.flatnonzero(~known).tolist() == [3, 39]
    assert (found[[3, 39]] == 0).all()
    ctx = context(tmp_path, catalog)
    method = build_method("alpharec", {"embedding": "file", "vectors": str(planted_file), **SHORT})
    method.fit(rows, rows.take([]), ctx)
    assert method.summary()["items_without_vector"] == 2
    lists = method.rank(rows.queries(), N_PLANTED, ctx)
    assert (np.sort(lists.items.reshape(-1, N_PLANTED), axis=1) == np.arange(N_PLANTED)).all()


def test_only_vectors_of_the_backbone_make_a_run_depend_on_one(planted_file: Path) -> None:
    save_dataset(tiny_dataset())
    write_item_vectors(planted_file, tiny_catalog().ids, torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))
    asked = ExperimentConfig(method="alpharec", dataset="tiny", backbone="nano")
    assert make_plan(asked).backbone is not None
    values = {"embedding": "file", "vectors": str(planted_file)}
    plan = make_plan(replace_config(asked, values, backbone=None))
    assert plan.backbone is None
    with pytest.raises(ConfigError, match="builds on no language model"):
        make_plan(replace_config(asked, values, backbone="nano"))
    # The same path with another content is another run; the resolved configuration asks for the old content.
    first = plan.run_id
    assert make_plan(ExperimentConfig(**plan.resolved)).run_id == first
    write_item_vectors(planted_file, tiny_catalog().ids, torch.ones(60, 4))
    assert make_plan(replace_config(asked, values, backbone=None)).run_id != first
    stale = make_plan(ExperimentConfig(**plan.resolved))
    assert stale.run_id == first
    ctx = context(planted_file.parent, tiny_catalog())
    with pytest.raises(DataError, match="has the content"):
        stale.method.fit(stale.split.train, stale.split.valid, ctx)


def replace_config(asked: ExperimentConfig, values: dict[str, object], backbone: str | None) -> ExperimentConfig:
    return asked.model_copy(update={"config": values, "backbone": backbone})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embedding": "file"}, "go together"),
        ({"vectors": "x.safetensors"}, "go together"),
        ({"embedding": "file", "vectors": "no/such.safetensors"}, "there is no file"),
        ({"embedding": "minilmm"}, "is no sentence encoder"),
        ({"training": {"temperature": 0}}, "training.temperature"),
    ],
)
def test_wrong_configurations(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(AlphaRecConfig, values, "method 'alpharec'")


def test_files_of_item_vectors_that_are_none(tmp_path: Path) -> None:
    catalog = planted()[1]
    path = tmp_path / "v.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no file of item vectors"):
        read_item_vectors(path, catalog)
    write_item_vectors(path, ["a", "b"], torch.ones(2, 3))
    with pytest.raises(DataError, match="None of the 2 item ids"):
        read_item_vectors(path, catalog)
    write_item_vectors(path, ["p1"], torch.tensor([[torch.nan]]))
    with pytest.raises(DataError, match="not finite"):
        read_item_vectors(path, catalog)
    with pytest.raises(ValueError, match="1 of them distinct"):
        write_item_vectors(path, ["a", "a"], torch.ones(2, 3))


def test_a_catalogue_without_titles_needs_a_file(tmp_path: Path) -> None:
    rows = planted()[0]
    ids = tuple(f"p{n}" for n in range(N_PLANTED))
    with pytest.raises(DataError, match="No item of the data set has a title"):
        AlphaRec(AlphaRecConfig()).fit(rows, rows, context(tmp_path, ItemCatalog(ids, ("",) * N_PLANTED)))


def test_another_training_does_not_go_on_from_this_ones_checkpoint(tmp_path: Path, planted_file: Path) -> None:
    rows, catalog, _ = planted()
    values = {"embedding": "file", "vectors": str(planted_file), **SHORT}
    ctx = context(tmp_path / "a", catalog)
    fresh, used = (build_method("alpharec", values) for _ in range(2))
    used.fit(rows.take(np.arange(30)), rows.take([]), ctx)
    used.fit(rows, rows.take([]), ctx)
    fresh.fit(rows, rows.take([]), replace(ctx, work_dir=tmp_path / "b"))
    ours, theirs = (method.rank(rows.queries(), 5, ctx) for method in (used, fresh))
    assert np.array_equal(ours.items, theirs.items)
    assert np.array_equal(ours.scores, theirs.scores)
