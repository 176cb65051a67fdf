"""A fresh process for every call, without loading torch in each: they are forked from one that has, and has done nothing."""

import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zsrobust.cli import main
from zsrobust.running import bench, compute
from zsrobust.running.costs.model import Speed

SERVER = multiprocessing.get_context("forkserver")
# Nothing that reads its environment once, when it is imported: huggingface_hub does.
SERVER.set_forkserver_preload(["torchvision", "zsrobust.running.run"])


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Process:
    """A function in a process of its own, in a folder, with an environment; warnings are errors there."""

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115  # until the process has ended
        names = [file.name for file in self.files]
        self.process = SERVER.Process(
            target=_begin, args=(function, arguments, folder, dict(environment), names)
        )
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, timeout: float = 300) -> Done:
        """Wait for it, and return its exit code and what it wrote."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        said = [Path(file.name).read_text(encoding="utf-8") for file in self.files]
        for file in self.files:
            file.close()
        return Done(self.process.exitcode, *said)


#: In place of what takes longer than the cells of a test: red flags, and how fast this machine is.
HURRIED = {
    (compute, "examine_cell"): lambda *_: compute.Examined(),
    (bench, "measure"): lambda *_: Speed(1000.0, 400.0),
}


def command(arguments: tuple[str, ...], whole: bool) -> None:
    """Run the command line, if it is not the whole of it without red flags and measured speed."""
    for (module, name), value in ({} if whole else HURRIED).items():
        setattr(module, name, value)
    main(arguments, "zsrobust")


def script(code: str, *arguments: str) -> None:
    """Run lines of Python as `python -c` does."""
    sys.argv = ["-c", *arguments]
    sys.path.insert(0, "")
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102  # a test's own


def _begin(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    environment: dict[str, str],
    files: list[str],
) -> None:
    for stream, name in ((1, files[0]), (2, files[1])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("error")
    function(*arguments)
