"""Fixtures for the tests of language model code: one tiny random model with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random 2-layer Qwen2 and a tokenizer trained on the tiny catalogue's titles."""
    from recbench.testing.tiny import tiny_catalog
    from recbench.testing.tiny_llm import make_tiny_llm

    return make_tiny_llm(tmp_path_factory.mktemp("tiny_llm"), tiny_catalog().titles)
