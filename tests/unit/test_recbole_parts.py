"""The adapter's pure parts: vocabulary, negatives, validation metric, configurations, catalogue."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.recbole import catalog
from baselines.recbole.catalog import UNSUPPORTED, check_model, model_defaults, sequential_models
from baselines.recbole.isolate import PairwiseBCE
from baselines.recbole.job import FitJob, ModelSpec
from baselines.recbole.method import sequential_model
from baselines.recbole.training import Progress, expected_ndcg, resume, sample_negatives, save_checkpoint
from baselines.recbole.vocabulary import Vocabulary, example_rows
from recbench.contracts.errors import ConfigError, MissingExtraError, TrainingError
from recbench.contracts.examples import build_examples
from recbench.contracts.method import RunContext
from recbench.methods.load import build_method, load_method_class
from recbench.testing.tiny import tiny_catalog, tiny_split

needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")

histories = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=7), min_size=1, max_size=6)


@given(histories=histories, known=st.sets(st.integers(0, 9), min_size=1), length=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_histories_equal_a_loop(histories: list[list[int]], known: set[int], length: int) -> None:
    items = np.array(sorted(known, reverse=True), np.int32)
    vocabulary = Vocabulary(items, np.array([4, 2], np.int32))
    n = len(histories)
    queries = build_examples(range(n), [0] * n, range(n), histories, [0] * n).queries()
    matrix, lengths = vocabulary.histories(queries, length)
    number = {int(item): place + 1 for place, item in enumerate(items)}
    for row, history in enumerate(histories):
        kept = [number[item] for item in history if item in number][-length:]
        assert matrix[row].tolist() == kept + [0] * (length - len(kept))
        assert lengths[row] == max(1, len(kept))


def test_users_and_items_that_are_not_known_are_padding() -> None:
    vocabulary = Vocabulary(np.array([7, 3], np.int32), np.array([4, 2], np.int32))
    assert vocabulary.user_numbers(np.array([2, 4, 3, 99])).tolist() == [2, 1, 0, 0]
    assert vocabulary.item_numbers(np.array([3, 7, 0, 99])).tolist() == [2, 1, 0, 0]


def test_rows_hold_the_examples_and_the_vocabulary_in_order() -> None:
    examples = build_examples([0, 1], [5, 6], [0, 1], [[1, 2], [3]], [4, 1])
    assert example_rows(examples) == ["5\t1 2\t4", "6\t3\t1"]
    rows = Vocabulary(np.array([7, 3, 1], np.int32), np.array([4, 2], np.int32)).rows(max_history=2)
    assert rows == ["4\t7 7\t7", "2\t3\t3", "4\t1\t1"]


def test_negatives_are_uniform_and_never_the_target() -> None:
    n_known, n_rows = 5, 20_000
    targets = torch.full((n_rows,), 3)
    drawn = sample_negatives(targets, n_known, np.random.default_rng(0)).numpy()
    counts = np.bincount(drawn, minlength=n_known + 1)
    assert counts[0] == counts[3] == 0
    assert np.all(np.abs(counts[[1, 2, 4, 5]] - n_rows / 4) < 5 * math.sqrt(n_rows * 0.25 * 0.75))


def test_negatives_need_a_second_item() -> None:
    with pytest.raises(TrainingError, match="one item only"):
        sample_negatives(torch.tensor([1]), 1, np.random.default_rng(0))


def test_ndcg_by_hand() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 2.0, 1.0], [-torch.inf, 1.0, 2.0]])
    result = expected_ndcg(scores, torch.tensor([0, 0, 0, 0]))
    # Places 1 and 3; tied at 1 and 2; masked away.
    tied = (1 + 1 / math.log2(3)) / 2
    assert torch.allclose(result, torch.tensor([1.0, 0.5, tied, 0.0], dtype=torch.float64), atol=1e-12)


def test_ndcg_equals_the_mean_over_orders_of_ties() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, size=(50, 30)).astype(np.float32)
    target = rng.integers(0, 30, size=50)
    result = expected_ndcg(torch.from_numpy(scores), torch.from_numpy(target)).numpy()
    for row in range(50):
        own = scores[row, target[row]]
        first, n_tied = int((scores[row] > own).sum()) + 1, int((scores[row] == own).sum())
        places = range(first, first + n_tied)
        assert result[row] == pytest.approx(np.mean([1 / math.log2(p + 1) if p <= 10 else 0.0 for p in places]))


def test_a_checkpoint_brings_back_model_optimizer_and_best(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    spec = ModelSpec(model="SASRec", loss="ce", settings={}, model_args={}, max_history=3)
    job = FitJob(
        spec=spec,
        learning_rate=0.1,
        weight_decay=0.0,
        epochs=5,
        patience=2,
        train_batch_size=4,
        seed=0,
        mask_history=False,
        device="cpu",
        identity="this job",
    )
    model, optimizer = build()
    step(model, optimizer)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, optimizer)
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, job, model, optimizer, best, Progress(2, 1, 0.25, 1.5))
    other, other_optimizer = build()
    other_best, progress = resume(path, job, other, other_optimizer)
    assert progress == Progress(2, 1, 0.25, 1.5)
    assert all(torch.equal(other_best[name], best[name]) for name in best)
    step(model, optimizer)
    step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))

    stranger, stranger_optimizer = build()
    _, progress = resume(path, job.model_copy(update={"identity": "another"}), stranger, stranger_optimizer)
    assert progress == Progress()


@pytest.mark.parametrize(
    ("progress", "over"),
    [
        (Progress(), False),
        (Progress(epoch=4, best_epoch=3, best_value=0.1), False),
        (Progress(epoch=5, best_epoch=3, best_value=0.1), True),
        (Progress(epoch=20, best_epoch=20, best_value=0.1), True),
        # Without validation rows nothing stops training early.
        (Progress(epoch=19, best_epoch=19), False),
        (Progress(epoch=20, best_epoch=20), True),
    ],
)
def test_early_stopping(progress: Progress, over: bool) -> None:
    assert progress.over(epochs=20, patience=2) == over


def test_pairwise_bce_is_torchs() -> None:
    positive, negative = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    logits, labels = torch.cat([positive, negative]), torch.cat([torch.ones(40), torch.zeros(40)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert torch.allclose(PairwiseBCE()(positive, negative), expected)


@needs_recbole
def test_all_sequential_models_are_known() -> None:
    known = sequential_models()
    assert len(known) >= 30
    assert {"SASRec", "GRU4Rec", "Caser", "BERT4Rec", "NARM", "LightSANs", "FOSSIL"} <= set(known)
    assert set(UNSUPPORTED) <= set(known)
    assert "BPR" not in known


@needs_recbole
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NARMM", r"no sequential model 'NARMM'\. Did you mean 'NARM'\?"),
        ("sasrec", "Did you mean 'SASRec'"),
        ("LightGCN", "no sequential model 'LightGCN'"),
        ("KSR", "knowledge graph"),
        ("SASRecCPR", "reads the target"),
    ],
)
def test_models_that_cannot_be_run(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_method_class(f"recbole:{name}")


@needs_recbole
def test_small_numbers_are_numbers() -> None:
    assert model_defaults("SASRec")["layer_norm_eps"] == 1e-12
    assert check_model("NARM") == "NARM"


@needs_recbole
@pytest.mark.parametrize(("name", "model"), [("sasrec", "SASRec"), ("gru4rec", "GRU4Rec"), ("caser", "Caser")])
def test_defaults_are_recboles_but_for_the_loss(name: str, model: str) -> None:
    config = build_method(name).config
    defaults = model_defaults(model)
    defaults.pop("loss_type")
    assert config.settings() == defaults
    assert (config.loss, config.learning_rate, config.epochs, config.train_batch_size) == ("bce", 1e-3, 300, 2048)
    assert (config.weight_decay, config.patience) == (0.0, 10)


@needs_recbole
def test_family_has_typed_settings_and_the_models_own_loss() -> None:
    config = build_method("recbole:NARM", {"hidden_size": 32}).config
    assert config.loss == "ce"
    assert config.settings() == {"embedding_size": 64, "hidden_size": 32, "n_layers": 1, "dropout_probs": [0.25, 0.5]}
    assert build_method("recbole:FPMC").config.loss == "bpr"
    assert build_method("recbole:TransRec").config.loss == "own"
    with pytest.raises(ConfigError, match=r"hiden_size: unknown key\. Did you mean 'hidden_size'\?"):
        build_method("recbole:NARM", {"hiden_size": 32})
    assert sequential_model("NARM") is sequential_model("NARM")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3}, "hidden_size 64 is not a multiple of n_heads 3"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: got 1.5"),
        ({"loss": "mse"}, "loss: got 'mse'"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"model_args": {"n_layers": 3}}, "n_layers cannot be set in model_args"),
        ({"model_args": {"loss_type": "CE"}}, "loss_type cannot be set in model_args"),
        ({"hidden_sise": 32}, "Did you mean 'hidden_size'"),
    ],
)
def test_wrong_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_method("sasrec", values)


def test_without_recbole_the_method_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        catalog.importlib.util, "find_spec", lambda name, *rest: None if name == "recbole" else find(name, *rest)
    )
    method = build_method("sasrec")
    split = tiny_split()
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps recbole==1\.2\.1"):
        method.fit(split.train, split.valid, RunContext(tiny_catalog(), 0, "cpu", tmp_path, tmp_path))
    sequential_model.cache_clear()
    with pytest.raises(MissingExtraError, match=r"recbench\[recbole\]"):
        load_method_class("recbole:NARM")


def test_no_training_rows(tmp_path: Path) -> None:
    split = tiny_split()
    with pytest.raises(TrainingError, match="no training row"):
        build_method("sasrec").fit(
            split.train.take([]), split.valid, RunContext(tiny_catalog(), 0, "cpu", tmp_path, tmp_path)
        )
