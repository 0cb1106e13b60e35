"""RecBole 1.2.1 on today's numpy and torch, inside the worker process: configuration, data set and model.

Known obstacles (all handled here): its ``Config`` asks numpy for names that numpy 2 removed, reads the command line,
evaluates strings as Python, ignores misspelt keys and sets ``CUDA_VISIBLE_DEVICES``; ``recbole.quick_start`` imports
ray and is not used.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic
from torch import nn

from baselines.recbole.job import ModelSpec
from recbench.contracts.errors import ConfigError, did_you_mean

USER, ITEM = "user_id", "item_id"
HISTORY, LENGTH = "item_id_list", "item_length"
NEGATIVE, LABEL = "neg_item_id", "label"
_DATA = "rows"


def prepare_process(device: str) -> None:
    """Give numpy the names back that RecBole uses, and make torch repeatable on a GPU (on the CPU it is)."""
    aliases = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    for name, target in aliases.items():
        if name not in np.__dict__:
            setattr(np, name, target)
    if device != "cpu":
        # Not on the CPU: the call imports torch's compiler, which takes seconds.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # RecBole's chained assignments work with the pandas that recbench requires; a log full of them helps nobody.
    warnings.simplefilter("ignore", FutureWarning)


def seed_everything(seed: int) -> None:
    """Seed the global generators: RecBole's models draw from all of them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def peak_memory_bytes(device: torch.device) -> dict[str, int]:
    """Return this process's peak memory so far: "host", and "device" where that is another."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    result = {"host": peak if sys.platform == "darwin" else peak * 1024}
    if device.type == "cuda":
        result["device"] = torch.cuda.max_memory_allocated(device)
    return result


def build_dataset(folder: Path, spec: ModelSpec, rows: dict[str, list[str]]) -> tuple[Any, Any]:
    """Build RecBole's configuration and data set from rows of our own, which it neither splits nor augments.

    Args:
        folder: the job folder, the current directory.
        spec: the model.
        rows: file suffix -> lines "user, history, target" of one part ("train", "valid"), tab-separated.

    Returns:
        RecBole's ``Config`` and ``SequentialDataset``; ``dataset.build()`` gives the parts in the order of ``rows``.
    """
    from recbole.data.dataset import SequentialDataset

    data = folder / _DATA
    data.mkdir(exist_ok=True)
    header = f"{USER}:token\t{HISTORY}:token_seq\t{ITEM}:token\n"
    for suffix, lines in rows.items():
        (data / f"{_DATA}.{suffix}.inter").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    config = _build_config(spec, list(rows))
    return config, SequentialDataset(config)


def _build_config(spec: ModelSpec, parts: list[str]) -> Any:
    from recbole.config import Config
    from recbole.data.transform import construct_transform

    class WatchedConfig(Config):
        """A configuration that remembers which keys were asked for."""

        def __getitem__(self, key: str) -> Any:
            self.__dict__.setdefault("asked_for", set()).add(key)
            return super().__getitem__(key)

    values = {
        "data_path": ".",
        "benchmark_filename": parts,
        "load_col": {"inter": [USER, HISTORY, ITEM]},
        "alias_of_item_id": [HISTORY],
        "USER_ID_FIELD": USER,
        "ITEM_ID_FIELD": ITEM,
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": LENGTH,
        "NEG_PREFIX": "neg_",
        "LABEL_FIELD": LABEL,
        "MAX_ITEM_LIST_LENGTH": spec.max_history,
        "train_neg_sample_args": None,
        "repeatable": True,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["NDCG"],
        "valid_metric": "NDCG@10",
        # The parent left this process exactly the device that it may use.
        "gpu_id": os.environ["CUDA_VISIBLE_DEVICES"],
        "show_progress": False,
        "checkpoint_dir": ".",
    }
    if spec.loss != "own":
        values["loss_type"] = "CE" if spec.loss == "ce" else "BPR"
    given = {**spec.settings, **spec.model_args}
    # Config evaluates strings as Python expressions, so it gets ours only after it is built.
    config = WatchedConfig(
        model=spec.model,
        dataset=_DATA,
        config_dict={**values, **{key: value for key, value in given.items() if not isinstance(value, str)}},
    )
    for key, value in given.items():
        if isinstance(value, str):
            config[key] = value
    # Some transforms add keys that their models read.
    construct_transform(config)
    return config


def build_model(config: Any, dataset: Any, spec: ModelSpec) -> nn.Module:
    """Build the model on its device, with the loss asked for.

    Raises:
        ConfigError: the model cannot have that loss, does not read one of ``spec.model_args``, or refuses a value.
    """
    from recbole.model.loss import BPRLoss
    from recbole.utils import get_model

    from baselines.recbole.accelerate import LastPositionSASRec, accelerate

    model_class = LastPositionSASRec if spec.model == "SASRec" else get_model(spec.model)
    config.__dict__["asked_for"] = set()
    try:
        model = model_class(config, dataset)
    except (NotImplementedError, AssertionError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"RecBole's {spec.model} cannot be built with loss '{spec.loss}' and these settings: {error}",
            f"'recbench methods show recbole:{spec.model}' lists its settings.",
        ) from error
    _check_model_args(config, spec)
    if spec.loss == "bce":
        if not isinstance(getattr(model, "loss_fct", None), BPRLoss):
            raise ConfigError(
                f"RecBole's {spec.model} computes its loss in a way that binary cross-entropy cannot replace.",
                "Use --set loss=ce or --set loss=bpr.",
            )
        model.loss_fct = PairwiseBCE()
    accelerate(model, config["device"])
    return model.to(config["device"])


def _check_model_args(config: Any, spec: ModelSpec) -> None:
    asked = config.__dict__["asked_for"]
    unread = sorted(set(spec.model_args) - asked)
    if unread:
        own = sorted(asked - {"device", USER, ITEM})
        raise ConfigError(
            f"model_args: RecBole's {spec.model} does not read {', '.join(map(repr, unread))}."
            f"{did_you_mean(unread[0], own)}",
            f"It reads: {', '.join(key for key in own if key.islower())}.",
        )


class PairwiseBCE(nn.Module):
    """Binary cross-entropy of a target and one sampled negative, in the place of RecBole's ``BPRLoss``.

    Mean over both labels, as in the published SASRec and in the paper's traditional baselines.
    """

    def forward(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """Return the loss, (); ``positive`` and ``negative`` are scores of equal shape."""
        return 0.5 * (nn.functional.softplus(-positive).mean() + nn.functional.softplus(negative).mean())
