"""What trains in stage 2, and the policy before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Literal

from latent.reasoner import LatentWriter


@contextmanager
def trained_part(
    writer: LatentWriter, trains: Literal["latent_ratt", "model"], keeps_start: bool
) -> Iterator[LatentWriter | None]:
    """Inside, only what ``trains`` names has gradients; afterwards everything has, in the precision of before.

    Steps of common learning rates are lost in bfloat16's rounding, so a whole model trains in float32 and gets its own
    precision back at the end. LatentRATT alone trains in the precision that it has, as published.

    Yields:
        The frozen policy before the stage, where ``keeps_start``: a copy of all that trains; else None.
    """
    dtype = writer.lm.dtype
    shared = {}
    if trains == "latent_ratt":
        writer.lm.requires_grad_(False)
        shared[id(writer.lm)] = writer.lm
    else:
        writer.float()
    yield deepcopy(writer, shared).requires_grad_(False).eval() if keeps_start else None
    writer.to(dtype).requires_grad_(True)
