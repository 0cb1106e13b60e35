"""What can be said against a fit before anything is trained: settings that its backbone or processes do not allow."""

from __future__ import annotations

from typing import Protocol

from recbench.contracts.errors import ConfigError
from recbench.contracts.method import RunContext
from recbench.llm.backbone import asked_for, backbone_outline, open_tokenizer
from recbench.llm.codec import TemplateChoice
from recbench.llm.frame import make_frame
from recbench.llm.lora import LoraSettings, check_targets
from recbench.llm.presets import PRESETS
from recbench.llm.train import check_batch


class StageSettings(Protocol):
    """What is checked of a stage's settings."""

    @property
    def batch_size(self) -> int: ...

    @property
    def micro_batch_size(self) -> int: ...

    @property
    def lora(self) -> LoraSettings | None: ...


def check_fit(template: TemplateChoice, stage: StageSettings, ctx: RunContext) -> None:
    """Refuse what would be found out only when the stage begins. The first thing of a fit; no weights are loaded.

    Raises:
        ConfigError: the batch does not divide among the processes, the backbone has no chat template, or a target of
            ``stage.lora`` is no linear layer of it.
        DataError: its tokenizer or configuration cannot be loaded.
    """
    check_batch(stage.batch_size, stage.micro_batch_size)
    check_template(template, ctx)
    if stage.lora is not None and stage.lora.targets != "all-linear":
        check_targets(backbone_outline(ctx), stage.lora.targets)


def check_template(template: TemplateChoice, ctx: RunContext) -> None:
    """Refuse a chat with a backbone that has no chat template, or one that cannot be used.

    Raises:
        ConfigError: it has none.
        DataError: its tokenizer cannot be loaded, or its template does not show a message as it is.
    """
    if template != "chat":
        return
    name = asked_for(ctx).name
    if name in PRESETS:
        raise ConfigError(f"The preset '{name}' has no chat template.", "Use template=alpaca.")
    make_frame(open_tokenizer(ctx), template)
