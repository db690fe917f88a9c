"""
The processes of the data plane: `graft-serving <verb>`.

    fetch-base   init container of a server pod: download the base model, check its digest
    door         write nginx's configuration and become nginx
    agent        beside vLLM: load and prove what the routes ask for
    gateway      what clients talk to
    collector    beside the gateways: score what production answers, hold a candidate's answers against it
    drift        a Job: hold a candidate's answers to the principle prompts against those of the version before it

Exit codes: 0 after SIGTERM or when the work is done, 1 when something broke (the kubelet starts it again), 2 when a setting is
missing or wrong, which a restart does not cure.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping

from graft_runtime.environment import MissingSetting, log_level
from graft_runtime.logs import configure_logging

logger = logging.getLogger(__name__)

BROKEN, MISCONFIGURED = 1, 2

Verb = Callable[[Mapping[str, str]], int]


def main() -> int:
    """Run one process to its end. Returns its exit code."""
    verb = VERBS[_parser().parse_args().verb]
    configure_logging(words=False)
    try:
        configure_logging(log_level(os.environ), words=False)
        return verb(os.environ)
    except MissingSetting as missing:
        logger.critical("%s", missing)
        return MISCONFIGURED
    except Exception:
        logger.exception("the process ends")
        return BROKEN


def gateway(environ: Mapping[str, str]) -> int:
    """See `graft_serving.gateway.main`."""
    from graft_serving.gateway.main import run  # noqa: PLC0415 - each process imports what it needs

    return run(environ)


def agent(environ: Mapping[str, str]) -> int:
    """See `graft_serving.agent.main`."""
    from graft_serving.agent.main import run  # noqa: PLC0415

    return run(environ)


def collector(environ: Mapping[str, str]) -> int:
    """See `graft_serving.collector.main`."""
    from graft_serving.collector.main import run  # noqa: PLC0415

    return run(environ)


def drift(environ: Mapping[str, str]) -> int:
    """See `graft_serving.drift.main`."""
    from graft_serving.drift.main import run  # noqa: PLC0415

    return run(environ)


def door(_: Mapping[str, str]) -> int:
    """See `graft_serving.door.main`."""
    from graft_serving.door.main import main as become_nginx  # noqa: PLC0415

    become_nginx()


def fetch_base(environ: Mapping[str, str]) -> int:
    """See `graft_serving.fetch_base`."""
    from graft_serving.fetch_base import run  # noqa: PLC0415

    return run(environ)


VERBS: dict[str, Verb] = {
    "gateway": gateway,
    "agent": agent,
    "collector": collector,
    "drift": drift,
    "door": door,
    "fetch-base": fetch_base,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graft-serving", description="The processes of an endpoint's data plane.")
    parser.add_argument("verb", choices=VERBS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
