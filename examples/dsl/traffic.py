"""Clients of the demo: requests at a steady rate, and what became of them."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

FAILED = "failed"
MOST_AT_ONCE = 16


class Traffic:
    """
    Conversations of one turn each, from threads, until the context ends. `chapter`, `questions` and `rate` (requests a second) may be
    changed meanwhile; `outcomes` counts by chapter who served, or `FAILED`.
    """

    def __init__(self, url: str, model: str, questions: list[str], rate: float) -> None:
        self.chapter, self.questions, self.rate = "", questions, rate
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.problems: list[str] = []
        self._url, self._model = url, model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def served(self, chapter: str) -> dict[str, int]:
        """Who served the requests that began in a chapter."""
        return {who: count for (when, who), count in sorted(self.outcomes.items()) if when == chapter}

    def failed(self, *but: str) -> int:
        """How many requests failed, but for those that began in these chapters."""
        return sum(count for (when, who), count in self.outcomes.items() if who == FAILED and when not in but)

    def _run(self) -> None:
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            number = 0
            while not self._stop.is_set():
                pool.submit(self._ask, self.chapter, self.questions[number % len(self.questions)], f"{id(self)}-{number}")
                number += 1
                self._stop.wait(1 / self.rate)

    def _ask(self, chapter: str, question: str, conversation: str) -> None:
        try:
            _, served = ask(self._url, self._model, question, conversation)
        except (OSError, ValueError, KeyError) as error:
            served = FAILED
            self.problems.append(f"{time.strftime('%X')} {chapter}: {error}")
        self.outcomes[chapter, served.partition("@")[0]] += 1


def ask(url: str, model: str, question: str, conversation: str = "") -> tuple[str, str]:
    """One chat completion: the answer, and what served it. Raises OSError where there is none."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 96}
    headers = {"content-type": "application/json"} | ({"x-conversation-id": conversation} if conversation else {})
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310 - http, to the cluster
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        text = json.loads(answer.read())["choices"][0]["message"]["content"]
        return text, answer.headers["x-graft-served-by"]


def ask_all(url: str, model: str, questions: list[str]) -> list[tuple[str, str]]:
    """The answers to all of them, in their order."""
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        return list(pool.map(lambda question: ask(url, model, question), questions))
