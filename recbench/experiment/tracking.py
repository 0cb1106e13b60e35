"""Complete runs in an experiment tracker: settings, metrics, training curves and files of a run go to MLflow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from recbench.artifacts.store import StoredRun
from recbench.contracts.errors import ArtifactError, MissingExtraError
from recbench.evaluation.accuracy import TRUTHS
from recbench.experiment.entries import flatten

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_TAG = "recbench.run_id"

_MAX_PARAMS, _MAX_METRICS = 100, 1000  # of one request
_LONGEST_PARAM = 500
_METRICS_OF_TRUTH = dict(zip(TRUTHS, ("metrics", "metrics_title"), strict=True))
_NOT_A_CURVE = ("step", "epoch")


def open_mlflow(tracking_uri: str | None) -> MlflowClient:
    """Return a client of MLflow's tracking server or store.

    Args:
        tracking_uri: its address; None: what ``MLFLOW_TRACKING_URI`` names, else MLflow's default.

    Raises:
        MissingExtraError: MLflow is not installed.
        ArtifactError: the address cannot be used.
    """
    # MLflow reads these when it is imported: it would tell its makers of its use, and try for minutes to connect.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"'recbench runs log --to mlflow' needs the package '{error.name}', which is not installed.",
            "pip install 'recbench[mlflow]'",
        ) from error
    try:
        return MlflowClient(tracking_uri=tracking_uri)
    except MlflowException as error:
        raise _mlflow_error(error) from error


def log_to_mlflow(run: StoredRun, client: MlflowClient, experiment: str) -> dict[str, Any]:
    """Log one run: parameters, metrics of both truths, costs, training curves, and all of its files.

    A run that was logged to this experiment before is left as it is.

    Args:
        run: a complete run.
        client: as :func:`open_mlflow` returns it.
        experiment: name of MLflow's experiment; it is made where there is none.

    Returns:
        ``run_id``, ``mlflow_run_id``, ``experiment``, ``experiment_id``, ``fresh`` (whether it was logged now).

    Raises:
        ArtifactError: the run is not complete or was changed, or MLflow does not accept it or cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    run.require_intact()
    try:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        mine = f"tags.`{RUN_TAG}` = '{run.run_id}' and attributes.status = 'FINISHED'"
        earlier = client.search_runs([experiment_id], mine, max_results=1)
        mlflow_run_id = earlier[0].info.run_id if earlier else _log(run, client, experiment_id)
    except MlflowException as error:
        raise _mlflow_error(error) from error
    return {
        "run_id": run.run_id,
        "mlflow_run_id": mlflow_run_id,
        "experiment": experiment,
        "experiment_id": experiment_id,
        "fresh": not earlier,
    }


def _log(run: StoredRun, client: MlflowClient, experiment_id: str) -> str:
    from mlflow.entities import Metric, Param

    manifest = run.manifest
    finished = _milliseconds(manifest.finished or manifest.created)
    name = f"{manifest.method} on {manifest.dataset}, seed {manifest.seed}"
    tags = {RUN_TAG: run.run_id, **_tags(run)}
    logged = client.create_run(experiment_id, start_time=_milliseconds(manifest.created), tags=tags, run_name=name)
    run_id = str(logged.info.run_id)
    try:
        params = iter([Param(key, value) for key, value in params_of(run).items()])
        while part := list(islice(params, _MAX_PARAMS)):
            client.log_batch(run_id, params=part)
        points = (Metric(key, value, finished, step) for key, value, step in metric_points(run))
        while points_part := list(islice(points, _MAX_METRICS)):
            client.log_batch(run_id, metrics=points_part)
        for file in (run.paths.manifest, *(run.paths.folder / file for file in manifest.files)):
            client.log_artifact(run_id, str(file))
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED", finished)
    return run_id


def params_of(run: StoredRun) -> dict[str, str]:
    """Return what determined the run as texts: its names, configuration and protocol, under dotted keys.

    A value of more than 500 characters is cut; ``config.yaml`` has all of it.
    """
    manifest = run.manifest
    backbone = manifest.backbone
    values = {
        "method": manifest.method,
        "dataset": manifest.dataset,
        "backbone": backbone.name if backbone else None,
        "backbone_revision": backbone.revision if backbone else None,
        "seed": manifest.seed,
        "device": manifest.device,
        "dataset_fingerprint": manifest.dataset_fingerprint,
        "split_fingerprint": manifest.split_fingerprint,
        "protocol_hash": manifest.protocol_hash,
        **flatten({"protocol": manifest.protocol.model_dump(mode="json"), "config": manifest.config}),
    }
    return {tracker_name(key): str(value)[:_LONGEST_PARAM] for key, value in values.items() if value is not None}


def metric_points(run: StoredRun) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of every number: results and costs at step 0, then the training curves."""
    manifest, summary = run.manifest, run.summary()
    results: dict[str, Any] = {truth: summary[key] for truth, key in _METRICS_OF_TRUTH.items()}
    results |= {name: summary[name] for name in ("lists", "tie_rate", "validity") if name in summary}
    results |= {"seconds": manifest.timings_s, "peak_memory_bytes": manifest.peak_memory_bytes}
    for group, values in results.items():
        for name, value in _numbers(values):
            yield tracker_name(f"{group}/{name}"), value, 0
    for record in _train_records(run):
        stage = record.get("stage", "train")
        for name, value in _numbers({key: value for key, value in record.items() if key not in _NOT_A_CURVE}):
            yield tracker_name(f"{stage}/{name}"), value, int(record["step"])


def tracker_name(name: str) -> str:
    """Return a name in the characters that MLflow allows: ``item/NDCG@10`` -> ``item/NDCG_at_10``."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [
        (name, float(value))
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]


def _train_records(run: StoredRun) -> Iterator[Mapping[str, Any]]:
    if run.paths.train_log.is_file():
        for line in run.paths.train_log.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if isinstance(record.get("step"), int):
                yield record


def _tags(run: StoredRun) -> dict[str, str]:
    manifest = run.manifest
    git = manifest.provenance.get("git") or {}
    tags = {
        "recbench.version": manifest.provenance.get("recbench"),
        "recbench.limited": manifest.limited,
        "recbench.imported": "imported" in manifest.provenance,
        "recbench.notes": " ".join(manifest.notes)[: 10 * _LONGEST_PARAM] or None,
        "mlflow.source.git.commit": git.get("commit"),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() * 1000)


def _mlflow_error(error: Exception) -> ArtifactError:
    return ArtifactError(
        f"MLflow: {str(error).strip().rstrip('.')}.",
        "Say where to log with --tracking-uri (http://HOST:PORT, sqlite:///FILE.db) or MLFLOW_TRACKING_URI.",
    )
