"""Build step: copy the build requirement scipy-openblas32 under a name of our own.

Usage: python vendor_openblas.py OUTPUT_DIRECTORY

A Linux process may hold several copies of OpenBLAS: NumPy's, SciPy's, an installed
scipy-openblas32, which opens its library for everyone (RTLD_GLOBAL). Two entries
of the copy's dynamic section are edited so that none of them meets another:

soname
    The loader knows a library by its soname as well as by its path. With two of
    one name, a third party that asks for ``libscipy_openblas.so`` could get ours.
    The new name has the same length and is written over the old one; it is an
    ordinary string of the string table and takes part in no hash.
DT_SYMBOLIC
    makes the loader look into the library itself first when it binds the calls
    that the library makes to its own functions. Without it those would be bound
    to any same-named function that is already visible to everyone: our ``dgemm``
    would run another version's kernels on our version's tables. The entry takes
    the place of one of the spare ones that the linker leaves at the section's
    end. (RTLD_DEEPBIND would do the same at load time, but it also separates the
    library from a replaced malloc, and AddressSanitizer refuses it.)

macOS and Windows bind by library, and their copies are left as they are.
"""

import importlib.metadata
import shutil
import struct
import sys
from pathlib import Path

OLD_SONAME = b"\0libscipy_openblas.so\0"
NEW_SONAME = b"\0libfanin_openblas.so\0"
SUFFIXES = {"win32": ".dll", "darwin": ".dylib"}

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
PT_DYNAMIC = 2
DT_NULL = 0
DT_SYMBOLIC = 16


def library_and_licence() -> tuple[Path, Path]:
    """Find both in the installed distribution, without importing it.

    (Importing it would load the library into this process.)
    """
    suffix = SUFFIXES.get(sys.platform, ".so")
    try:
        files = importlib.metadata.files("scipy-openblas32") or []
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(
            "the build requirement scipy-openblas32 is not installed; without build "
            "isolation, install the [build-system] requirements of pyproject.toml "
            "first, or build against a system BLAS with -Dblas=NAME"
        ) from None
    libraries = [f for f in files if f.name.endswith(suffix) and "openblas" in f.name]
    licences = [f for f in files if f.name == "LICENSE.txt"]
    if len(libraries) != 1 or len(licences) != 1:
        raise SystemExit(
            f"scipy-openblas32 should hold one *openblas*{suffix} and one LICENSE.txt; "
            f"found {libraries} and {licences}"
        )
    return Path(libraries[0].locate()), Path(licences[0].locate())


def bind_to_itself(image: bytearray) -> None:
    """Add DT_SYMBOLIC to the dynamic section of a 64-bit ELF library."""
    if not image.startswith(ELF64_LITTLE_ENDIAN):
        raise SystemExit("only 64-bit little-endian ELF is known; use -Dblas=NAME")
    (headers,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for header in range(headers, headers + count * size, size):
        kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", image, header)
        if kind == PT_DYNAMIC:
            break
    else:
        raise SystemExit("the library has no dynamic section")
    tags = [
        struct.unpack_from("<Q", image, entry)[0]
        for entry in range(start, start + length, 16)
    ]
    if DT_SYMBOLIC in tags:
        return
    end = tags.index(DT_NULL)
    if end + 1 >= len(tags):
        raise SystemExit("the dynamic section has no spare entry for DT_SYMBOLIC")
    struct.pack_into("<QQ", image, start + 16 * end, DT_SYMBOLIC, 0)


def main(output: Path) -> None:
    """Write the renamed library and its licence texts to `output`."""
    library, licence = library_and_licence()
    target = output / f"libfanin_openblas{library.suffix}"
    if sys.platform == "linux":
        image = bytearray(library.read_bytes())
        if image.count(OLD_SONAME) != 1:
            raise SystemExit(f"{library} does not name itself once as {OLD_SONAME!r}")
        image = image.replace(OLD_SONAME, NEW_SONAME)
        bind_to_itself(image)
        target.write_bytes(image)
    else:
        shutil.copyfile(library, target)
    shutil.copyfile(licence, output / "LICENSE-openblas.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
