"""What ``import fanin`` costs after NumPy's own import."""

from __future__ import annotations


class Import:
    def timeraw_import_fanin(self) -> tuple[str, str]:
        return "import fanin", "import numpy"

    def timeraw_import_numpy(self) -> str:
        return "import numpy"

    def peakmem_import_fanin(self) -> None:
        import fanin  # noqa: F401
