"""What the installed RecBole offers, read from its files: importing RecBole would change global state."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbench.contracts.errors import ConfigError, MissingExtraError, did_you_mean

INSTALL_HINT = (
    "Install it: pip install 'recbench[recbole]' (Python 3.10 and 3.11). For Python 3.12 and later: "
    "pip install --no-deps recbole==1.2.1, then pip install colorlog colorama scikit-learn tensorboard texttable tqdm."
)

_FEATURES = "it needs features of items, and rows hold histories and targets only"
_GRAPH = "it needs pretrained embeddings of a knowledge graph"
_READS_TARGET = "RecBole's code of it reads the target while it scores, and queries have none"

#: Models that this adapter refuses, and why.
UNSUPPORTED = {
    "DIEN": "it needs a sampled negative for every item of a history",
    "FDSA": _FEATURES,
    "GRU4RecCPR": _READS_TARGET,
    "GRU4RecF": _FEATURES,
    "GRU4RecKG": _GRAPH,
    "KSR": _GRAPH,
    "S3Rec": _FEATURES,
    "SASRecCPR": _READS_TARGET,
    "SASRecF": _FEATURES,
}


def recbole_folder() -> Path:
    """Return the folder of the installed RecBole package, without importing it.

    Raises:
        MissingExtraError: RecBole is not installed.
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("This method is RecBole's, and RecBole is not installed.", INSTALL_HINT)
    return Path(spec.submodule_search_locations[0])


def sequential_models() -> list[str]:
    """Return the names of RecBole's sequential models in order.

    Raises:
        MissingExtraError: RecBole is not installed.
    """
    folder = recbole_folder()
    modules = {path.stem for path in (folder / "model" / "sequential_recommender").glob("*.py")}
    models = [path.stem for path in (folder / "properties" / "model").glob("*.yaml")]
    return sorted(model for model in models if model.lower() in modules)


def check_model(name: str) -> str:
    """Return the name of a sequential model if this adapter can train it.

    Raises:
        ConfigError: RecBole has no such sequential model, or it needs data that rows of histories do not hold.
        MissingExtraError: RecBole is not installed.
    """
    known = sequential_models()
    if name not in known:
        lower = {model.lower(): model for model in known}
        guess = did_you_mean(name, lower)
        for key, model in lower.items():
            guess = guess.replace(f"'{key}'", f"'{model}'")
        usable = ", ".join(model for model in known if model not in UNSUPPORTED)
        raise ConfigError(f"RecBole has no sequential model '{name}'.{guess} Known: {usable}.")
    if name in UNSUPPORTED:
        raise ConfigError(
            f"RecBole's {name} cannot be run here: {UNSUPPORTED[name]}.",
            f"These can: {', '.join(model for model in known if model not in UNSUPPORTED)}.",
        )
    return name


@cache
def _model_defaults(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {key: _number(value) for key, value in values.items()}


def model_defaults(name: str) -> dict[str, Any]:
    """Return RecBole's own settings of a model (``loss_type`` among them)."""
    return dict(_model_defaults(recbole_folder() / "properties" / "model" / f"{name}.yaml"))


def _number(value: Any) -> Any:
    """Read ``1e-12`` as the number it is meant to be; YAML 1.1 takes it for a string."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
