"""Small Qwen2 backbones that recbench trains itself, for machines without a GPU or without a model hub.

A preset has the Qwen2 architecture and a byte-level BPE tokenizer trained on the data set's titles. It is pretrained
on the training interactions only, as packed sequences of quoted titles, and cached by a hash of everything that
determines it, so all runs on the same training rows share one.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from recbench.artifacts.files import atomic_folder, write_json
from recbench.contracts.config import StrictModel
from recbench.contracts.dataset import ItemCatalog, title_key
from recbench.contracts.errors import ConfigError, DataError
from recbench.contracts.examples import Examples
from recbench.contracts.hashing import hash_json
from recbench.contracts.method import RunContext
from recbench.contracts.seeding import derive_seed
from recbench.llm.prompt import PROMPT_VERSION, answer_text, history_text, instruction_text
from recbench.llm.quiet import no_progress_bars
from recbench.llm.train import Objective, TrainSettings, isolated_randomness, run_stage

log = logging.getLogger(__name__)

END_TOKEN = "<|endoftext|>"
# All runs share one pretrained preset, so its seed is not the run's.
_SEED = 0


class Preset(StrictModel):
    """Shape and training of a small backbone.

    Attributes:
        layers, width, inner, heads, kv_heads: of the Qwen2 model.
        vocabulary: tokens of the tokenizer, at most.
        block: tokens in a pretraining row.
        epochs, learning_rate, batch_size: of pretraining (rows of ``block`` tokens per step).
        min_steps, max_epochs: small data sets get more epochs than ``epochs``: as many as ``min_steps`` optimizer
            steps need, but no more than ``max_epochs``.
        sft_learning_rate, rl_learning_rate: used for later stages where the user gives none.
        version: raise it when the recipe changes, so that cached weights are not mixed up.
    """

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int = 4096
    block: int = 256
    epochs: int = 3
    min_steps: int = 400
    max_epochs: int = 15
    learning_rate: float = 3e-3
    batch_size: int = 16
    sft_learning_rate: float = 1e-3
    rl_learning_rate: float = 1e-4
    version: int = 1


PRESETS: dict[str, Preset] = {
    "nano": Preset(layers=2, width=128, inner=384, heads=4, kv_heads=2),
    "micro": Preset(layers=4, width=256, inner=768, heads=8, kv_heads=4, learning_rate=2e-3, sft_learning_rate=5e-4),
}


def preset_recipe(name: str) -> str:
    """Return a hash of how a preset is made; with the training rows and the catalogue it determines the weights."""
    return hash_json([PRESETS[name].model_dump(), PROMPT_VERSION])


def preset_folder(name: str, train: Examples, ctx: RunContext) -> Path:
    """Return the folder of a pretrained preset for these training rows; train it first if there is none.

    Two processes that ask at once train it once; an interrupted training goes on where it stopped.

    Raises:
        ConfigError: it is not there, and this is one of several processes of a distributed run.
    """
    folder = _cache_folder(name, train.fingerprint, ctx)
    if folder.is_dir():
        return folder
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise ConfigError(
            f"The {name} backbone is not pretrained for this data set yet, and one process must do that.",
            "Start the same command without torchrun or accelerate launch; it can be stopped when fine-tuning begins.",
        )
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            work = folder.with_name(f"{folder.name}.work")
            _pretrain(name, PRESETS[name], train, folder, work, ctx)
            shutil.rmtree(work, ignore_errors=True)
    return folder


def cached_preset(name: str, train_fingerprint: str, ctx: RunContext) -> Path:
    """Return the folder of a preset that an earlier fit pretrained.

    Raises:
        DataError: it is no longer in the cache.
    """
    folder = _cache_folder(name, train_fingerprint, ctx)
    if not folder.is_dir():
        raise DataError(
            f"The pretrained {name} backbone of this fit is no longer in the cache ({folder}).",
            "Fit again (recbench run --again): that pretrains it too.",
        )
    return folder


def _cache_folder(name: str, train_fingerprint: str, ctx: RunContext) -> Path:
    key = hash_json([preset_recipe(name), ctx.catalog.fingerprint, train_fingerprint])
    return ctx.cache_dir / "backbones" / f"{name}-{key}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _pretrain(name: str, preset: Preset, train: Examples, folder: Path, work: Path, ctx: RunContext) -> None:
    tokenizer = train_tokenizer(ctx.catalog, preset.vocabulary)
    blocks = pack_sequences(train, ctx.catalog, tokenizer, preset.block)
    log.info(
        "Pretraining the %s backbone on %d titles in sequence (%d blocks of %d tokens); cached for later runs.",
        name, len(train), len(blocks), preset.block,
    )  # fmt: skip
    steps_per_epoch = -(-len(blocks) // preset.batch_size)
    settings = TrainSettings(
        epochs=min(max(preset.epochs, -(-preset.min_steps // steps_per_epoch)), preset.max_epochs),
        learning_rate=preset.learning_rate,
        batch_size=preset.batch_size,
        micro_batch_size=preset.batch_size,
        warmup_steps=20,
        schedule="cosine",
        weight_decay=0.01,
        patience=None,
    )
    with isolated_randomness(derive_seed(_SEED, "preset", name)):
        config = _model_config(preset, len(tokenizer), tokenizer.eos_token_id)
        model = Qwen2ForCausalLM(config).to(ctx.device)
    with ctx.stage("pretrain"):
        result = run_stage(
            f"pretrain-{name}", _NextToken(model), [{"input_ids": block} for block in blocks], None, _stack, settings,
            work, replace(ctx, seed=_SEED),
        )  # fmt: skip
    with atomic_folder(folder) as temporary:
        with no_progress_bars():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        parameters = sum(p.numel() for p in model.parameters())
        write_json(
            temporary / "preset.json",
            {"name": name, **preset.model_dump(), "parameters": parameters, "steps": result.steps},
        )


def preset_outline(name: str) -> Qwen2ForCausalLM:
    """Return a preset's layers, with random weights, before any training."""
    preset = PRESETS[name]
    return Qwen2ForCausalLM(_model_config(preset, preset.vocabulary, end=0))


