"""Writes the pages that follow from the code, and the pictures in the README: `python -m tools.docs.pages docs`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tools.docs import api_reference, configuration_reference, pictures

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": configuration_reference.page,
    "reference.md": api_reference.page,
}

README: Final = Path(__file__).parents[2] / "README.md"


if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(sys.argv[1]) / name).write_text(page(), encoding="utf-8")
    README.write_text(pictures.insert(README.read_text(encoding="utf-8")), encoding="utf-8")
