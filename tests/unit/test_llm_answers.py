"""The answers of a catalogue as tokens and trie, and their cache."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from transformers import AutoTokenizer

from recbench.contracts.errors import DataError
from recbench.llm import answers as module
from recbench.llm.answers import Answers, load_answers
from recbench.llm.frame import Frame
from recbench.testing.tiny_llm import END_OF_TEXT, make_tiny_llm

TITLES = ["Blue", "Blue Sky", "", "Blue", "Red", "Blue Sky", "  Blue".strip(), "Red Sky II"]


@pytest.fixture(scope="module")
def tokenizer(tiny_llm_folder):
    return AutoTokenizer.from_pretrained(tiny_llm_folder)


@pytest.fixture(scope="module")
def frame(tokenizer) -> Frame:
    return Frame("alpaca", (), "", (), tokenizer.eos_token_id)


def written(answers: Answers, tokenizer) -> dict[str, list[int]]:
    """Return the items of every answer by its text, from walking the trie alone."""
    trie, found = answers.trie, {}

    def visit(node: int, path: list[int]) -> None:
        if (answer := trie.leaf[node]) >= 0:
            assert tuple(path) == answers.tokens[answer]
            items = answers.items[answers.item_offsets[answer] : answers.item_offsets[answer + 1]]
            assert (answers.of_item[items] == answer).all()
            found[tokenizer.decode(path[:-1])] = items.tolist()
        for child in range(trie.first_child[node], trie.first_child[node + 1]):
            visit(child, [*path, int(trie.token[child])])

    visit(0, [])
    return found


def same(left: Answers, right: Answers) -> bool:
    pairs = [(left.item_offsets, right.item_offsets), (left.items, right.items), (left.of_item, right.of_item)]
    pairs += [
        (getattr(left.trie, name), getattr(right.trie, name)) for name in ("token", "first_child", "leaf", "preorder")
    ]
    return (
        left.tokens == right.tokens
        and left.trie.max_length == right.trie.max_length
        and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    )


def test_shared_titles_prefixes_and_untitled_items(tokenizer, frame, caplog) -> None:
    with caplog.at_level(logging.INFO):
        answers = load_answers(tokenizer, TITLES, frame)
    assert written(answers, tokenizer) == {
        '"Blue"\n': [0, 3, 6], '"Blue Sky"\n': [1, 5], '"Red"\n': [4], '"Red Sky II"\n': [7],
    }  # fmt: skip
    assert answers.of_item[2] == -1
    assert answers.n_untitled == 1
    assert "1 of 8 items have no title" in caplog.text


def test_names_of_control_tokens_in_titles_are_text(tokenizer, frame) -> None:
    titles = [f"A {END_OF_TEXT} B", END_OF_TEXT, "A "]
    answers = load_answers(tokenizer, titles, frame)
    for ids in answers.tokens:
        assert ids.count(frame.end) == 1
        assert ids[-1] == frame.end
    assert set(written(answers, tokenizer)) == {f'"{t}"\n' for t in titles}


def test_a_tokenizer_that_cannot_take_them_as_text_is_refused(tokenizer, frame, monkeypatch) -> None:
    monkeypatch.setattr(module, "encode_plain", lambda _, texts: [[5, frame.end, 6] for _ in texts])
    with pytest.raises(DataError, match="end token inside"):
        load_answers(tokenizer, ["A"], frame)


def count_builds(monkeypatch) -> list[int]:
    """Return a list that grows with every build."""
    builds, build = [], module.build_answers

    def counted(*arguments):
        builds.append(1)
        return build(*arguments)

    monkeypatch.setattr(module, "build_answers", counted)
    return builds


def test_the_cache_gives_back_what_was_built(tokenizer, frame, tmp_path, monkeypatch) -> None:
    builds = count_builds(monkeypatch)
    fresh = load_answers(tokenizer, TITLES, frame, tmp_path)
    # How another caller had texts cut and padded makes no other tokenizer.
    tokenizer(["a", "a b c d"], padding=True, truncation=True, max_length=3)
    again = load_answers(tokenizer, TITLES, frame, tmp_path)
    assert same(fresh, again)
    assert same(fresh, load_answers(tokenizer, TITLES, frame))
    assert len(builds) == 2
    assert len(list((tmp_path / "tries").iterdir())) == 1


def test_whatever_determines_the_answers_makes_another_file(
    tokenizer, frame, tmp_path, tmp_path_factory, monkeypatch
) -> None:
    builds = count_builds(monkeypatch)
    other = AutoTokenizer.from_pretrained(make_tiny_llm(tmp_path_factory.mktemp("other"), ["other words", "here"]))
    load_answers(tokenizer, TITLES, frame, tmp_path)
    load_answers(other, TITLES, frame, tmp_path)
    load_answers(tokenizer, [*TITLES[:-1], "Red Sky III"], frame, tmp_path)
    load_answers(tokenizer, TITLES[::-1], frame, tmp_path)
    load_answers(tokenizer, [*TITLES, ""], frame, tmp_path)
    load_answers(tokenizer, TITLES, Frame("chat", (), "", (), frame.end), tmp_path)
    load_answers(tokenizer, TITLES, Frame("alpaca", (), "", (), frame.end + 1), tmp_path)
    assert len(builds) == len(list((tmp_path / "tries").iterdir())) == 7


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "missing array"])
def test_a_damaged_file_is_built_again(tokenizer, frame, tmp_path, damage: str, caplog) -> None:
    fresh = load_answers(tokenizer, TITLES, frame, tmp_path)
    (path,) = (tmp_path / "tries").iterdir()
    raw = path.read_bytes()
    if damage == "missing array":
        np.savez(path, tokens=np.zeros(3, dtype=np.int32))
    else:
        place = raw.index(fresh.trie.token.tobytes())
        flipped = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "byte": flipped}[damage])
    assert same(load_answers(tokenizer, TITLES, frame, tmp_path), fresh)
    assert "damaged" in caplog.text
    caplog.clear()
    assert same(load_answers(tokenizer, TITLES, frame, tmp_path), fresh)
    assert "damaged" not in caplog.text


def test_a_large_catalogue(tokenizer, frame) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["blue", "red", "sky", "The", "Return", "of", "II", "set", "kit", "oil", "for", "hair"])
    titles = [" ".join(words[row]) for row in rng.integers(0, len(words), (20_000, 6))]
    answers = load_answers(tokenizer, titles, frame)
    assert len(answers.tokens) == len(set(titles))
    trie = answers.trie
    assert (trie.leaf >= 0).sum() == len(answers.tokens)
    # Every node but the root is one distinct beginning of an answer.
    assert len(trie) - 1 == len({ids[:n] for ids in answers.tokens for n in range(1, len(ids) + 1)})
    order = np.argsort(trie.preorder)
    assert trie.token[order[1:4]].tolist() == list(min(answers.tokens)[:3])
