"""Sharded weights (FSDP2): every process keeps a part of each weight, and a layer is whole only while it works.

torch shards and accelerate asks it to, under ``transformers.Trainer``. Here is what the rest of recbench needs beside
that: which settings it can work with, whole tensors for checkpoints, whole weights for as long as an evaluation lasts,
and an ordinary model again after the stage.

A layer that works is a meeting of all processes. So all of them must call the layers equally often and in the same
order, except inside :func:`gathered`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from recbench.contracts.errors import ConfigError

# Where a module keeps what it calls before and after its work.
_HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks") and isinstance(value, dict)]

# --- the engine -----------------------------------------------------------------------------------------------------


def check_version() -> None:
    """Refuse the first version of FSDP before accelerate sets it up, which it cannot do everywhere.

    Raises:
        ConfigError: it was asked for.
    """
    version = os.environ.get("FSDP_VERSION", "1")
    if _asked_for() and version != "2":
        raise ConfigError(
            f"Stages are trained under version 2 of FSDP, but fsdp_version is {version}.",
            "Set fsdp_version: 2, as benchmarks/distributed/fsdp.yaml does (FSDP_VERSION=2 with torchrun).",
        )


def _asked_for() -> bool:
    """Return whether `accelerate launch` asked for FSDP, as accelerate itself finds out."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Let FSDP work between CPU processes too: accelerate reads its settings there, but leaves them with DDP."""
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU and _asked_for():
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()


def check_engine(accelerator: Accelerator) -> None:
    """Refuse engines and settings under which a stage cannot be trained.

    Raises:
        ConfigError: that is how the processes were started.
    """
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    if deepspeed is not None and deepspeed.zero_stage == 3:
        raise ConfigError(
            "DeepSpeed ZeRO-3 leaves each process a part of the weights, and recbench cannot gather them from it.",
            "Use FSDP (benchmarks/distributed/fsdp.yaml), DeepSpeed ZeRO-2, DDP (torchrun) or LoRA.",
        )
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is None:
        return
    policy = getattr(fsdp.auto_wrap_policy, "func", fsdp.auto_wrap_policy)
    found = {
        # Versions of accelerate that do not know the second one take the first.
        "fsdp_version: 1": getattr(fsdp, "fsdp_version", 1) != 2,
        "fsdp_auto_wrap_policy: SIZE_BASED_WRAP": getattr(policy, "__name__", "").startswith("size_based"),
        # The layers are those that the model's class names.
        f"fsdp_transformer_layer_cls_to_wrap: {fsdp.transformer_cls_names_to_wrap}": fsdp.transformer_cls_names_to_wrap,
        # A layer that is read again in the backward pass would write its keys and values a second time.
        "fsdp_activation_checkpointing: true": fsdp.activation_checkpointing,
        # Leaves all processes but one without weights before training begins.
        "fsdp_cpu_ram_efficient_loading: true": fsdp.cpu_ram_efficient_loading,
        "fsdp_offload_params: true": type(fsdp.cpu_offload).__name__ == "CPUOffloadPolicy",
        f"mixed_precision: {accelerator.mixed_precision}": accelerator.mixed_precision != "no",
    }
    wrong = [setting for setting, there in found.items() if there]
    if wrong:
        raise ConfigError(
            f"Stages are not trained under FSDP with {', '.join(wrong)}.",
            "benchmarks/distributed/fsdp.yaml has the settings that work (wrapped by transformer layer; weights "
            "have the precision of the method's setting).",
        )


def name_layers(module: Any) -> None:
    """Tell the engine which layers of a module to shard each by itself: those that its language models name."""
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    named = {name for model in models for name in model._no_split_modules or ()}
    module._no_split_modules = sorted(named & {type(part).__name__ for part in module.modules()})


# --- modules --------------------------------------------------------------------------------------------------------


def is_sharded(module: nn.Module) -> bool:
    """Return whether processes share the weights of ``module``."""
    return any(True for _ in _units(module))


def _units(module: nn.Module) -> Iterator[Any]:
    """Yield the parts of ``module`` whose weights are gathered together."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed import fsdp

    # Older versions of torch cannot shard in this way.
    kind = getattr(fsdp, "FSDPModule", ())
    yield from (part for part in module.modules() if isinstance(part, kind))


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, every process has all weights, and may use the layers as often as it likes.

    All processes enter and leave it together. It does nothing for a module that is not sharded.
    """
    units = list(_units(module))
    layers = [unit for unit in units if unit is not module]
    for unit in units:
        unit.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(AcceleratorState().fsdp_plugin.reshard_after_forward, recurse=False)
        for unit in units:
            unit.reshard()


