"""All answers that a title writer can give, as tokens and as a trie; made once per catalogue, then kept on disk."""

from __future__ import annotations

import json
import logging
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from recbench.artifacts.files import atomic_path
from recbench.contracts.errors import DataError
from recbench.contracts.hashing import hash_file, hash_json, hash_strings
from recbench.llm.frame import Frame
from recbench.llm.prompt import answer_text
from recbench.llm.tokens import encode_plain
from recbench.llm.trie import TokenTrie, build_trie

log = logging.getLogger(__name__)

# Raise it when the same titles and tokenizer give another file.
_FORMAT = 1


@dataclass(frozen=True)
class Answers:
    """All answers that can be written: one per distinct title.

    Attributes:
        tokens: token ids of each answer, end token included.
        item_offsets, items: answer ``a`` stands for ``items[item_offsets[a]:item_offsets[a + 1]]``, ascending.
        of_item: int32 (n_items,), the answer that stands for an item; -1 for items without a title, which can never
            be written.
        trie: the answers' tokens; answer ``a`` is its sequence ``a``.
    """

    tokens: tuple[tuple[int, ...], ...]
    item_offsets: np.ndarray
    items: np.ndarray
    of_item: np.ndarray
    trie: TokenTrie

    @property
    def n_untitled(self) -> int:
        """Items without a title."""
        return int((self.of_item < 0).sum())


def load_answers(
    tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], frame: Frame, cache_dir: Path | None = None
) -> Answers:
    """Return the answers of a catalogue, from the cache where they lie there; else build and keep them.

    A cached file has the hash of everything that determines it as its name. A damaged one is built again.

    Args:
        tokenizer: the backbone's tokenizer.
        titles: one per item, cleaned by ``title_key``; empty for an item that has none.
        frame: says how an answer is written and which token ends it.
        cache_dir: folder shared by all runs; None keeps nothing.

    Raises:
        DataError: no item has a title, or a title would end its answer early.
        ArtifactError: the cache cannot be written.
    """
    texts = [answer_text(title, frame.template) if title else "" for title in titles]
    if cache_dir is None:
        answers = build_answers(tokenizer, texts, frame.end)
    else:
        path = cache_dir / "tries" / f"{_key(tokenizer, texts, frame.end)}.npz"
        cached = _read(path) if path.exists() else None
        answers = cached or build_answers(tokenizer, texts, frame.end)
        if cached is None:
            _write(path, answers)
    if answers.n_untitled:
        log.info("%d of %d items have no title and can never be written.", answers.n_untitled, len(titles))
    return answers


def build_answers(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: int) -> Answers:
    """Tokenise the answers of a catalogue.

    Args:
        texts: one answer per item, empty for an item that has no title.
        end: token that ends every answer.

    Raises:
        DataError: no item has a title, or a title would end its answer early.
    """
    titled = [number for number, text in enumerate(texts) if text]
    if not titled:
        raise DataError("No item of the data set has a title.", "Methods that write titles need them.")
    by_tokens: dict[tuple[int, ...], list[int]] = {}
    # Keyed by tokens, not text: a tokenizer that normalises text may map two titles to the same tokens.
    for number, ids in zip(titled, encode_plain(tokenizer, [texts[number] for number in titled]), strict=True):
        if end in ids:
            raise DataError(
                f"The backbone's tokenizer reads an end token inside the answer {texts[number]!r}.",
                "Change that title or choose another backbone.",
            )
        by_tokens.setdefault((*ids, end), []).append(number)
    tokens = tuple(by_tokens)
    counts = [len(items) for items in by_tokens.values()]
    items = np.concatenate([np.asarray(items, dtype=np.int32) for items in by_tokens.values()])
    of_item = np.full(len(texts), -1, dtype=np.int32)
    of_item[items] = np.repeat(np.arange(len(tokens)), counts)
    return Answers(tokens, _offsets(counts), items, of_item, build_trie(tokens))


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _key(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], end: int) -> str:
    """Hash everything that the answers depend on: all texts (so the template too), the tokenizer and its code."""
    versions = [transformers.__version__, tokenizers.__version__]
    return hash_json([_FORMAT, versions, _tokenizer_hash(tokenizer), end, len(texts), hash_strings(texts)])


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # How the last caller wanted its texts cut and padded says nothing about the tokenizer.
        content.pop("truncation"), content.pop("padding")
        return hash_json([type(tokenizer).__name__, content])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return hash_json([type(tokenizer).__name__, [[path.name, hash_file(path)] for path in files]])


def _write(path: Path, answers: Answers) -> None:
    trie = answers.trie
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            tokens=np.concatenate([np.asarray(ids, dtype=np.int32) for ids in answers.tokens]),
            token_offsets=_offsets([len(ids) for ids in answers.tokens]),
            item_offsets=answers.item_offsets,
            items=answers.items,
            of_item=answers.of_item,
            trie_token=trie.token,
            trie_first_child=trie.first_child,
            trie_leaf=trie.leaf,
            trie_preorder=trie.preorder,
        )


def _read(path: Path) -> Answers | None:
    """Return the answers in a file, or None if it is damaged (every array carries a checksum)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        flat, offsets = arrays["tokens"].tolist(), arrays["token_offsets"].tolist()
        trie = TokenTrie(
            arrays["trie_token"],
            arrays["trie_first_child"],
            arrays["trie_leaf"],
            arrays["trie_preorder"],
            int(np.diff(arrays["token_offsets"]).max()),
        )
        tokens = tuple(tuple(flat[start:stop]) for start, stop in pairwise(offsets))
        return Answers(tokens, arrays["item_offsets"], arrays["items"], arrays["of_item"], trie)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        log.warning("The cached answers in %s are damaged (%s); they are built again.", path, error)
        return None
