"""From queries to ranked items with a title writer, in shards that survive a crash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from recbench.artifacts.files import atomic_path
from recbench.contracts.config import StrictModel
from recbench.contracts.examples import Queries
from recbench.contracts.hashing import hash_arrays, hash_json
from recbench.contracts.method import RunContext
from recbench.contracts.rankings import Rankings, concat_rankings
from recbench.llm.background import Background
from recbench.llm.beam import BeamResult, DeviceTrie, TrieGuide, beam_search
from recbench.llm.codec import TitleCodec
from recbench.llm.grounding import GroundingSettings, ground_titles
from recbench.llm.trie import build_trie
from recbench.llm.writer import TitleWriter

_BATCHES_PER_SHARD = 16


class DecodingConfig(StrictModel):
    """How titles are written and turned into a list."""

    mode: Literal["constrained", "grounding"] = Field(
        "constrained",
        description="constrained: only titles of the catalogue can be written; grounding: free text, then the nearest "
        "titles",
    )
    search: Literal["beam"] = Field("beam", description="how the best titles are looked for")
    beams: int = Field(10, ge=1, description="beams, and so titles in a list")
    length_penalty: float = Field(
        1.0, description="a title of L tokens scores sum(logprob) / L ** this; 1.0: BIGRec flavour, 0.0: D3 flavour"
    )
    batch_size: int = Field(16, ge=1, description="queries decoded at once")
    grounding: GroundingSettings = Field(GroundingSettings(), description="settings of mode=grounding")

    @property
    def max_places(self) -> int | None:
        """Titles that a list can have; None for the whole catalogue."""
        return None if self.mode == "grounding" else self.beams


class Guide(Protocol):
    """A second opinion on the titles of a query, mixed into every step of the beam search (see D3).

    Attributes:
        key: names the guide with all of its settings; lists made under another key are not taken up again.
    """

    key: str

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

    A constrained list holds the items of the ``beams`` best titles; items that share a title share its score, so they
    are tied. Queries of like prompt length are decoded together. Finished shards lie in ``folder`` and are not decoded again.

    Args:
        prompts: token ids of each query's prompt; unset: the codec's answer prompt.
        k: places wanted of a grounded list; unset: the whole catalogue.
        background: of the fit; grounding needs it.
        guide: mixed into the scores of a constrained beam search.

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
    trie = DeviceTrie.of(build_trie(codec.answers.tokens), writer.device)
    per_shard = _BATCHES_PER_SHARD * config.batch_size
    shards = [order[start : start + per_shard] for start in range(0, len(order), per_shard)]
    folder.mkdir(parents=True, exist_ok=True)
    writer.eval()
    parts: list[Rankings] = []
    with ctx.stage("decode"), ctx.progress.bar("decode", len(queries)) as bar:
        for shard in shards:
            path = folder / f"{_shard_name(queries, prompts, shard, config, ctx.mask_history, guide)}.npz"
            if path.exists():
                part = _read_shard(path, queries, shard)
                bar.advance(len(shard))
            else:
                part = _decode_shard(writer, codec, trie, queries, prompts, shard, config, ctx, bar, guide)
                with atomic_path(path) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, offsets=part.offsets, items=part.items, scores=part.scores)
            parts.append(part)
    return _in_query_order(concat_rankings(parts), queries, codec)


def _shard_name(
    queries: Queries,
    prompts: Sequence[Sequence[int]],
    rows: np.ndarray,
    config: DecodingConfig,
    mask_history: bool,
    guide: Guide | None,
) -> str:
    asked = queries.take(rows)
    read = hash_json([list(prompts[row]) for row in rows])
    columns = hash_arrays([asked.example_id, asked.offsets, asked.items])
    key = None if guide is None else guide.key
    return hash_json([columns, read, config.model_dump(mode="json"), mask_history, key])


def _decode_shard(
    writer: TitleWriter,
    codec: TitleCodec,
    trie: DeviceTrie,
    queries: Queries,
    prompts: Sequence[Sequence[int]],
    shard: np.ndarray,
    config: DecodingConfig,
    ctx: RunContext,
    bar: Any,
    guide: Guide | None,
) -> Rankings:
    parts = []
    for start in range(0, len(shard), config.batch_size):
        rows = shard[start : start + config.batch_size]
        batch = queries.take(rows)
        ids, mask = codec.pad_prompts([prompts[row] for row in rows], writer.device)
        with torch.inference_mode():
            # Twice the beams where titles of the history are taken out afterwards: enough for histories of as many
            # items as beams, and the same number for every query, so that no list depends on its batch-mates.
            n_beams = config.beams * (2 if ctx.mask_history else 1)
            second = None if guide is None else guide(batch)
            result = beam_search(writer, writer.read(ids, mask), trie, n_beams, config.length_penalty, second)
        parts.append(titles_to_items(result, codec, batch, config.beams, ctx.mask_history))
        bar.advance(len(rows))
    return concat_rankings(parts)


def titles_to_items(
    result: BeamResult, codec: TitleCodec, queries: Queries, n_titles: int, mask_history: bool
) -> Rankings:
    """Return the items of the written titles; a title that n items share gives n tied places.

    Args:
        result: beams of B rows.
        queries: the B queries.
        n_titles: titles kept of each row, the best ones.
        mask_history: leave out items of the query's history, and titles that have no other item.
    """
    answers = codec.answers
    sequence = result.sequence.cpu().numpy()
    row, column = np.nonzero(sequence >= 0)
    answer = sequence[row, column]
    count = answers.item_offsets[answer + 1] - answers.item_offsets[answer]
    starts = np.repeat(answers.item_offsets[answer] - (np.cumsum(count) - count), count)
    items = answers.items[starts + np.arange(count.sum())]
    rows, places = np.repeat(row, count), np.repeat(column, count)
    scores = np.repeat(result.score.double().cpu().numpy()[row, column], count)
    if mask_history:
        n_items = len(codec.catalog)
        owner = np.repeat(np.arange(len(queries)), queries.history_length)
        kept = ~np.isin(rows * n_items + items, owner * n_items + queries.items)
        rows, places, items, scores = rows[kept], places[kept], items[kept], scores[kept]
    kept = _title_number(rows, places) < n_titles
    rows, items, scores = rows[kept], items[kept], scores[kept]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(queries)))]).astype(np.int64)
    return Rankings(queries.example_id, offsets, items.astype(np.int32), scores)


def _title_number(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Number the titles of each row from 0, given the row and beam place of every item, both ascending."""
    opens_row = np.diff(rows, prepend=-1) != 0
    opens_title = opens_row | (np.diff(places, prepend=-1) != 0)
    number = np.cumsum(opens_title)
    first = np.maximum.accumulate(np.where(opens_row, number, 0))
    return number - first


