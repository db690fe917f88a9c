"""Where a pod's files lie: what the operator mounts, and what the containers leave for each other in the work folder."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from graft_api import run as constants


@dataclass(frozen=True)
class Mounts:
    """What a container is given. The defaults are the pod's; `graft-trainer run` names others."""

    run: Path = Path(constants.RUN_FILE)
    work: Path = Path(constants.WORK_DIRECTORY)
    token: Path = Path(constants.TOKEN_FILE)
    ca: Path = Path(constants.CA_FILE)
    credentials: Path = Path(constants.CREDENTIALS_DIRECTORY)
    signing_key: Path = Path(constants.SIGNING_KEY_FILE)
    termination_log: Path = Path(constants.TERMINATION_MESSAGE_FILE)
    volumes: Path = Path(constants.MOUNT_ROOT) / "pvc"
    """`pvc://claim/path` is mounted at `<volumes>/claim`."""

    def arguments(self) -> list[str]:
        """Return the command line that gives these mounts to another process."""
        return [argument for name in _OPTIONS for argument in (f"--{name.replace('_', '-')}", str(getattr(self, name)))]


_OPTIONS = ("run", "work", "token", "ca", "credentials", "signing_key", "termination_log", "volumes")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line move every mount."""
    for name in _OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, default=getattr(Mounts(), name), help=argparse.SUPPRESS)


def mounts_from(options: argparse.Namespace) -> Mounts:
    """Return the mounts that a command line named."""
    return Mounts(**{name: getattr(options, name) for name in _OPTIONS})


@dataclass(frozen=True)
class WorkFolder:
    """The volume that the pod's containers share."""

    root: Path

    @property
    def claim(self) -> Path:
        """What preflight found out: the attempt's number, and whether there is anything to do."""
        return self.root / "claim.json"

    @property
    def model(self) -> Path:
        """The base model, where it had to be copied."""
        return self.root / "model"

    @property
    def data(self) -> Path:
        """Sources, the three sets, and their tokens."""
        return self.root / "data"

    @property
    def output(self) -> Path:
        """Transformers' own output folder."""
        return self.root / "output"

    @property
    def checkpoints(self) -> Path:
        """Complete checkpoints, each with its list: what is uploaded, and what a restarted worker resumes from."""
        return self.root / "checkpoints"

    @property
    def trained(self) -> Path:
        """The adapter that training ended with."""
        return self.root / "trained"

    @property
    def evaluation(self) -> Path:
        """What the suites came to."""
        return self.root / "evaluation.json"

    @property
    def package(self) -> Path:
        """The folder to sign and publish."""
        return self.root / "package"

    @property
    def committed(self) -> Path:
        """A copy of the artifact that an earlier attempt committed, to check its signature."""
        return self.root / "committed"

    @property
    def stages(self) -> Path:
        """Seconds of each stage so far."""
        return self.root / "stages.json"

    @property
    def progress(self) -> Path:
        """The newest progress, replaced atomically; whoever trains writes it, the reporter reads it."""
        return self.root / "progress.json"

    @property
    def stop(self) -> Path:
        """Its existence asks training to save and end."""
        return self.root / "stop"
