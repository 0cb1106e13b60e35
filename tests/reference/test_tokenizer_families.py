"""Whole decodes with every family of tokenizer and model, against scoring every title by a plain forward pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recbench.contracts.dataset import title_key
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm.backbone import open_backbone
from recbench.llm.codec import TitleCodec, end_ids_of
from recbench.methods.load import build_method
from recbench.testing.tiny import awkward_queries, tiny_catalog, tiny_split
from recbench.testing.tiny_llm import KINDS, make_tiny_llm

AWKWARD = ("<|im_end|> </s> <eos> <|eot_id|>", 'She said "no"', "Two\nlines", "東京 🚀", "  blanks inside  it ")


def awkward_catalog():
    catalog = tiny_catalog()
    titles = list(catalog.titles)
    titles[: len(AWKWARD)] = AWKWARD
    return replace(catalog, titles=tuple(titles))


def context(folder: Path, kind: str, chat: str) -> RunContext:
    backbone = make_tiny_llm(folder / "llm", tiny_catalog().titles, seed=2, kind=kind, chat=chat)
    return RunContext(
        awkward_catalog(), 3, "cpu", folder, folder, backbone=BackboneSpec(name=str(backbone), requested="x")
    )


@torch.no_grad()
def plain_scores(lm, codec: TitleCodec, prompt: list[int]) -> torch.Tensor:
    """Sum of log-probabilities of every answer, by Hugging Face's own forward pass over whole sequences."""
    answers = codec.answers.tokens
    width = max(map(len, answers))
    rows = torch.tensor([[*prompt, *answer, *[codec.eos] * (width - len(answer))] for answer in answers])
    # Padding stands to the right, where no earlier token sees it.
    logprobs = lm(input_ids=rows).logits[:, len(prompt) - 1 : -1].float().log_softmax(-1)
    chosen = logprobs.gather(2, rows[:, len(prompt) :, None]).squeeze(2)
    real = torch.arange(width) < torch.tensor([len(answer) for answer in answers])[:, None]
    return (chosen * real).sum(dim=1)


@pytest.mark.parametrize("chat", ["none", "instruct"])
@pytest.mark.parametrize("kind", KINDS)
def test_base_with_beams_for_all_titles_is_scoring_all_titles(tmp_path: Path, kind: str, chat: str) -> None:
    ctx = context(tmp_path, kind, chat)
    split = tiny_split()
    # Prompts of one and two titles, for speed: plain scoring reads each prompt once per title.
    queries = awkward_queries(split).take([1, 3]).queries()
    n_titles = len(set(filter(None, awkward_catalog().titles)))
    method = build_method("base", {"decoding": {"beams": n_titles, "length_penalty": 0.0, "batch_size": 2}})
    method.fit(split.train, split.valid, ctx)
    lists = method.rank(queries, n_titles, ctx)

    backbone = open_backbone(split.train, ctx)
    codec = TitleCodec(backbone.tokenizer, ctx.catalog, model_ends=end_ids_of(backbone.model))
    assert codec.frame.template == ("chat" if chat == "instruct" else "alpaca")
    assert method.summary()["template"] == codec.frame.template
    titled = codec.answers.of_item >= 0
    for row, prompt in enumerate(codec.prompts(queries)):
        expected = plain_scores(backbone.model, codec, prompt)[codec.answers.of_item]
        found = torch.full_like(expected, torch.nan)
        places = slice(lists.offsets[row], lists.offsets[row + 1])
        found[lists.items[places]] = torch.from_numpy(lists.scores[places]).float()
        torch.testing.assert_close(found[titled], expected[titled], atol=2e-4, rtol=1e-4)
        assert found[~titled].isnan().all()


@pytest.mark.parametrize("chat", ["none", "instruct"])
@pytest.mark.parametrize("kind", KINDS)
def test_written_tokens_decode_to_the_quoted_title(tmp_path: Path, kind: str, chat: str) -> None:
    ctx = context(tmp_path, kind, chat)
    split = tiny_split()
    backbone = open_backbone(split.train, ctx)
    codec = TitleCodec(backbone.tokenizer, ctx.catalog, model_ends=end_ids_of(backbone.model))
    end = codec.tokenizer.convert_ids_to_tokens(codec.frame.end)
    turn_ends = {"qwen2": "<|im_end|>", "llama2": "</s>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
    assert end == (turn_ends[kind] if chat == "instruct" else codec.tokenizer.eos_token)
    line_end = "" if chat == "instruct" else "\n"
    for number, title in enumerate(ctx.catalog.titles):
        if not title:
            continue
        *written, last = codec.answers.tokens[codec.answers.of_item[number]]
        assert codec.tokenizer.decode(written, clean_up_tokenization_spaces=False) == f'"{title_key(title)}"{line_end}'
        assert last == codec.frame.end
        # Not even a title that is made of their names holds a control token.
        assert not set(written) & set(codec.tokenizer.all_special_ids)
