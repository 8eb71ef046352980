"""Build step: copy the build requirement scipy-openblas32 under a name of our own.

Usage: python vendor_openblas.py OUTPUT_DIRECTORY

On Linux the loader identifies a shared library by its soname as well as by its
path. Two libraries with one soname in a process would make a third party that
asks for ``libscipy_openblas.so`` by name get fanin's copy. The copy therefore
gets a soname of the same length, written over the old one in place: the entry
is an ordinary string of the dynamic string table and takes part in no hash.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path

OLD_SONAME = b"\0libscipy_openblas.so\0"
NEW_SONAME = b"\0libfanin_openblas.so\0"
SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}


def library_and_licence() -> tuple[Path, Path]:
    """Find both in the installed distribution, without importing it.

    (Importing it would load the library into this process.)
    """
    suffix = SUFFIXES.get(sys.platform, ".so")
    files = importlib.metadata.files("scipy-openblas32") or []
    libraries = [f for f in files if f.name.endswith(suffix) and "openblas" in f.name]
    licences = [f for f in files if f.name == "LICENSE.txt"]
    if len(libraries) != 1 or len(licences) != 1:
        raise SystemExit(
            f"scipy-openblas32 should hold one *openblas*{suffix} and one LICENSE.txt; "
            f"found {libraries} and {licences}"
        )
    return Path(libraries[0].locate()), Path(licences[0].locate())


def main(output: Path) -> None:
    """Write the renamed library and its licence texts to `output`."""
    library, licence = library_and_licence()
    target = output / f"libfanin_openblas{library.suffix}"
    if sys.platform == "linux":
        image = library.read_bytes()
        if image.count(OLD_SONAME) != 1:
            raise SystemExit(f"{library} does not name itself once as {OLD_SONAME!r}")
        target.write_bytes(image.replace(OLD_SONAME, NEW_SONAME))
    else:
        shutil.copyfile(library, target)
    shutil.copyfile(licence, output / "LICENSE-openblas.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
