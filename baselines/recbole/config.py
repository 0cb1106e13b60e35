"""Typed configurations of RecBole's models. Defaults are RecBole's own, except the loss of the paper's three."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model, model_validator

from baselines.recbole.catalog import model_defaults
from recbench.contracts.method import MethodConfig

# Settings that the adapter decides itself, with the loss and the way rows are fed.
_OURS = ("loss_type", "transform")

_TRAINING_KEYS = ("loss", "learning_rate", "weight_decay", "epochs", "patience", "train_batch_size", "model_args")


class TrainingConfig(MethodConfig):
    """How a model of RecBole is trained: Adam, early stopping by NDCG@10 of the validation rows (full ranking)."""

    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty that Adam adds to the gradient")
    epochs: int = Field(300, ge=1, description="passes over the training rows, at most")
    patience: int = Field(10, ge=1, description="epochs without a better validation NDCG@10 before training stops")
    train_batch_size: int = Field(2048, ge=1, description="rows per step")
    model_args: dict[str, Any] = Field(
        default_factory=dict, description="further settings that RecBole's model reads and that have no field here"
    )

    @model_validator(mode="after")
    def _fields_first(self) -> TrainingConfig:
        twice = sorted(set(self.model_args) & {*type(self).model_fields, *_OURS})
        if twice:
            raise ValueError(f"{', '.join(twice)} cannot be set in model_args: use the field itself, or 'loss'")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the fields that are the model's own settings, under RecBole's names."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if key not in _TRAINING_KEYS}


class PaperConfig(TrainingConfig):
    """The paper trained its traditional models with binary cross-entropy and sampled negatives."""

    loss: Literal["bce", "bpr", "ce"] = Field(
        "bce",
        description="'bce': binary cross-entropy with one uniform negative per row, never the target (the paper's); "
        "'bpr': pairwise ranking with the same negatives; 'ce': softmax over all items, often clearly stronger",
    )


class CaserConfig(PaperConfig):
    """Settings of Caser."""

    embedding_size: int = Field(64, ge=1, description="width of user and item embeddings")
    nv: int = Field(4, ge=1, description="vertical filters")
    nh: int = Field(8, ge=1, description="horizontal filters per height")
    dropout_prob: float = Field(0.4, ge=0, lt=1, description="dropout before the output layers")
    reg_weight: float = Field(1e-4, ge=0, description="weight of the L2 penalty in the loss")


class GRU4RecConfig(PaperConfig):
    """Settings of GRU4Rec."""

    embedding_size: int = Field(64, ge=1, description="width of item embeddings")
    hidden_size: int = Field(128, ge=1, description="width of the GRU's state")
    num_layers: int = Field(1, ge=1, description="GRU layers")
    dropout_prob: float = Field(0.3, ge=0, lt=1, description="dropout of item embeddings")


class SASRecConfig(PaperConfig):
    """Settings of SASRec."""

    n_layers: int = Field(2, ge=1, description="transformer layers")
    n_heads: int = Field(2, ge=1, description="attention heads; must divide hidden_size")
    hidden_size: int = Field(64, ge=1, description="width of embeddings and layers")
    inner_size: int = Field(256, ge=1, description="width of the feed-forward layers")
    hidden_dropout_prob: float = Field(0.5, ge=0, lt=1, description="dropout of hidden states")
    attn_dropout_prob: float = Field(0.5, ge=0, lt=1, description="dropout of attention weights")
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = Field(
        "gelu", description="activation of the feed-forward layers"
    )
    layer_norm_eps: float = Field(1e-12, gt=0, description="added to the variance in layer normalisation")
    initializer_range: float = Field(0.02, gt=0, description="standard deviation of the initial weights")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> SASRecConfig:
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        return self


def family_config(model: str) -> type[TrainingConfig]:
    """Return a configuration with the settings of any of RecBole's models as typed fields.

    Raises:
        MissingExtraError: RecBole is not installed.
    """
    defaults = model_defaults(model)
    own = str(defaults.get("loss_type", "own")).lower()
    if "loss_type" in defaults:
        choices: Any = Literal["bce", "bpr", "ce"]
        about = f"RecBole's own for this model is '{own}'; not every model offers all three"
    else:
        choices, about = Literal["own"], "this model has one loss of its own"
    fields: dict[str, Any] = {"loss": (choices, Field(own, description=about))}
    for key, value in defaults.items():
        if key not in _OURS:
            fields[key] = (_type_of(value), Field(value, description=f"RecBole's setting '{key}' of {model}"))
    return create_model(f"{model}Config", __base__=TrainingConfig, __module__=__name__, **fields)


def _type_of(value: Any) -> Any:
    """Return the type of a setting by its default; whole numbers may be meant as real ones."""
    if isinstance(value, (bool, str)):
        return type(value)
    if isinstance(value, (int, float)):
        return int | float if isinstance(value, int) else float
    if isinstance(value, list):
        return list[Any]
    return Any
