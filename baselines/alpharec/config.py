"""Configuration of AlphaRec."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from baselines.nested import NestedMethod
from recbench.contracts.config import StrictModel
from recbench.contracts.errors import ConfigError
from recbench.contracts.hashing import hash_file
from recbench.contracts.method import MethodConfig

BACKBONE = "backbone"
FILE = "file"
METHOD = "method"
Head = Literal["mlp", "linear"]
Users = Literal["instance", "static"]

# Hidden width over text width in the published code: text-embedding-3-large (3072) and BERT or RoBERTa (768). It has
# 2 for OpenAI's ada-002 (1536), which no open model of that width calls for, and 9/32 for all others.
_PUBLISHED_RATIOS = {3072: 1 / 2, 768: 8.0}
_OTHER_RATIO = 9 / 32


class AlphaRecTraining(StrictModel):
    """How AlphaRec is trained; the defaults are the published ones."""

    epochs: int = Field(500, ge=1, description="epochs, at most; an epoch draws as many pairs as the graph has edges")
    batch_size: int = Field(4096, ge=1, description="pairs per optimizer step, at most as many as an epoch draws")
    learning_rate: float = Field(5e-4, gt=0, description="Adam's learning rate, constant")
    negatives: int = Field(256, ge=1, description="negatives per pair, uniform over items the user has no edge to")
    temperature: float = Field(
        0.15, gt=0, description="of InfoNCE; published: 0.15 for books and movies, 0.2 for games"
    )
    eval_epochs: int = Field(5, ge=1, description="epochs between evaluations and checkpoints")
    patience: int | None = Field(
        20, ge=1, description="evaluations without a better metric before it stops; null: never"
    )
    metric: Literal["Recall@20", "NDCG@10"] = Field(
        "Recall@20", description="on validation rows; it chooses the best epoch (published: Recall@20)"
    )
    eval_rows: int | None = Field(None, ge=1, description="validation rows measured, drawn at random; null: all")


class VectorMethod(NestedMethod):
    """A method that is fitted first, for the item vectors of its model."""

    method: str = Field(description="a registered method that gives item vectors ('latentr3')")
    vector: str = Field(
        "thought", description="which of its vectors; for latentr3 'thought' (of a history of this one item) or 'title'"
    )


class AlphaRecConfig(MethodConfig):
    """Configuration of AlphaRec."""

    embedding: str = Field(
        BACKBONE,
        min_length=1,
        description="where item vectors come from: 'backbone' (last token of the title in the run's language model), "
        "'minilm' (all-MiniLM-L6-v2, extra 'encoder'), the folder or Hugging Face id of a sentence encoder, 'file', or "
        "'method' (of another method's fitted model)",
    )
    source: VectorMethod | None = Field(None, description="embedding 'method': which method, fitted on the same rows")
    vectors: str | None = Field(None, description="embedding 'file': path of a file of item vectors, keyed by item ids")
    source_hash: str | None = Field(
        None,
        description="content of the encoder or file (its SHA-256, content hash or hub commit); found out when left "
        "out, and a source with another content is refused",
    )
    head: Head = Field(
        "mlp", description="'mlp': two layers with LeakyReLU between; 'linear': one without bias (published: homo)"
    )
    width_ratio: float | None = Field(
        None,
        gt=0,
        description="hidden width of the MLP over the text vectors' width D; unset: 1/2 for D = 3072, 8 for 768, "
        "else 9/32",
    )
    dim: int = Field(64, ge=1, description="width of user and item vectors")
    layers: int = Field(2, ge=0, description="steps of graph convolution")
    users: Users = Field(
        "instance",
        description="'instance': a query's user is its own history, attached to the graph for this query; 'static': "
        "one node per user of the training rows (published)",
    )
    training: AlphaRecTraining = Field(AlphaRecTraining(), description="training")
    embed_batch_size: int = Field(64, ge=1, description="titles embedded at once")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the backbone's weights; auto: bfloat16 on CUDA"
    )

    @model_validator(mode="before")
    @classmethod
    def _find_out_source(cls, values: Any) -> Any:
        """Put the content of the source into the configuration, and so into the identity of a run."""
        if not isinstance(values, dict) or values.get("source_hash") is not None:
            return values
        embedding, vectors = values.get("embedding", BACKBONE), values.get("vectors")
        if not isinstance(embedding, str) or embedding in ("", BACKBONE, METHOD) or (embedding == FILE and not vectors):
            return values
        return {**values, "source_hash": source_hash(embedding, vectors)}

    @model_validator(mode="after")
    def _fits_together(self) -> AlphaRecConfig:
        if (self.vectors is not None) != (self.embedding == FILE):
            raise ValueError("'embedding: file' and 'vectors: PATH' go together, and neither goes alone")
        if (self.source is not None) != (self.embedding == METHOD):
            raise ValueError("'embedding: method' and 'source' go together, and neither goes alone")
        return self

    def hidden_width(self, text_width: int) -> int:
        """Return the MLP's hidden width for text vectors of width ``text_width``."""
        ratio = self.width_ratio or _PUBLISHED_RATIOS.get(text_width, _OTHER_RATIO)
        return max(1, int(ratio * text_width))


def source_hash(embedding: str, vectors: str | None) -> str | None:
    """Return what determines the content of an encoder or of a file of item vectors.

    Raises:
        ConfigError: there is no such file or encoder.
        MissingExtraError: the encoder's package is not installed.
        DataError: the encoder cannot be had.
    """
    if embedding == FILE:
        path = Path(vectors or "")
        if not path.is_file():
            raise ConfigError(f"vectors: there is no file {path}.", "See recbench.llm.item_vectors for its form.")
        return hash_file(path)
    from recbench.llm.encoder import resolve_encoder

    return resolve_encoder(embedding).revision
