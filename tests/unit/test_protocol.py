"""What a protocol accepts, and how what it does not accept is told."""

from __future__ import annotations

from typing import Any

import pytest

from recbench.contracts.config import build_config
from recbench.contracts.errors import ConfigError
from recbench.contracts.protocol import Protocol


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 19}, "depth 19 keeps fewer places than the largest cutoff, 20"),
        ({"cutoffs": []}, "cutoffs: got []"),
        ({"cutoffs": [0, 5]}, "cutoffs.0: got 0"),
        ({"cutoffs": [5, 5]}, "cutoffs [5, 5] name a cutoff twice"),
        ({"ratios": [-8, 1, 1]}, "ratios.0: got -8"),
        ({"ratios": [0, 1, 1]}, "ratios [0, 1, 1] leave no training or no test rows"),
        ({"ratios": [8, 1, 0]}, "ratios [8, 1, 0] leave no training or no test rows"),
        ({"ratios": [8, 1]}, "ratios"),
    ],
)
def test_what_cannot_be_measured_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Protocol, values, "the protocol")
    assert message in caught.value.message
    assert "value error" not in caught.value.message


def test_a_protocol_without_validation_rows_or_with_shallow_lists_is_fine() -> None:
    protocol = build_config(Protocol, {"ratios": [9, 0, 1], "depth": 5, "cutoffs": [5, 1]}, "the protocol")
    assert protocol.cutoffs == (5, 1)
    assert protocol.hash != Protocol().hash
