"""Runs -> competitors: which runs are seeds of one thing, what to call it, and whether they may be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbench.artifacts.manifest import RunManifest
from recbench.artifacts.store import StoredRun
from recbench.contracts.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One competitor: runs of one method, backbone and configuration, one per seed.

    Attributes:
        runs: in order of their seeds, never empty.
        qualifiers: what the label says in brackets ("nano", "exact search", "decoding.beams=20").
        n_repeated: complete runs left out because a newer run has the same seed.
    """

    runs: tuple[StoredRun, ...]
    qualifiers: tuple[str, ...] = ()
    n_repeated: int = 0

    @property
    def manifest(self) -> RunManifest:
        """Manifest of the first run; method, backbone and configuration are those of all runs."""
        return self.runs[0].manifest

    @property
    def label(self) -> str:
        """Name in tables: "sasrec", "bigrec (nano)"."""
        return self.manifest.method + (f" ({', '.join(self.qualifiers)})" if self.qualifiers else "")

    @property
    def backbone(self) -> str | None:
        """Name of the language model, if any; of a local folder its last part only."""
        return backbone_name(self.manifest)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Ids of the runs."""
        return tuple(run.manifest.run_id for run in self.runs)


def backbone_name(manifest: RunManifest) -> str | None:
    """Return what the language model is called in tables, or None: a local folder goes by its last part."""
    if manifest.backbone is None:
        return None
    path = Path(manifest.backbone.name)
    return path.name if path.is_absolute() else manifest.backbone.name


GroupKey = tuple[str, str, str, str]


def group_key(manifest: RunManifest) -> GroupKey:
    """Return what must be equal before two runs may stand in one table."""
    return manifest.dataset, manifest.dataset_fingerprint, manifest.split_fingerprint, manifest.protocol_hash


def group_by_identity(runs: Iterable[StoredRun]) -> list[Entry]:
    """Put comparable runs that differ in their seed only into one entry; of two with one seed the newer stays."""
    bags: dict[str, list[StoredRun]] = {}
    for run in runs:
        manifest = run.manifest
        backbone = manifest.backbone
        language_model = [backbone.name, backbone.revision] if backbone else None
        identity = [manifest.method, effective_config(manifest), language_model, *group_key(manifest)]
        bags.setdefault(json.dumps(identity, sort_keys=True), []).append(run)
    return [_newest_of_each_seed(bag) for bag in bags.values()]


def effective_config(manifest: RunManifest) -> dict[str, Any]:
    """Return the method's configuration without what its search never reads, so that it sets no two runs apart."""
    decoding = manifest.config.get("decoding")
    if not isinstance(decoding, Mapping):
        return manifest.config
    unread = {"exact"} if decoding.get("search") == "beam" else set()
    unread |= {"grounding"} if decoding.get("mode") == "constrained" else set()
    return {**manifest.config, "decoding": {key: value for key, value in decoding.items() if key not in unread}}


def _newest_of_each_seed(runs: Sequence[StoredRun]) -> Entry:
    by_seed: dict[int, StoredRun] = {}
    for run in sorted(runs, key=lambda run: (run.manifest.created, run.manifest.run_id)):
        by_seed[run.manifest.seed] = run
    kept = tuple(by_seed[seed] for seed in sorted(by_seed))
    return Entry(kept, n_repeated=len(runs) - len(kept))


