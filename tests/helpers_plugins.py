"""Small plugin packages for tests, installed by writing what pip would write."""

from __future__ import annotations

from pathlib import Path


class PluginFolder:
    """A folder that looks like a site-packages folder with small distributions in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, distribution: str, methods: dict[str, str], modules: dict[str, str]) -> None:
        """Write one distribution.

        Args:
            distribution: its name.
            methods: entry points of the group ``recbench.methods``.
            modules: file name -> source.
        """
        info = self.path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {target}" for name, target in methods.items())
        (info / "entry_points.txt").write_text(f"[recbench.methods]\n{lines}\n")
        for name, source in modules.items():
            (self.path / name).write_text(source, encoding="utf-8")
