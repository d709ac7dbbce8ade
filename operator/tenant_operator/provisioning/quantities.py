"""Amounts of a resource, as Kubernetes writes them: 2, `500m`, `4Gi`, `1e3`. Pure.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+)([eE][+-]?[0-9]+)?([numkMGTPE]|[KMGTPE]i)?")
_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in zip(range(-3, 0), "num", strict=True)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def amount(quantity: object) -> Decimal:
    """The number that a quantity stands for. ValueError if it is none."""
    found = _QUANTITY.fullmatch(str(quantity))
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    number, exponent, suffix = found.groups(default="")
    return Decimal(number + exponent) * _SUFFIXES[suffix]


def larger(one: object, other: object) -> object:
    """Of two quantities the one that is more."""
    return one if amount(one) >= amount(other) else other