def _read_shard(path: Path, queries: Queries, shard: np.ndarray) -> Rankings:
    with np.load(path, allow_pickle=False) as stored:
        return Rankings(queries.example_id[shard], stored["offsets"], stored["items"], stored["scores"])


def _in_query_order(shuffled: Rankings, queries: Queries, codec: TitleCodec) -> Rankings:
    """Put lists back in the order of the queries and add what was written as generations."""
    position = {int(example): place for place, example in enumerate(shuffled.example_id)}
    places = np.array([position[int(example)] for example in queries.example_id], dtype=np.int64)
    lengths = shuffled.lengths[places]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.repeat(shuffled.offsets[places] - offsets[:-1], lengths) + np.arange(offsets[-1])
    items, scores = shuffled.items[source], shuffled.scores[source]
    return Rankings(
        queries.example_id, offsets, items, scores, _generations(queries.example_id, offsets, items, scores, codec)
    )


def _generations(
    example_id: np.ndarray, offsets: np.ndarray, items: np.ndarray, scores: np.ndarray, codec: TitleCodec
) -> list[dict[str, Any]]:
    records = []
    answer = codec.answers.of_item[items]
    for row, example in enumerate(example_id):
        written: dict[int, float] = {}
        for place in range(offsets[row], offsets[row + 1]):
            written.setdefault(int(answer[place]), float(scores[place]))
        titles = [codec.catalog.titles[codec.answers.items[codec.answers.item_offsets[a]]] for a in written]
        records.append({"example_id": int(example), "titles": titles, "scores": list(written.values())})
    return records
