"""Options that several commands have, said once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, Enum):
    """Where torch computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


MethodOption = Annotated[str | None, typer.Option("--method", help="Method, see 'recbench methods list'.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Data set, see 'recbench datasets list'.")]
BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="Language model: auto (default), nano, micro, a Hugging Face id, or a folder."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.  [default: 42]")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with the keys of a run folder's config.yaml.", metavar="F.yaml"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="a.b=c",
        help="Set one value of the method's configuration, or of the protocol (protocol.split=leave-one-out). "
        "May be given many times; wins over the file.",
    ),
]
LimitTrainOption = Annotated[
    int | None,
    typer.Option("--limit-train", help="Keep at most N training rows. A try-out, marked as such.", metavar="N"),
]
LimitTestOption = Annotated[
    int | None,
    typer.Option(
        "--limit-test",
        help="Keep at most N test rows and N validation rows. A try-out, marked as such.",
        metavar="N",
    ),
]
RunsDirOption = Annotated[Path, typer.Option("--runs-dir", help="Folder of all runs.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where torch computes.")]

RUNS = Path("runs")
