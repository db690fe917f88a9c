"""
`graft report --drift`: how far the answers of a domain's candidates were from those of the version before, in a browser.

The page is drawn here, from the numbers in the collector's store: what is opened is ours, whoever can write there.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace

from graft_api.drift import DRIFT_HTML, HISTORY_JSON, DriftHistory
from graft_api.schema import Invalid, parse
from graft_cli.domains import ENDPOINTS, Served, by_name
from graft_cli.kubectl import Kubectl
from graft_cli.report import show, stored, written
from graft_cli.verdicts import UNDECIDED, printable
from graft_evaluation.drift import beyond
from graft_evaluation.report.drift_page import drift_page, outcome, sentences


def drift_report(options: Namespace) -> int:
    """
    Print what the newest check came to; write and open the chart of all.

    Returns 0 nothing stops the candidate, 1 its answers do, 3 nothing was checked yet. Raises `Invalid`.
    """
    kubectl = Kubectl.of(options)
    served = by_name(kubectl, options.drift, options.endpoint)
    folder = _folder(kubectl, served)
    content = stored(folder, HISTORY_JSON, os.environ)
    if content is None:
        print(printable(f"modelendpoint {served.endpoint}: no drift of domain {served.wanted.name} was checked yet"))
        return UNDECIDED
    history, page = _read(content, f"{folder}/{HISTORY_JSON}")
    if not options.no_open or options.out is not None:
        show(written(page, f"{served.wanted.name}-{DRIFT_HTML.removesuffix('.html')}", options.out), options)
    return _said(history)


def _folder(kubectl: Kubectl, served: Served) -> str:
    collector = (kubectl.get(ENDPOINTS, served.endpoint).get("spec") or {}).get("collector") or {}
    store = str(collector.get("store", ""))
    if not store:
        raise Invalid([f"ModelEndpoint {served.endpoint}: without spec.collector nothing is measured"])
    return f"{store.rstrip('/')}/drift/{served.wanted.name}"


def _read(content: bytes, where: str) -> tuple[DriftHistory, bytes]:
    try:
        history = parse(DriftHistory, json.loads(content), from_newer=True)
        return history, drift_page(history).encode()
    except ValueError as error:
        raise Invalid([f"{where}: is not what a check of drift wrote"]) from error


def _said(history: DriftHistory) -> int:
    if not history.moments:
        return UNDECIDED
    held = history.moments[-1]
    when = "before activation" if held.moment == "Before" else "after activation"
    print(printable(f"gate {held.gate}, {held.candidate} {when}, {held.at}, embeddings of {held.embedding_model}"), file=sys.stderr)
    print(printable("\n".join([*sentences(held), outcome(held)])))
    return int(bool(beyond(held.readings, held.limit, held.moment)))