class OrdinaryModules:
    """Brings all parts of a module back to what they were before it was sharded: the same objects, with whole weights.

    The engine changes modules in place. Layers that are sharded by themselves become instances of another class and
    cannot be sharded a second time, so copies stand in for them as long as the stage lasts; of all other parts it is
    enough to put back hooks and weights. The module itself is used up.

    Args:
        module: not sharded yet; :func:`name_layers` was called.
    """

    def __init__(self, module: Any) -> None:
        self._module: nn.Module = module
        self._hooks = {part: [copy(getattr(part, name)) for name in _HOOKS] for part in module.modules()}
        self._layers = [
            (parent, name, layer)
            for parent in list(module.modules())
            for name, layer in parent.named_children()
            if type(layer).__name__ in module._no_split_modules
        ]
        for parent, name, layer in self._layers:
            setattr(parent, name, copy(layer))

    def restore(self) -> None:
        """Gather all weights, and put the parts back; all processes call it together."""
        for unit in _units(self._module):
            unit.reshard()
        whole: dict[nn.Parameter, nn.Parameter] = {}
        for part in self._module.modules():
            for name, weight in list(part.named_parameters(recurse=False, remove_duplicate=False)):
                # A weight that several modules share stays one.
                if weight not in whole:
                    whole[weight] = nn.Parameter(whole_tensor(weight.detach()), weight.requires_grad)
                setattr(part, name, whole[weight])
        for part, hooks in self._hooks.items():
            for name, registered in zip(_HOOKS, hooks, strict=True):
                registry = getattr(part, name)
                registry.clear()
                registry.update(registered)
        for parent, name, layer in self._layers:
            layer.train(getattr(parent, name).training)
            setattr(parent, name, layer)


# --- tensors --------------------------------------------------------------------------------------------------------


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor of which each process has a part as a whole one; all processes call it together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def share_like(tensor: Tensor, weight: Any) -> Tensor:
    """Return a whole tensor, or this process's part of it where ``weight``, of the same shape, is sharded."""
    tensor = tensor.to(weight.device)
    if not hasattr(weight, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, weight.device_mesh, weight.placements)


def whole_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what one process's optimizer would have as its state, on the CPU; all processes call it together."""
    state = optimizer.state_dict()
    state["state"] = {
        number: {name: whole_tensor(value).cpu() if isinstance(value, Tensor) else value for name, value in own.items()}
        for number, own in state["state"].items()
    }
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Read what :func:`whole_optimizer_state` returned, or the state of one process's optimizer."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state["state"] = {
        number: {
            name: share_like(value, weights[number]) if torch.is_tensor(value) and value.dim() else value
            for name, value in own.items()
        }
        for number, own in state["state"].items()
    }
    optimizer.load_state_dict(state)


# --- passes ---------------------------------------------------------------------------------------------------------


def one_end(lm: PreTrainedModel, hidden: Tensor, cache: Cache) -> Tensor:
    """Let all gradients enter a pass over the layers at its end.

    A layer's weights are gathered again when a gradient reaches its output. The keys and values that a pass leaves in
    the cache get gradients from later passes too, some of them before the output does, or instead of it; the weights
    would be gone then. Behind this node all of them wait for each other.

    Args:
        lm: the model.
        hidden: hidden states behind the last layer.
        cache: what the pass left; its keys and values are replaced by equal ones.

    Returns:
        Hidden states equal to ``hidden``.
    """
    if not (hidden.requires_grad and is_sharded(lm)):
        return hidden
    kept = [(layer, name) for layer in cache.layers for name in ("keys", "values")]
    hidden, *tensors = _Together.apply(hidden, *[getattr(layer, name) for layer, name in kept])
    for (layer, name), tensor in zip(kept, tensors, strict=True):
        setattr(layer, name, tensor)
    return hidden


class _Together(torch.autograd.Function):
    """Returns its inputs; in the backward pass the first one always gets a gradient."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.like = tensors[0].shape, tensors[0].new_empty(0)
        return tensors

    @staticmethod
    def backward(ctx: Any, first: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        return (ctx.like.new_zeros(ctx.shape) if first is None else first, *others)
