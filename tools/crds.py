"""Writes the CustomResourceDefinitions as files: `python -m tools.crds crds`."""

import sys
from pathlib import Path

from tenant_operator.api.crds import render_crds


def write_crds(folder: Path) -> tuple[Path, ...]:
    """Write the files into a folder and return their paths; OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in render_crds().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return tuple(written)


if __name__ == "__main__":
    write_crds(Path(sys.argv[1]))
