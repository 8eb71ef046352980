"""The command line: ``python -m fanin demo`` and ``python -m fanin info``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import fanin

EPILOG = """\
examples:
  python -m fanin demo
  python -m fanin demo --data table.csv --target price --output price.png
  python -m fanin demo --data arrays.npz
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            upper = "" if maximum is None else f" and at most {maximum}"
            raise argparse.ArgumentTypeError(
                f"an integer of at least {minimum}{upper} is needed; got {text!r}"
            )
        return value

    return convert


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or not all(1 <= width <= 100_000 for width in widths):
        raise argparse.ArgumentTypeError(
            f"units of the hidden layers are needed, such as 100,50; got {text!r}"
        )
    return widths


def _png(path: str) -> str:
    """Check that the picture can be written before the work is done."""
    if not path.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(
            f"a path ending in .png is needed; got {path!r}"
        )
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"no such directory: {folder}")
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a directory")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {path}")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fanin",
        usage="python -m fanin [--help] [--version] {demo,info} ...",
        description="Normalize the features, initialize by fan-in, check the gradient.",
    )
    parser.add_argument(
        "--version", action="version", version=f"fanin {fanin.__version__}"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="{demo,info}", prog="fanin"
    )
    commands.add_parser(
        "info",
        usage="python -m fanin info",
        help="print versions, BLAS, SIMD level and threads",
    )
    demo = commands.add_parser(
        "demo",
        usage="python -m fanin demo [options]",
        help="standardize, initialize, check, train and break a network",
        description="Standardize, initialize, check the gradient, train, break the "
        "gradient and find it: on scikit-learn's digits or your own table, with times "
        "beside plain NumPy and a picture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = demo.add_argument
    add("--data", metavar="FILE", help="CSV with a header row, or NPZ (X and y)")
    add(
        "--target",
        metavar="COLUMN",
        help="what to predict: a column's name or index from 0 (NPZ: the array's name, "
        "y by default)",
    )
    add(
        "--output",
        metavar="PATH.png",
        help="where to write the picture (default: fanin-demo.png)",
    )
    add(
        "--hidden",
        type=_widths,
        default=(256,),
        metavar="N,N,...",
        help="units of the hidden layers (default: 256)",
    )
    add(
        "--epochs",
        type=_integer(1),
        metavar="N",
        help="default: as many as make about 2200 steps, from 5 to 200",
    )
    add(
        "--batch-size",
        type=_integer(1),
        metavar="N",
        help="default: 128, or 16 for fewer than 1280 training rows",
    )
    add(
        "--seed",
        type=_integer(0),
        default=0,
        metavar="N",
        help="of the weights and the order of the batches (default: 0)",
    )
    add(
        "--n-threads",
        type=_integer(1, 256),
        metavar="N",
        help="threads of fanin (NumPy has its own)",
    )
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from fanin._demo import data
    from fanin._demo.errors import DemoError, optional
    from fanin._demo.stages import Options, run

    try:
        output = _png(arguments.output or "fanin-demo.png")
    except argparse.ArgumentTypeError as error:
        raise DemoError(f"argument --output: {error}") from None
    if arguments.data is None and arguments.target is not None:
        raise DemoError("--target needs --data")
    # What is missing is said before the work, not after it.
    optional("matplotlib", "matplotlib")
    if not arguments.quiet and sys.stderr.isatty():
        optional("tqdm", "tqdm")
    if arguments.data is None:
        table = data.digits()
    else:
        table = data.read(arguments.data, arguments.target)
    run(
        table,
        Options(
            output=output,
            seed=arguments.seed,
            hidden=arguments.hidden,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            quiet=arguments.quiet,
        ),
    )


def _command(arguments: argparse.Namespace) -> int:
    if arguments.command == "info":
        try:
            fanin.show_config()
        except ValueError as error:
            print(f"fanin info: error: {error}", file=sys.stderr)
            return 2
        return 0
    from fanin._demo.errors import DemoError

    try:
        if arguments.n_threads is not None:
            fanin.set_num_threads(arguments.n_threads)
        try:
            fanin.get_num_threads()
        except ValueError as error:
            raise DemoError(str(error)) from None
        _demo(arguments)
    except DemoError as error:
        message = " ".join(str(error).split())
        print(f"fanin demo: error: {message}", file=sys.stderr)
        return error.status
    finally:
        if arguments.n_threads is not None:
            fanin.set_num_threads(None)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0; 1 for a run that failed; 2 for wrong arguments or data; 130 after Ctrl-C.
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        # Named after the command, which argparse's own message is not.
        parser.prog = " ".join(filter(None, ("fanin", arguments.command)))
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status = _command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nfanin: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does; Python would complain when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    # A file name or a column name may hold what the terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    raise SystemExit(main())
