"""The chart of drift: what was kept is drawn, and names do nothing."""

from html.parser import HTMLParser

import pytest

from graft_api.drift import Contrast, DriftHistory, DriftReading, Held, Moment
from graft_evaluation.report.drift_page import DRAWN, drift_page

ATTACK = '</h2><script>alert(1)</script><img src=x onerror="alert(1)">'


class Page(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.said, self.drawings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        named = dict(attrs)
        if tag == "svg":
            self.drawings.append([])
        if tag in {"line", "circle"}:
            self.drawings[-1].append({"tag": tag, **named})

    def handle_data(self, data):
        self.said.append(data)

    def shapes(self, tag, kind, drawing=0):
        return [shape for shape in self.drawings[drawing] if (shape["tag"], shape["class"]) == (tag, kind)]


def reading(principle="refunds", contrast=Contrast.VERSIONS, mean=0.2, low=0.1, high=0.3):
    return DriftReading(principle=principle, contrast=contrast, prompts=5, mean=mean, low=low, high=high)


def held(gate=7, moment=Moment.BEFORE, readings=None, **changes):
    told = {
        "at": f"2026-11-{gate:02d}T10:00:00Z",
        "gate": gate,
        "adapter_uid": "uid",
        "moment": moment,
        "incumbent": "dsl-old",
        "candidate": "dsl-new",
        "limit": "0.3",
        "embedding_model": "minilm",
        "principles_digest": f"sha256:{'0' * 64}",
        "document": f"sha256:{'0' * 64}",
        "readings": [reading()] if readings is None else readings,
    }
    return Held(**(told | changes))


def drawn(*moments):
    return Page(drift_page(DriftHistory(endpoint="prod", domain="dsl", moments=list(moments))))


def test_each_moment_is_an_interval_and_before_and_after_differ():
    found = drawn(held(), held(moment=Moment.AFTER, readings=[reading(mean=0.6, low=0.5, high=0.7)]))
    (before,), (after,) = found.shapes("line", "first"), found.shapes("line", "all")
    assert float(before["x1"]) < float(after["x1"])
    # Down is more on a screen, and a larger distance is higher up.
    assert float(after["y2"]) < float(after["y1"]) < float(before["y2"]) < float(before["y1"])
    (mean,) = found.shapes("circle", "all")
    assert float(mean["cy"]) == pytest.approx((float(after["y1"]) + float(after["y2"])) / 2, abs=0.01)
    bounds = found.shapes("line", "bound")
    assert len(bounds) == 2
    assert float(bounds[0]["y1"]) == pytest.approx(float(before["y2"]))


def test_the_limit_is_that_of_each_moment():
    found = drawn(held(limit="0.3"), held(gate=8, limit="0.5"))
    first, second = found.shapes("line", "bound")
    assert float(second["y1"]) < float(first["y1"])


def test_every_principle_has_a_drawing_of_its_own_and_only_of_the_versions():
    both = [reading("tone"), reading(), reading(contrast=Contrast.NOISE), reading(contrast=Contrast.CANDIDATE)]
    found = drawn(held(moment=Moment.AFTER, readings=both))
    assert len(found.drawings) == 2
    assert [len(found.shapes("circle", "all", drawing)) for drawing in range(2)] == [1, 1]
    assert found.said.count("incumbent against itself, asked twice") == 1


@pytest.mark.parametrize(
    ("moment", "low", "high", "word"),
    [
        (Moment.BEFORE, 0.1, 0.3, "within the limit"),
        (Moment.BEFORE, 0.1, 0.5, "not shown to be within the limit"),
        (Moment.AFTER, 0.1, 0.5, "not shown to be beyond the limit"),
        (Moment.AFTER, 0.4, 0.5, "beyond the limit"),
    ],
)
def test_the_newest_moment_is_said_in_words(moment, low, high, word):
    found = drawn(held(6), held(moment=moment, readings=[reading(mean=(low + high) / 2, low=low, high=high)]))
    assert word in found.said
    assert any(said.startswith("refunds: the candidate's answers are") for said in found.said)


def test_only_the_newest_moments_are_drawn_and_all_are_counted():
    found = drawn(*(held(gate, at="2026-11-01T10:00:00Z") for gate in range(1, DRAWN + 11)))
    assert len(found.shapes("circle", "first")) == DRAWN
    assert f"{DRAWN + 10} checks of {DRAWN + 10} candidates" in found.said


def test_a_page_of_nothing_says_so():
    found = drawn()
    assert found.drawings == []
    assert "Nothing was checked yet." in found.said


def test_names_are_shown_and_do_nothing():
    found = drawn(held(candidate=ATTACK[:63], incumbent=ATTACK[:63], embedding_model=ATTACK))
    assert not {"script", "img"} & set(found.tags)
    assert any(ATTACK in said for said in found.said)
