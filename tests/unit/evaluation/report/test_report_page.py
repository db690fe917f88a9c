"""The page: what models write is shown and does nothing."""

import base64
import re
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from simulated_pairs import METRICS, simulated

from graft_api.collect import PairLine, SideLine, Told
from graft_api.comparison import Clock, Outcome, Verdict
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import recording
from graft_evaluation.report.build import report
from graft_evaluation.report.document import Tally
from graft_evaluation.report.page import page
from graft_evaluation.verdict import verdict

AT_END = Clock(elapsed=168, duration=168, max_duration=168)
ATTACKS = [
    "<script>alert(1)</script>",
    "</pre></div><style>main { display: none }</style>",
    "</title></style><img src=x onerror=alert(1)>",
    '" onclick="alert(1)" style="position:fixed',
    "<svg onload=alert(1)><a href=javascript:alert(1)>x</a></svg>",
]


class Page(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    return question(tmp_path, None)


@pytest.fixture
def collected(asked):
    """Of a collector's pairs, where also `ended` may be any text: a collector may be newer than its reader."""
    return replace(asked, by_hand=False)


def made(asked, lines: list[PairLine], answer: Verdict | None = None):
    read = recording(asked, ((Place(None, number), line) for number, line in enumerate(lines)))
    compared = read.comparison()
    return report(read, compared, answer or verdict(compared, asked.limits, AT_END))


def attacked(lines: list[PairLine], attack: str) -> list[PairLine]:
    said = SideLine(ended=attack[:16], seconds=1.0, told=Told(text=attack, tool_calls=[(attack, attack)]))
    broken = {"production": {"score": attack}}
    update = {"candidate": said, "production": said, "request": attack, "request_id": attack, "broken": broken}
    return [line.model_copy(update=update) for line in lines]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_model_writes_is_text_and_nothing_else(collected, attack):
    lines = simulated(90, 0.3)
    harmless = Page(page(made(collected, attacked(lines, "harmless"))))
    found = Page(page(made(collected, attacked(lines, attack))))
    assert attack in "".join(found.said)
    assert not found.open
    assert found.attributes == harmless.attributes
    assert found.tags == harmless.tags


def test_no_script_runs_and_nothing_is_loaded(asked):
    text = page(made(asked, simulated(90, 0.3)))
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(found.tags)
    assert not {"src", "href", "style", "onclick"} & found.attributes
    assert "url(" not in text
    assert "@import" not in text


def test_the_policy_allows_this_style_alone(asked):
    text = page(made(asked, simulated(90, 0.3)))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    assert f"style-src &#x27;sha256-{base64.b64encode(sha256(style.encode()).digest()).decode()}&#x27;" in text
    assert "default-src &#x27;none&#x27;" in text
    assert text.count("<style") == 1


def test_control_characters_are_shown_as_replaced(collected):
    text = page(made(collected, attacked(simulated(90, 0.3), "a\x00\x1b[31mb\x85")))
    assert "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}" in text


def test_the_page_says_what_the_verdict_says(asked):
    found = made(asked, simulated(300, 0.1))
    said = "".join(Page(page(found)).said)
    assert found.verdict.outcome is Outcome.PASSED
    for metric in found.verdict.metrics:
        assert metric.sentence in said
    assert "first turns alone" in said
    assert "the incumbent on the shadow" in said


def test_losses_are_there_by_cause_beside_what_the_verdict_counts(asked):
    found = made(replace(asked, lost_pairs=5), simulated(90, 0.3))
    assert "lost on the way5" in "".join(Page(page(found)).said), "a recording knows no causes"
    causes = [Tally(of="overload", what="the shadow took less than came", count=4), Tally(of="never-came", what="<b>", count=3)]
    said = "".join(Page(page(found.model_copy(update={"lost": causes}))).said)
    assert "lost on the way: this test's share of what follows, which is of all domains5" in said
    assert "lost: overloadthe shadow took less than came4lost: never-came<b>3" in said


def test_while_the_verdict_is_pending_no_number_is_shown(asked):
    waits = Verdict(outcome=Outcome.PENDING, sentence="Pending: 3 of 168 hours; read once, at the end")
    found = made(asked, simulated(90, 0.3), waits)
    assert (found.comparison, found.plots, found.worst) == (None, [], [])
    text = page(found)
    assert "3 of 168 hours" in text
    assert "<svg" not in text


def test_content_that_was_not_kept_is_not_missed(asked):
    bare = SideLine(ended="Complete", seconds=1.0)
    lines = [line.model_copy(update={"candidate": bare, "production": bare, "request": None}) for line in simulated(90, 0.4)]
    assert "The content was not kept." in page(made(asked, lines))
