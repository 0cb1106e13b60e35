"""Reading a folder of golden numbers: a tiny Qwen2 with LatentRATT, inputs, and results of the published code.

A folder holds ``manifest.json`` (what every tensor is), ``weights.safetensors`` and ``golden.safetensors``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from latent.attention import LatentAttention
from latent.reasoner import LatentWriter
from recbench.contracts.errors import DataError

_FILES = ("manifest.json", "weights.safetensors", "golden.safetensors")


@dataclass(frozen=True)
class GoldenSet:
    """One set.

    Attributes:
        manifest: the manifest's values.
        weights: all parameters under their Hugging Face names, and ``attention.*``.
        tensors: inputs and results.
    """

    manifest: dict[str, Any]
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor; integers come as int64."""
        if name not in self.tensors:
            raise DataError(f"The golden set has no tensor '{name}'.", "Check that its files belong together.")
        tensor = self.tensors[name]
        return tensor if tensor.is_floating_point() else tensor.long()

    def names(self, pattern: str) -> list[re.Match[str]]:
        """Return the matches of all tensor names that match ``pattern`` in full, in order."""
        matches = (re.fullmatch(pattern, name) for name in sorted(self.tensors))
        return [match for match in matches if match]

    @property
    def eos(self) -> int:
        """Id of the end token, which is also the padding."""
        return int(self.manifest["ids"]["eos_and_pad"])

    def writer(self) -> LatentWriter:
        """Return the set's model in float32 on the CPU, ready to run."""
        lm = Qwen2ForCausalLM(self._config())
        lm_weights = {n: w for n, w in self.weights.items() if not n.startswith("attention.")}
        missing, unexpected = lm.load_state_dict(lm_weights, strict=False)
        if unexpected or [name for name in missing if name != "lm_head.weight"]:
            raise DataError(f"The weights do not fit a Qwen2 model: missing {missing}, unexpected {unexpected}.")
        attention = LatentAttention(lm.config.hidden_size)
        attention.load_state_dict(
            {n.removeprefix("attention."): w for n, w in self.weights.items() if n not in lm_weights}
        )
        return LatentWriter(lm, attention).eval()

    def _config(self) -> Qwen2Config:
        vocabulary, hidden = self.weights["model.embed_tokens.weight"].shape
        layers = 1 + max(int(n.split(".")[2]) for n in self.weights if n.startswith("model.layers."))
        return Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=self.weights["model.layers.0.mlp.gate_proj.weight"].shape[0],
            num_hidden_layers=layers,
            num_attention_heads=int(self._stated(r"(\d+) heads")),
            num_key_value_heads=int(self._stated(r"(\d+) KV heads")),
            rope_parameters={"rope_type": "default", "rope_theta": self._stated(r"rope_theta ([\d.e+]+)")},
            rms_norm_eps=self._stated(r"rms eps ([\d.e+-]+)"),
            tie_word_embeddings="lm_head.weight" not in self.weights,
            max_position_embeddings=4096,
            attn_implementation="sdpa",
        )

    def _stated(self, pattern: str) -> float:
        found = re.search(pattern, self.manifest["model"])
        if not found:
            raise DataError(f"The manifest's 'model' does not state {pattern!r}: {self.manifest['model']!r}.")
        return float(found.group(1).rstrip("."))


def read_golden(folder: Path) -> GoldenSet:
    """Read a golden set.

    Raises:
        DataError: a file is missing or damaged.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}.", "Give a folder with these three: " + ", ".join(_FILES))
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return GoldenSet(manifest, load_file(folder / "weights.safetensors"), load_file(folder / "golden.safetensors"))
    except (json.JSONDecodeError, SafetensorError) as error:
        raise DataError(f"{folder} holds a damaged file: {error}.") from error
