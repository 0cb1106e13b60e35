"""The published code's numbers, and that the self-check notices when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latent.golden import read_golden
from latent.verify import verify
from recbench.contracts.errors import DataError


@pytest.fixture
def golden_folder(shared: Path) -> Path:
    folder = shared / "golden" / "set_a"
    if not folder.is_dir():
        pytest.skip("needs golden/set_a in the shared folder")
    return folder


def test_every_quantity_agrees_with_the_published_code(golden_folder: Path) -> None:
    checks = verify(read_golden(golden_folder))
    assert [check for check in checks if not check.passed] == []
    names = " ".join(check.name for check in checks)
    for part in (
        "fwd.r",
        "sft.grad",
        "rl.rewards",
        "groupwise.advantages",
        "offpolicy.loss",
        "beam.lp0.0",
        "beam.lp1.0",
        "beam.lp1.0.single.sequences",
        "beam.lp0.0.exact_ranking_distinct.item_index",
        "beam.exact_len_incl_eos",
    ):
        assert part in names


def test_command_line_fails_on_a_changed_number(golden_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden_folder, tmp_path / "set")
    weights = load_file(folder / "weights.safetensors")
    weights["attention.key.bias"] = weights["attention.key.bias"] + 0.05
    save_file(weights, folder / "weights.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "latent.verify", str(folder), "--json"], capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["passed"] is False
    failed = {check["name"] for check in document["checks"] if not check["passed"]}
    assert "fwd.r" in failed
    assert "fwd.H_pass1" not in failed


def test_incomplete_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks manifest\.json"):
        read_golden(tmp_path)
    for name in ("manifest.json", "weights.safetensors", "golden.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        read_golden(tmp_path)


def test_padding_is_found_by_the_mask_not_by_the_id(golden_folder: Path) -> None:
    """The end token is also the padding, so a prompt may hold it as a real token."""
    golden = read_golden(golden_folder)
    writer = golden.writer()
    ids = torch.tensor([[1, golden.eos, 2, 3]])
    seen = writer.read(ids, torch.ones_like(ids)).pending
    masked = writer.read(ids, torch.tensor([[0, 0, 1, 1]])).pending
    assert not torch.allclose(seen, masked, atol=1e-4)
