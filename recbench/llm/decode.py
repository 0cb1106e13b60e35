"""From queries to ranked items with a title writer, in shards that survive a crash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator

from recbench.artifacts.files import atomic_path
from recbench.contracts.config import StrictModel
from recbench.contracts.examples import Queries
from recbench.contracts.hashing import hash_arrays, hash_json
from recbench.contracts.method import RunContext
from recbench.contracts.progress import Bar
from recbench.contracts.rankings import Rankings
from recbench.llm.background import Background
from recbench.llm.beam import BeamResult, DeviceTrie, TrieGuide, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.exact import BoundedTrie, ExactResult, ExactSettings, exact_search
from recbench.llm.facts import write_decoding_facts
from recbench.llm.grounding import GroundingSettings, ground_titles
from recbench.llm.lists import Written, title_records, titles_of_history, titles_to_items
from recbench.llm.writer import Prefix, TitleWriter

_BATCHES_PER_SHARD = 16
# Prefix of the arrays of a shard that hold one fact per query.
_FACT = "fact_"
LengthPenalty = Annotated[float, Field(ge=-10, le=10)]
"""Within these bounds powers of a title's length stay far inside float32."""


class DecodingConfig(StrictModel):
    """How titles are written and turned into a list."""

    mode: Literal["constrained", "grounding"] = Field(
        "constrained",
        description="constrained: only titles of the catalogue can be written; grounding: free text, then the nearest "
        "titles",
    )
    search: Literal["beam", "exact"] = Field(
        "beam",
        description="beam: the published way, which misses titles; exact: the true best titles of the catalogue",
    )
    beams: int = Field(10, ge=1, description="titles in a list, and beams where search=beam")
    length_penalty: LengthPenalty = Field(
        1.0, description="a title of L tokens scores sum(logprob) / L ** this; 1.0: BIGRec flavour, 0.0: D3 flavour"
    )
    batch_size: int = Field(16, ge=1, description="queries decoded at once")
    exact: ExactSettings = Field(ExactSettings(), description="settings of search=exact")
    grounding: GroundingSettings = Field(GroundingSettings(), description="settings of mode=grounding")

    @model_validator(mode="after")
    def _search_fits_mode(self) -> DecodingConfig:
        if self.search == "exact" and self.mode == "grounding":
            raise ValueError(
                "search=exact looks for titles of the catalogue, but mode=grounding writes free text; choose "
                "mode=constrained or search=beam"
            )
        return self

    @property
    def max_places(self) -> int | None:
        """Titles that a list can have; None for the whole catalogue."""
        return None if self.mode == "grounding" else self.beams


class Guide(Protocol):
    """A second opinion on the titles of a query, mixed into every step of a constrained search (see D3).

    Attributes:
        key: names the guide with all of its settings; lists made under another key are not taken up again.
    """

    @property
    def key(self) -> str: ...

    def __call__(self, queries: Queries) -> TrieGuide:
        """Return what the guide thinks of a batch of queries."""


def rank_titles(
    writer: TitleWriter,
    codec: TitleCodec,
    queries: Queries,
    config: DecodingConfig,
    folder: Path,
    ctx: RunContext,
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    k: int | None = None,
    background: Background | None = None,
    guide: Guide | None = None,
) -> Rankings:
    """Return one list per query, by the configured mode and search.

    A constrained list holds the items of the ``beams`` best titles that the search finds; items that share a title
    share its score, so they are tied. Queries of like prompt length are decoded together. Finished shards lie in
    ``folder`` and are not decoded again; plain facts of the whole are left there too
    (:func:`~recbench.llm.facts.decoding_facts`).

    Args:
        prompts: token ids of each query's prompt; unset: the codec's answer prompt.
        k: places wanted of a grounded list; unset: the whole catalogue.
        background: of the fit; grounding needs it.
        guide: mixed into the scores of a constrained search.

    Raises:
        ArtifactError: a shard cannot be written.
    """
    if config.mode == "grounding":
        if background is None:
            raise ValueError("Grounding needs the background of the fit.")
        return ground_titles(
            writer, codec, queries, k or len(ctx.catalog), config.grounding, config.batch_size, folder, ctx,
            background, prompts,
        )  # fmt: skip
    prompts = codec.prompts(queries) if prompts is None else prompts
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    per_shard = _BATCHES_PER_SHARD * config.batch_size
    folder.mkdir(parents=True, exist_ok=True)
    writer.eval()
    search = _Search(writer, codec, config, ctx.mask_history, guide)
    parts = []
    with ctx.stage("decode"), ctx.progress.bar("decode", len(queries)) as bar:
        for shard in (order[start : start + per_shard] for start in range(0, len(order), per_shard)):
            asked, read = queries.take(shard), [prompts[row] for row in shard]
            path = folder / f"{search.shard_name(asked, read)}.npz"
            if path.exists():
                parts.append(_read_shard(path, asked))
                bar.advance(len(shard))
            else:
                parts.append(search.find(asked, read, bar))
                _write_shard(path, parts[-1])
    written = Written.join(parts).in_order_of(queries)
    records = title_records(written, codec)
    write_decoding_facts(folder, {"decoding": _summary(written, records, config)})
    return replace(written.rankings, generations=records)