def label_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Give every entry a unique label: its backbone, another way of decoding than the published one, and as much of
    what sets it apart as is needed.
    """
    named = [replace(entry, qualifiers=_always_said(entry)) for entry in entries]
    for describe in (_revision, _changed_config, _seeds, _run_ids):
        count = Counter(entry.label for entry in named)
        if len(count) == len(named):
            break
        clashing = {
            label: [entry for entry in named if entry.label == label] for label, times in count.items() if times > 1
        }
        named = [
            replace(entry, qualifiers=entry.qualifiers + tuple(describe(entry, clashing[entry.label])))
            if entry.label in clashing
            else entry
            for entry in named
        ]
    return named


def _always_said(entry: Entry) -> tuple[str, ...]:
    """Return what a reader must know of a row even where no other row is like it."""
    decoding = entry.manifest.config.get("decoding")
    decoding = decoding if isinstance(decoding, Mapping) else {}
    said = [entry.backbone] if entry.backbone else []
    said += ["exact search"] if decoding.get("search") == "exact" else []
    said += ["grounding"] if decoding.get("mode") == "grounding" else []
    return tuple(said)


Describe = Callable[[Entry, Sequence[Entry]], Iterable[str]]


def _revision(entry: Entry, rivals: Sequence[Entry]) -> list[str]:
    revisions = {rival.manifest.backbone.revision for rival in rivals if rival.manifest.backbone}
    own = entry.manifest.backbone.revision if entry.manifest.backbone else None
    return [f"revision {own[:8]}"] if own and len(revisions) > 1 else []


def _changed_config(entry: Entry, rivals: Sequence[Entry]) -> list[str]:
    """Return the settings that set an entry apart; a value that most of the rivals have goes without saying."""
    settings = [flatten(effective_config(rival.manifest)) for rival in rivals]
    own = flatten(effective_config(entry.manifest))
    said = []
    for key, value in sorted(own.items()):
        alike = sum(key in one and one[key] == value for one in settings)
        if alike < len(settings) and not alike > len(settings) / 2:
            said.append(f"{key}={value}")
    return said


def _seeds(entry: Entry, rivals: Sequence[Entry]) -> list[str]:
    word = "seed" if len(entry.runs) == 1 else "seeds"
    return [f"{word} {' '.join(str(run.manifest.seed) for run in entry.runs)}"]


def _run_ids(entry: Entry, rivals: Sequence[Entry]) -> list[str]:
    return [f"run {' '.join(entry.run_ids)}"]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def refuse_mixed(runs: Sequence[StoredRun]) -> None:
    """Check that all runs were measured on the same data under the same protocol.

    Raises:
        UsageError: names the first field that differs and its values.
    """
    facts = [_comparable_facts(run.manifest) for run in runs]
    for key in facts[0]:
        values: dict[str, list[str]] = {}
        for run, fact in zip(runs, facts, strict=True):
            values.setdefault(json.dumps(fact[key]), []).append(f"{run.manifest.method} {run.manifest.run_id}")
        if len(values) > 1:
            found = "; ".join(f"{value} in {_some(names)}" for value, names in values.items())
            hashes: dict[str, list[str]] = {}
            for run in runs:
                hashes.setdefault(run.manifest.protocol_hash[:8], []).append(f"{run.manifest.method} {run.run_id}")
            here = "; ".join(f"{protocol}: {_some(names)}" for protocol, names in sorted(hashes.items()))
            raise UsageError(
                f"These runs cannot be compared: {key} differs: {found}.",
                "Compare runs of one data set and protocol: name run ids, or choose with --dataset and --protocol "
                f"(first characters of the protocol hash; here {here}).",
            )


def _comparable_facts(manifest: RunManifest) -> dict[str, Any]:
    return {
        "dataset": manifest.dataset,
        **flatten({"protocol": manifest.protocol.model_dump(mode="json")}),
        "protocol hash": manifest.protocol_hash,
        "dataset fingerprint": manifest.dataset_fingerprint,
        "split fingerprint": manifest.split_fingerprint,
    }


def _some(names: Sequence[str], at_most: int = 3) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def tryout_notes(entries: Sequence[Entry]) -> list[str]:
    """Return the sentence that must be seen before the numbers of runs with rows left out; none for whole runs."""
    if not any(run.manifest.limited for entry in entries for run in entry.runs):
        return []
    protocol = entries[0].manifest.protocol
    limits = {"limit_train": protocol.limit_train, "limit_test": protocol.limit_test}
    given = ", ".join(f"{name}={value:,}" for name, value in limits.items() if value is not None)
    return [f"Try-out, not a result: rows were left out to save time ({given or 'limited run'})."]


def shared_notes(entries: Sequence[Entry]) -> list[str]:
    """Return the sentences that must stand under every table with these entries, each once."""
    notes = tryout_notes(entries)
    notes += [note for entry in entries for run in entry.runs for note in run.manifest.notes]
    n_repeated = sum(entry.n_repeated for entry in entries)
    if n_repeated:
        notes.append(f"{n_repeated} older run(s) that repeat a seed are left out; the newest run of each seed counts.")
    return list(dict.fromkeys(notes + version_notes(entries)))


def version_notes(entries: Sequence[Entry]) -> list[str]:
    """Return a sentence if the runs were made by several versions of recbench: who stands for which."""
    by_version: dict[str, list[str]] = {}
    for entry in entries:
        for version in sorted({run.manifest.provenance.get("recbench", "") for run in entry.runs} - {""}):
            by_version.setdefault(version, []).append(entry.label)
    if len(by_version) < 2:
        return []
    told = "; ".join(f"{version}: {', '.join(labels)}" for version, labels in sorted(by_version.items()))
    return [
        f"Several versions of recbench made these runs, and equal settings need not give equal lists in all: {told}."
    ]


def depth_notes(entries: Sequence[Entry], k: int) -> list[str]:
    """Return one sentence for the entries of each length of list that never reaches place ``k``."""
    by_length: dict[int, list[str]] = {}
    for entry in entries:
        longest = max(run.summary()["validity"]["max_length"] for run in entry.runs)
        if longest < k:
            by_length.setdefault(longest, []).append(entry.label)
    return [
        f"{', '.join(labels)} {'lists' if len(labels) == 1 else 'list'} {longest} places at most, so metrics at larger "
        f"cutoffs (up to {k}) count the places after that as misses."
        for longest, labels in sorted(by_length.items())
    ]
