"""Which language model a run builds on, and how it is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from recbench.contracts.errors import ConfigError, DataError, did_you_mean
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_file, hash_json
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm.presets import PRESETS, cached_preset, preset_folder, preset_outline, preset_recipe
from recbench.llm.quiet import no_progress_bars

log = logging.getLogger(__name__)

PAPER_MODEL = "Qwen/Qwen2.5-1.5B"
_HUB_SFT_LEARNING_RATE = 3e-4
_HUB_RL_LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Backbone:
    """A loaded language model.

    Attributes:
        model: causal language model on the run's device.
        tokenizer: its tokenizer.
        sft_learning_rate, rl_learning_rate: for stages where the user gives none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sft_learning_rate: float
    rl_learning_rate: float


def resolve(requested: str, device: str) -> BackboneSpec:
    """Turn what the user asked for into one exact model.

    Args:
        requested: "auto", a preset, a local folder or a Hugging Face id. "auto" is the paper's model where there is a
            CUDA device and its weights can be had, else the preset "nano".
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: the name is neither.
        DataError: a hub model is not cached and the hub cannot be reached.
    """
    if requested == "auto":
        return _automatic(device)
    if requested in PRESETS:
        return BackboneSpec(name=requested, revision=preset_recipe(requested), requested=requested)
    if Path(requested).is_dir():
        return BackboneSpec(
            name=str(Path(requested).resolve()), revision=_folder_hash(Path(requested)), requested=requested
        )
    if requested.count("/") != 1 or requested.startswith((".", "/", "~")):
        raise ConfigError(
            f"Unknown backbone '{requested}'.{did_you_mean(requested, PRESETS)} It is no preset "
            f"({', '.join(PRESETS)}), no local folder and no Hugging Face id (owner/name).",
            f"Use --backbone nano, --backbone {PAPER_MODEL}, or the path of a folder with a model.",
        )
    return BackboneSpec(name=requested, revision=_hub_revision(requested), requested=requested)


def _automatic(device: str) -> BackboneSpec:
    if device.startswith("cuda"):
        try:
            spec = BackboneSpec(name=PAPER_MODEL, revision=_hub_revision(PAPER_MODEL), requested="auto")
        except DataError as error:
            reason = error.message
        else:
            log.warning("Backbone auto: a CUDA device is here, so %s is used.", PAPER_MODEL)
            return spec
    else:
        reason = "there is no CUDA device"
    log.warning("Backbone auto: %s, so the small preset 'nano' is used, not the paper's %s.", reason, PAPER_MODEL)
    return BackboneSpec(name="nano", revision=preset_recipe("nano"), requested="auto")


def _hub_revision(name: str) -> str:
    """Return the commit of a hub model: the cached one when offline or cached, else the hub's current one."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent.name
        info = HfApi().model_info(name, timeout=10)
    except HFValidationError as error:
        raise ConfigError(f"'{name}' cannot be the name of a hub model: {error}", "Expected owner/name.") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"The model hub has no model '{name}'.", "Check its spelling, or log in.") from error
    except _hub_errors() as error:
        raise DataError(
            f"The weights of {name} are not on this machine and the model hub cannot be reached "
            f"({type(error).__name__}).",
            "Download them where there is a network, or use --backbone nano.",
        ) from error
    return str(info.sha)


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return what the hub's client and transformers raise when a model cannot be had.

    Which HTTP library the client uses depends on its version (requests, httpx, httpx2), and failures to connect come
    out as that library's errors. Their base class is one of the bases of the client's own HTTP error.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, RuntimeError, ValueError)


# What a model and its tokenizer are read from.
_FILES = {".json", ".safetensors", ".txt", ".model", ".jinja"}


def _folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in _FILES)
    if not (folder / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        raise DataError(
            f"The backbone folder {folder} lacks config.json or weights in safetensors form.",
            "Give a folder written by save_pretrained.",
        )
    return hash_json([[path.name, hash_file(path)] for path in files])


def open_backbone(
    train: Examples, ctx: RunContext, precision: Literal["auto", "float32", "bfloat16"] = "auto"
) -> Backbone:
    """Load the run's backbone on its device; a preset is pretrained on ``train`` first where it is not cached.

    Args:
        train: the training rows; a preset sees nothing else.
        precision: of the weights; "auto" is bfloat16 on CUDA (as published) and float32 elsewhere.

    Raises:
        DataError: the model cannot be loaded.
    """
    spec = asked_for(ctx)
    return _load(str(preset_folder(spec.name, train, ctx)) if spec.name in PRESETS else spec.name, spec, precision, ctx)


def reopen_backbone(
    train_fingerprint: str, ctx: RunContext, precision: Literal["auto", "float32", "bfloat16"] = "auto"
) -> Backbone:
    """Load the untuned backbone that a fit started from; nothing is trained.

    Args:
        train_fingerprint: of the training rows of that fit; a preset was pretrained on them.
        precision: as for :func:`open_backbone`.

    Raises:
        DataError: the model cannot be loaded, or a preset is no longer in the cache.
    """
    spec = asked_for(ctx)
    preset = spec.name in PRESETS
    return _load(str(cached_preset(spec.name, train_fingerprint, ctx)) if preset else spec.name, spec, precision, ctx)


def open_tokenizer(ctx: RunContext) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the run's backbone, which is no preset, without its weights.

    Raises:
        DataError: it cannot be loaded.
    """
    spec = asked_for(ctx)
    with _loading(spec):
        return AutoTokenizer.from_pretrained(spec.name, revision=_pinned(spec))


def backbone_outline(ctx: RunContext) -> PreTrainedModel:
    """Return the layers of the run's backbone, without weights (on the meta device). A preset need not be trained.

    Raises:
        DataError: its configuration cannot be loaded.
    """
    spec = asked_for(ctx)
    with _loading(spec), torch.device("meta"):
        if spec.name in PRESETS:
            return preset_outline(spec.name)
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(spec.name, revision=_pinned(spec)))


def asked_for(ctx: RunContext) -> BackboneSpec:
    """Return the run's language model.

    Raises:
        ConfigError: it has none.
    """
    if ctx.backbone is None:
        raise ConfigError("This method builds on a language model, but the run has no backbone.", "Give --backbone.")
    return ctx.backbone


def rl_learning_rate(ctx: RunContext) -> float:
    """Return the learning rate of reinforcement learning for the run's backbone, without loading it."""
    preset = PRESETS.get(asked_for(ctx).name)
    return preset.rl_learning_rate if preset else _HUB_RL_LEARNING_RATE


def _load(source: str, spec: BackboneSpec, precision: str, ctx: RunContext) -> Backbone:
    preset = PRESETS.get(spec.name)
    revision = _pinned(spec)
    with _loading(spec):
        with no_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=_dtype(precision, ctx.device))
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return Backbone(
        model.to(ctx.device),
        tokenizer,
        preset.sft_learning_rate if preset else _HUB_SFT_LEARNING_RATE,
        preset.rl_learning_rate if preset else _HUB_RL_LEARNING_RATE,
    )


def _pinned(spec: BackboneSpec) -> str | None:
    """Return the commit that pins a download; the revision of a preset or a folder is our own hash."""
    return None if spec.name in PRESETS or os.path.isdir(spec.name) else spec.revision


@contextmanager
def _loading(spec: BackboneSpec) -> Iterator[None]:
    """Inside, what transformers and the hub raise is told as a backbone that cannot be loaded."""
    try:
        yield
    except _hub_errors() as error:
        raise DataError(
            f"The backbone {spec.name} cannot be loaded: {error}.", "Check the folder or the network."
        ) from error


def _dtype(precision: str, device: str) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
