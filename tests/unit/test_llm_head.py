"""The head of a search gives the model's own log-probabilities, whatever the size of the vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, PreTrainedConfig, Qwen2Config

from recbench.llm.head import LogprobHead
from recbench.llm.writer import TitleWriter

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "odd": Qwen2Config(vocab_size=37, **SIZES),
    "aligned": Qwen2Config(vocab_size=48, **SIZES),
    "granite": GraniteConfig(vocab_size=37, logits_scaling=3.0, **SIZES),
    "cohere": CohereConfig(vocab_size=37, logit_scale=0.3, **SIZES),
    "gemma2": Gemma2Config(vocab_size=37, head_dim=8, final_logit_softcapping=2.0, **SIZES),
}


def make_writer(config: PreTrainedConfig) -> TitleWriter:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        writer = TitleWriter(AutoModelForCausalLM.from_config(config).eval())
        writer.lm.get_input_embeddings().weight.data *= 20
    return writer


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_models_own_logprobs(name: str) -> None:
    config = CONFIGS[name]
    writer = make_writer(config)
    hidden = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    found, expected = LogprobHead(writer)(hidden), writer.logits(hidden).log_softmax(-1).detach()
    torch.testing.assert_close(found[..., : config.vocab_size], expected, atol=1e-5, rtol=1e-5)
    assert torch.isneginf(found[..., config.vocab_size :]).all()
    # Only where it helps and is right: odd sizes get whole blocks of 16, a cap would lift what is ruled out.
    assert found.shape[-1] == {"odd": 48, "granite": 48, "cohere": 48}.get(name, config.vocab_size)


def test_a_head_with_a_bias() -> None:
    writer = make_writer(CONFIGS["odd"])
    head = nn.Linear(16, 37)
    writer.lm.set_output_embeddings(head)
    hidden = torch.randn(4, 16)
    expected = head(hidden).log_softmax(-1).detach()
    torch.testing.assert_close(LogprobHead(writer)(hidden)[:, :37], expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_is_more_than_a_layer_works_as_it_is() -> None:
    writer = make_writer(CONFIGS["odd"])

    class Doubled(nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(hidden)

    writer.lm.set_output_embeddings(Doubled(16, 37))
    hidden = torch.randn(4, 16)
    expected = writer.lm.get_output_embeddings()(hidden).log_softmax(-1).detach()
    torch.testing.assert_close(LogprobHead(writer)(hidden), expected)


def test_bfloat16_weights_give_float32_logprobs() -> None:
    writer = make_writer(CONFIGS["odd"])
    writer.lm.to(torch.bfloat16)
    found = LogprobHead(writer)(torch.randn(3, 16, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3), atol=1e-5, rtol=0)
