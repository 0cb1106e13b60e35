"""How likely a title writer finds the true titles."""

from __future__ import annotations

import numpy as np
import torch

from recbench.contracts.examples import Examples
from recbench.contracts.likelihood import Likelihood
from recbench.contracts.method import RunContext
from recbench.llm.codec import TitleCodec, split_labels
from recbench.llm.writer import TitleWriter


def title_likelihood(
    writer: TitleWriter, codec: TitleCodec, examples: Examples, batch_size: int, ctx: RunContext
) -> Likelihood:
    """Return the log-probabilities of the examples' titles under the full vocabulary, in float32 sums.

    Rows of like prompt length are read together; a row's number does not depend on its batch-mates.

    Args:
        batch_size: rows read at once.
    """
    answer = codec.answers.of_item[examples.target]
    logprob = np.full(len(examples), np.nan)
    tokens = np.zeros(len(examples), dtype=np.int64)
    titled = np.flatnonzero(answer >= 0)
    prompts = codec.prompts(examples.take(titled).queries())
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    writer.eval()
    with ctx.stage("likelihood"), ctx.progress.bar("likelihood", len(titled)) as bar, torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = titled[batch]
            ids, mask = codec.pad_prompts([prompts[row] for row in batch], writer.device)
            labels = codec.pad_answers([codec.answers.tokens[answer[row]] for row in rows]).to(writer.device)
            answer_ids, answer_mask = split_labels(labels)
            found = writer.answer_logprobs(writer.read(ids, mask), answer_ids, answer_mask)
            logprob[rows] = found.sum(dim=1).double().cpu().numpy()
            tokens[rows] = answer_mask.sum(dim=1).cpu().numpy()
            bar.advance(len(rows))
    # Rounding can lift a probability of one a little above it.
    return Likelihood(np.minimum(logprob, 0.0), tokens)
