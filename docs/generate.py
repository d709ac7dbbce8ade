"""Writes the pages that are generated from the code: `python -m docs.generate docs`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from docs import api_reference, configuration_reference

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": configuration_reference.page,
    "reference.md": api_reference.page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(sys.argv[1]) / name).write_text(page(), encoding="utf-8")
