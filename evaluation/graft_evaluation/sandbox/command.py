"""In the child: become the user's program, with the text on stdin, in an empty folder and a clean environment."""

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graft_evaluation.sandbox.zygote import Work

PATH = "/usr/local/bin:/usr/bin:/bin"
NOT_STARTED = 127
"""As shells say it."""


def prepare(settings: dict[str, Any]) -> Work:
    argv, memory = list(settings["argv"]), settings["memory_mib"] * 1024 * 1024
    kept = tempfile.TemporaryDirectory(prefix="graft-command-")  # gone when the zygote ends

    def work(text: str, _: Callable[[dict[str, Any]], None]) -> None:
        folder = _emptied(Path(kept.name))
        os.chdir(folder)
        stdin = os.memfd_create("answer")
        with os.fdopen(os.dup(stdin), "wb") as file:
            file.write(text.encode(errors="surrogatepass"))
        os.lseek(stdin, 0, os.SEEK_SET)
        os.dup2(stdin, 0)
        os.close(stdin)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and ignoring is inherited
            signal.signal(ignored, signal.SIG_DFL)
        environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}
        try:
            os.execvpe(argv[0], argv, environment)  # noqa: S606 - that there is no shell is the point
        except OSError:
            os._exit(NOT_STARTED)

    return work


def _emptied(folder: Path) -> Path:
    """What the program wrote for the last answer is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
