from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

WHAT: tuple[str, ...]

@disjoint_base
class Pair:
    functions: tuple[Callable[..., Any], ...]
    compiled: bool
    owners: tuple[Any, ...]
    def __init__(
        self,
        functions: tuple[Callable[..., Any], ...] = (),
        addresses: tuple[tuple[int, int | None], ...] = (),
        owners: tuple[Any, ...] = (),
    ) -> None: ...

def read_capsule(capsule: object) -> tuple[int, str, int]: ...
