"""Language models small enough for tests: random weights, tokenizers of their own, no download.

Four kinds stand for the families that people use. They differ in what breaks code: byte-level or SentencePiece-like
tokens, a blank put before every text, a BOS token, chat templates with a token of their own for the end of a turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
Kind = Literal["qwen2", "llama2", "llama3", "gemma"]
KINDS: tuple[Kind, ...] = ("qwen2", "llama2", "llama3", "gemma")

_VOCABULARY = 512
_BOS = {"llama2": "<s>", "llama3": "<|begin_of_text|>", "gemma": "<bos>"}
_EOS = {"qwen2": END_OF_TEXT, "llama2": "</s>", "llama3": "<|end_of_text|>", "gemma": "<eos>"}
#: Control tokens of the chat templates; the first is the end of a turn.
_CHAT_TOKENS = {
    "qwen2": ("<|im_end|>", "<|im_start|>"),
    "llama2": (),
    "llama3": ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "gemma": ("<end_of_turn>", "<start_of_turn>"),
}
# Each family's form of a conversation, without system prompts and tools.
_CHAT_TEMPLATES = {
    "qwen2": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}


def make_tiny_llm(
    folder: Path,
    titles: Sequence[str],
    seed: int = 0,
    kind: Kind = "qwen2",
    chat: Literal["none", "base", "instruct"] = "none",
) -> Path:
    """Write a random model (2 layers, width 32) and a tokenizer trained on ``titles``.

    The folder loads with ``AutoModelForCausalLM`` and ``AutoTokenizer``. Padding is the end of text. Global random
    state is left as it was.

    Args:
        folder: where to write; made if it does not exist.
        titles: texts to train the tokenizer on.
        seed: of the weights.
        kind: family of the model and form of the tokenizer.
        chat: "base": with a chat template, but texts end with the end of text, as in the Qwen2.5 base models;
            "instruct": texts end with the end of a turn.

    Returns:
        The folder.
    """
    import torch

    tokenizer = _tokenizer(kind, titles, chat)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _model(kind, tokenizer)
    turn_end = _CHAT_TOKENS[kind][:1] if chat == "instruct" else ()
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(turn_end))]
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": kind != "llama2",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape))
    if kind == "gemma":
        return Gemma2ForCausalLM(Gemma2Config(**shape, head_dim=8))
    return LlamaForCausalLM(LlamaConfig(**shape))


def _tokenizer(kind: Kind, titles: Sequence[str], chat: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(kind, titles, chat),
        bos_token=_BOS.get(kind),
        eos_token=_EOS[kind],
        pad_token=_EOS[kind],
        clean_up_tokenization_spaces=False,
    )
    if chat != "none":
        tokenizer.chat_template = _CHAT_TEMPLATES[kind]
    return tokenizer


def _train_tokenizer(kind: Kind, titles: Sequence[str], chat: str):  # type: ignore[no-untyped-def]
    from tokenizers import processors

    bos = [_BOS[kind]] if kind in _BOS else []
    control = [_EOS[kind], *bos, *(_CHAT_TOKENS[kind] if chat != "none" else ())]
    tokenizer = _byte_level(titles, control) if kind in ("qwen2", "llama3") else _sentencepiece(kind, titles, control)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[(bos[0], tokenizer.token_to_id(bos[0]))]
        )
    return tokenizer


def _byte_level(titles: Sequence[str], control: Sequence[str]):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(titles, trainer)
    return tokenizer


def _sentencepiece(kind: Kind, titles: Sequence[str], control: Sequence[str]):  # type: ignore[no-untyped-def]
    """Blanks are written as a low line (Llama 2 puts one before every text); unknown characters become bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(titles, trainers.BpeTrainer(vocab_size=_VOCABULARY - 256, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [*control, *bytes_, *sorted(learned["vocab"], key=learned["vocab"].get)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in learned["merges"]],
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(list(control))
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.normalizer = learner.normalizer
    if kind == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), learner.normalizer])
        decoding.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(decoding)
    return tokenizer
