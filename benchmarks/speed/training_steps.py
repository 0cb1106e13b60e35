"""What the benchmarks of training steps share: a model, prompts, and how a step is timed, compared and measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.speed.bench_decode import LARGE, time_in_turns
from benchmarks.speed.published_latent import Sequences
from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from recbench.llm.presets import PRESETS

#: Tokens of the instruction, the same in all prompts of a data set: what the "alpaca" prompt has with the tokenizers
#: of the presets on ml-100k and beauty_2014.
BEGINNING = 67
CONDITIONS = {"model": "micro, random weights", "device": "cpu", "threads": 1}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Work:
    """A model with random weights, and prompts of random tokens.

    Attributes:
        writer, attention: the model, and its LatentRATT.
        prompt_ids: int64 (B, P); the first columns are equal in all rows.
        answer_ids: int64 (B, T).
    """

    writer: LatentWriter
    attention: LatentAttention
    prompt_ids: Tensor
    answer_ids: Tensor

    @property
    def batch(self) -> dict[str, Tensor]:
        """The batch as our objectives take it."""
        mask = torch.ones_like(self.prompt_ids)
        return {"prompt_ids": self.prompt_ids, "prompt_mask": mask, "labels": self.answer_ids}

    @property
    def sequences(self) -> Sequences:
        """The batch as whole sequences; the thought's slot holds the model's last token."""
        last = self.writer.lm.config.vocab_size - 1
        ids = torch.cat([self.prompt_ids, torch.full_like(self.prompt_ids[:, :1], last), self.answer_ids], dim=1)
        return Sequences(ids, torch.ones_like(ids), self.answer_ids.shape[1])


def shape_of(model: str) -> Qwen2Config:
    """Return the shape of a preset, or of Qwen2.5-1.5B ("1.5b")."""
    if model == "1.5b":
        return LARGE
    shape = PRESETS[model]
    return Qwen2Config(
        # One more for the thought's token.
        vocab_size=shape.vocabulary + 1, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True, bos_token_id=None,
    )  # fmt: skip


def random_writer(config: Qwen2Config, device: str = "cpu") -> LatentWriter:
    """Return a latent writer with random weights; in bfloat16 on CUDA."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = Qwen2ForCausalLM(config)
        # Wider than the usual start, so that the model has preferences and the thought matters.
        lm.get_input_embeddings().weight.data *= 4
        attention = LatentAttention(config.hidden_size, init_std=0.1)
    return LatentWriter(lm.to(device, dtype), attention.to(device, dtype))


def make_work(
    model: str, rows: int, prompt_tokens: int, answer_tokens: int, beginning: int, device: str = "cpu"
) -> Work:
    """Return a model of some shape; its prompts share their first ``beginning`` tokens."""
    config = shape_of(model)
    writer = random_writer(config, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        prompts = torch.randint(0, config.vocab_size - 1, (rows, prompt_tokens))
        prompts[:, :beginning] = prompts[:1, :beginning]
        answers = torch.randint(0, config.vocab_size - 1, (rows, answer_tokens))
    assert isinstance(writer.attention, LatentAttention)
    return Work(writer, writer.attention, prompts.to(device), answers.to(device))


def compare_steps(work: Work, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int) -> dict[str, Any]:
    """Time two ways to the same loss and gradients, in turns, and compare what they give.

    Args:
        ours, theirs: return the loss; a step is that and its backward pass.

    Returns:
        The row's ``ours_s``, ``baseline_s``, ``ratio`` (the median of pairs that ran side by side), the same in
        seconds of this process (``_cpu``), the largest relative difference of the loss and of any parameter's gradient
        (norm of the difference over the norm), and the peak memory of tensors that a step made.
    """

    def step(loss: Callable[[], Tensor]) -> Tensor:
        work.writer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.detach()

    results = []
    for loss in (ours, theirs):
        value = step(loss)
        results.append((value, {n: p.grad for n, p in work.writer.named_parameters() if p.grad is not None}))
    difference = _largest_difference(*results)
    device = work.prompt_ids.device.type
    times, slow = time_in_turns([lambda: step(ours), lambda: step(theirs)], repeats, device)
    return {
        "ours_s": statistics.median(times.wall),
        "baseline_s": statistics.median(slow.wall),
        "ratio": slow.over(times, "wall"),
        "equal": difference <= TOLERANCE[work.writer.lm.dtype],
        "ours_cpu_s": statistics.median(times.cpu),
        "baseline_cpu_s": statistics.median(slow.cpu),
        "ratio_cpu": slow.over(times, "cpu"),
        "noise": times.noise,
        "max_relative_difference": difference,
        "peak_memory_mb": {"ours": _peak(work, ours) / 1e6, "baseline": _peak(work, theirs) / 1e6},
    }


def _largest_difference(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> float:
    if ours[1].keys() != theirs[1].keys():
        return float("inf")
    pairs = [(ours[0], theirs[0]), *((gradient, theirs[1][name]) for name, gradient in ours[1].items())]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def _peak(work: Work, loss: Callable[[], Tensor]) -> int:
    """Return the bytes that tensors made by a step held at most at once, as torch's profiler or the device saw it."""
    work.writer.zero_grad(set_to_none=True)
    if work.prompt_ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss().backward()
    held = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
