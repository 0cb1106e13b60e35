"""What the words of a command line stand for: references -> labelled entries that may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbench.artifacts.store import RunStore, StoredRun
from recbench.contracts.errors import UsageError
from recbench.experiment.entries import Entry, group_by_identity, group_key, label_entries, refuse_mixed


@dataclass(frozen=True)
class Selection:
    """Entries, and which of them each reference stands for.

    Attributes:
        entries: labelled, each once, in the order of the references; all may stand in one table.
        of: reference -> run ids of its entries.
    """

    entries: tuple[Entry, ...]
    of: Mapping[str, tuple[tuple[str, ...], ...]]

    def one(self, reference: str, role: str) -> Entry:
        """Return the only entry that a reference stands for.

        Args:
            reference: one of those that were selected.
            role: what it is, for the message ("baseline").

        Raises:
            UsageError: it stands for several entries.
        """
        found = [entry for entry in self.entries if entry.run_ids in self.of[reference]]
        if len(found) == 1:
            return found[0]
        labels = "; ".join(f"{entry.label} [{', '.join(entry.run_ids)}]" for entry in found)
        raise UsageError(
            f"The {role} '{reference}' stands for {len(found)} entries: {labels}.", "Name one by its label or run id."
        )


def select(
    store: RunStore, references: Sequence[str], dataset: str | None = None, protocol: str | None = None
) -> Selection:
    """Find the entries that references stand for.

    Args:
        store: the runs.
        references: run ids (or prefixes) or run folders, which stand for themselves; method names, for all complete
            runs of that method; labels as tables print them ("bigrec (nano, exact search)"), for that entry.
        dataset: takes only runs on this data set.
        protocol: takes only runs whose protocol hash begins with this.

    Raises:
        UsageError: a reference has no complete run, or the runs are of mixed data or protocols.
        ArtifactError: nothing fits a reference, or the results of a run were changed.
    """
    found = {reference: _resolve(store, reference, dataset, protocol) for reference in references}
    entries = {entry.run_ids: entry for group in found.values() for entry in group}
    runs = [run for entry in entries.values() for run in entry.runs]
    refuse_mixed(runs)
    for run in runs:
        run.require_intact(run.paths.results)
    return Selection(
        entries=tuple(label_entries(list(entries.values()))),
        of={reference: tuple(entry.run_ids for entry in group) for reference, group in found.items()},
    )


def _resolve(store: RunStore, reference: str, dataset: str | None, protocol: str | None) -> list[Entry]:
    method, bracket, _ = reference.partition(" (")
    labelled = bool(bracket) and reference.endswith(")")
    found = store.find(method if labelled else reference, dataset=dataset, status="complete")
    manifest = found[0].manifest
    if manifest.method not in (reference, method if labelled else None):
        return [_one_run(found[0], dataset)]
    fitting = [run for run in found if run.manifest.protocol_hash.startswith(protocol or "")]
    if not fitting:
        hashes = ", ".join(sorted({run.manifest.protocol_hash[:8] for run in found}))
        raise UsageError(
            f"No complete run of '{reference}' has a protocol hash that begins with '{protocol}'; there are: {hashes}."
        )
    return _of_label(reference, fitting) if labelled else group_by_identity(fitting)


def _one_run(run: StoredRun, dataset: str | None) -> Entry:
    manifest = run.manifest
    if manifest.status != "complete":
        raise UsageError(
            f"Run {manifest.run_id} ({manifest.method}) is {manifest.status}; only complete runs are compared.",
            "Give its command again to complete it.",
        )
    if dataset not in (None, manifest.dataset):
        raise UsageError(f"Run {manifest.run_id} ({manifest.method}) is on {manifest.dataset}, not on {dataset}.")
    return Entry((run,))


def _of_label(label: str, runs: Sequence[StoredRun]) -> list[Entry]:
    """Return the entries of one method that carry this label beside others on the same data and protocol."""
    groups: dict[object, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(group_key(run.manifest), []).append(run)
    labelled = [entry for group in groups.values() for entry in label_entries(group_by_identity(group))]
    found = [entry for entry in labelled if entry.label == label]
    if not found:
        known = "; ".join(sorted({entry.label for entry in labelled}))
        raise UsageError(f"No entry is labelled '{label}'; there are: {known}.")
    return found