class _Search:
    """Finds the best titles of queries, a batch at a time."""

    def __init__(
        self, writer: TitleWriter, codec: TitleCodec, config: DecodingConfig, mask_history: bool, guide: Guide | None
    ) -> None:
        self.writer, self.codec, self.config = writer, codec, config
        self.mask_history, self.guide = mask_history, guide
        self.trie = DeviceTrie.of(codec.answers.trie, writer.device)
        self.bounded = BoundedTrie.of(self.trie, config.length_penalty) if config.search == "exact" else None

    def shard_name(self, queries: Queries, prompts: Sequence[Sequence[int]]) -> str:
        """Return a hash of everything that the lists depend on but the model."""
        columns = hash_arrays([queries.example_id, queries.offsets, queries.items])
        key = None if self.guide is None else self.guide.key
        read = hash_json([list(prompt) for prompt in prompts])
        return hash_json([columns, read, self.config.model_dump(mode="json"), self.mask_history, key])

    def find(self, queries: Queries, prompts: Sequence[Sequence[int]], bar: Bar) -> Written:
        """Return the lists of these queries."""
        size = self.config.batch_size
        parts = []
        for start in range(0, len(queries), size):
            batch = queries.take(np.arange(start, min(start + size, len(queries))))
            parts.append(self._batch(batch, prompts[start : start + size]))
            bar.advance(len(batch))
        return Written.join(parts)

    def _batch(self, queries: Queries, prompts: Sequence[Sequence[int]]) -> Written:
        config = self.config
        ids, mask = self.codec.pad_prompts(prompts, self.writer.device)
        guide = None if self.guide is None else self.guide(queries)
        facts: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            prefix = self.writer.read(ids, mask)
            found: BeamResult | ExactResult
            if self.bounded is None:
                found = self._beams(prefix, guide)
            else:
                found = self._exact(prefix, guide, queries)
                facts = {"proven": found.proven, "bound": found.bound, "expansions": found.expansions}
        sequence, score = found.sequence.cpu().numpy(), found.score.double().cpu().numpy()
        rankings = titles_to_items(sequence, score, self.codec, queries, config.beams, self.mask_history)
        columns = {name: values.cpu().numpy() for name, values in facts.items()}
        return Written(rankings, {**columns, "steps": np.full(len(queries), found.steps)})

    def _beams(self, prefix: Prefix, guide: TrieGuide | None) -> BeamResult:
        # Twice the beams where titles of the history are taken out afterwards: enough for histories of as many items
        # as beams, and the same number for every query, so that no list depends on its batch-mates.
        n_beams = self.config.beams * (2 if self.mask_history else 1)
        return beam_search(self.writer, prefix, self.trie, n_beams, self.config.length_penalty, guide)

    def _exact(self, prefix: Prefix, guide: TrieGuide | None, queries: Queries) -> ExactResult:
        assert self.bounded is not None
        n_titles, settings = self.config.beams, self.config.exact
        seen = titles_of_history(self.codec, queries) if self.mask_history else None
        excluded = None if seen is None else torch.from_numpy(seen).to(self.writer.device)
        found = exact_search(self.writer, prefix, self.bounded, n_titles, settings, guide, excluded)
        unproven = (~found.proven).nonzero().squeeze(1)
        if len(unproven) == 0:
            return found
        beams = self._beams(prefix.take(unproven), None if guide is None else guide.take(unproven))
        return found.improved_by(beams, unproven, n_titles, excluded)


def _write_shard(path: Path, part: Written) -> None:
    lists = part.rankings
    facts: dict[str, Any] = {f"{_FACT}{name}": values for name, values in part.facts.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, offsets=lists.offsets, items=lists.items, scores=lists.scores, **facts)


def _read_shard(path: Path, queries: Queries) -> Written:
    with np.load(path, allow_pickle=False) as stored:
        lists = Rankings(queries.example_id, stored["offsets"], stored["items"], stored["scores"])
        facts = {name.removeprefix(_FACT): stored[name] for name in stored.files if name.startswith(_FACT)}
    return Written(lists, facts)


def _summary(written: Written, records: Sequence[Mapping[str, Any]], config: DecodingConfig) -> dict[str, Any]:
    """Return plain facts about a constrained decoding for ``summary.json``."""
    lengths = [len(record["titles"]) for record in records]
    facts: dict[str, Any] = {
        "search": config.search,
        "titles_wanted": config.beams,
        "short_lists": sum(0 < length < config.beams for length in lengths),
        "empty_lists": lengths.count(0),
    }
    if not lengths:
        return facts
    facts["mean_steps"] = float(written.facts["steps"].mean())
    if config.search == "exact":
        proven, expansions = written.facts["proven"], written.facts["expansions"]
        facts |= {
            "proven_share": float(proven.mean()),
            "not_proven": int((~proven).sum()),
            "mean_expansions": float(expansions.mean()),
            "max_expansions": int(expansions.max()),
        }
    return facts
