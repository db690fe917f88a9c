"""Install graft into the cluster as a user does: images, then the chart by Helm. The demo, the e2e tests and the benchmarks share it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster import images, s3
from graft_devcluster.settings import Settings
from graft_devcluster.tools import Toolbox

NAMESPACE = "graft-system"
RELEASE = "graft"
SCRAPED = (r"podAnnotations.prometheus\.io/scrape=true", r"podAnnotations.prometheus\.io/port=8080")
"""So that the cluster's Prometheus reads the operator, too."""


@dataclass(frozen=True)
class Tools:
    """Programs of the cluster, run with its kubeconfig."""

    settings: Settings

    def environment(self) -> Mapping[str, str]:
        """PATH and KUBECONFIG for programs that talk to this cluster."""
        toolbox = Toolbox(self.settings.cache)
        folders = dict.fromkeys(str(toolbox.path(name).parent) for name in ("kubectl", "helm"))
        path = ":".join([*folders, "/usr/bin", "/bin"])
        return {"PATH": path, "KUBECONFIG": str(self.settings.kubeconfig), "HOME": str(self.settings.state)}

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a program; its output. Raises `CommandFailed` with what it said."""
        done = subprocess.run(command, env=dict(self.environment()), input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


class CommandFailed(RuntimeError):  # noqa: N818 -- says what happened
    """A program said no; the message is what it said."""


def install(settings: Settings, references: Mapping[str, str], *values: str) -> None:
    """Install or upgrade the chart with these images (`operator`, `trainer`) and wait until the operator is ready."""
    chart = Path(__file__).parents[2] / "charts" / "graft"
    chosen = [*images.chart_values(references), *values]
    sets = [part for value in chosen for part in ("--set", value)] + [part for value in SCRAPED for part in ("--set-string", value)]
    command = ["helm", "upgrade", "--install", RELEASE, str(chart), "--namespace", NAMESPACE, "--create-namespace"]
    Tools(settings).run(*command, *sets, "--wait", "--timeout", "3m")


def s3_secret(settings: Settings) -> Mapping[str, str]:
    """The keys of a credentials Secret for the cluster's own S3, as pods reach it."""
    return {"AWS_ENDPOINT_URL": s3.endpoint(settings), **s3.credentials(settings).environment()}