def _model_config(preset: Preset, vocabulary: int, end: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=preset.width,
        intermediate_size=preset.inner,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )


def train_tokenizer(catalog: ItemCatalog, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the catalogue's titles and the words of the prompt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    titles = [title_key(title) for title in catalog.titles if title_key(title)]
    # The prompt's own words come first in number, so that the frame costs few tokens in every prompt.
    frame = [instruction_text(catalog.noun), history_text(catalog.noun, titles[:2])] * (1 + len(titles))
    bpe.train_from_iterator([*frame, *(answer_text(title) for title in titles)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_TOKEN, pad_token=END_TOKEN, clean_up_tokenization_spaces=False
    )


def pack_sequences(
    train: Examples, catalog: ItemCatalog, tokenizer: PreTrainedTokenizerFast, block: int
) -> list[np.ndarray]:
    """Return int64 blocks of ``block`` tokens: every user's training sequence as ``"a", "b", ...`` and an end token.

    Sequences follow each other without padding; an incomplete last block is filled with end tokens.
    """
    titles = [title_key(title) for title in catalog.titles]
    texts = [
        ", ".join(f'"{titles[item]}"' for item in sequence if titles[item]) + "\n"
        for sequence in train.user_sequences()
    ]
    end = tokenizer.eos_token_id
    stream = np.concatenate([np.array([*ids, end]) for ids in tokenizer(texts)["input_ids"]])
    filled = np.full(-(-len(stream) // block) * block, end, dtype=np.int64)
    filled[: len(stream)] = stream
    return list(filled.reshape(-1, block))


def _stack(rows: list[Any]) -> dict[str, Tensor]:
    return {"input_ids": torch.from_numpy(np.stack([row["input_ids"] for row in rows]))}


class _NextToken(Objective):
    """Mean next-token loss over packed blocks."""

    divisible = True

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        hidden = self.model.get_decoder()(input_ids=input_ids).last_hidden_state[:, :-1]
        logits = self.model.get_output_embeddings()(hidden).float()
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten())}
