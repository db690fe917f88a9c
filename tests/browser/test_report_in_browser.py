"""The report as a person sees it: a real Chromium opens it."""

import pytest
from chromium import installed, started, tab
from simulated_pairs import METRICS, simulated

from graft_api.comparison import Clock
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import recording
from graft_evaluation.report.build import report
from graft_evaluation.report.page import page
from graft_evaluation.verdict import verdict

pytestmark = pytest.mark.skipif(
    installed() is None, reason="no Chromium here: apt-get install --no-install-recommends chromium fonts-dejavu-core, or set CHROMIUM"
)
DRAWN = "document.querySelectorAll('{}').length"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a fixed recording, and the report that it shows."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "metrics.yaml").write_text(METRICS)
    lines = ((Place(folder, number), line) for number, line in enumerate(simulated(400, 0.12)))
    read = recording(question(folder, None), lines)
    compared = read.comparison()
    made = report(read, compared, verdict(compared, read.question.limits, Clock(elapsed=168, duration=168, max_duration=168)))
    (folder / "report.html").write_text(page(made))
    return (folder / "report.html").as_uri(), made


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with started(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
async def test_the_report_is_drawn_and_nothing_else_happens(width, dark, port, written, tmp_path):
    """Its pictures stay in pytest's folder, for people to look at."""
    url, made = written
    async with tab(port) as seen:
        await seen.open(url, width=width, dark=dark)
        assert seen.said("Log.entryAdded") == []
        assert seen.said("Runtime.consoleAPICalled") == []
        assert seen.said("Runtime.exceptionThrown") == []
        assert [asked["request"]["url"] for asked in seen.said("Network.requestWillBeSent")] == [url]
        assert await seen.value("document.documentElement.scrollWidth") == width
        known = [period for plot in made.plots for period in plot.periods if period.low is not None]
        assert len(known) > 10
        # An interval against its margin is a line with two ends, a stretch of time is a line.
        assert await seen.value(DRAWN.format("line.all")) == 3 * len(made.verdict.metrics) + len(known)
        assert await seen.value(DRAWN.format("circle.all")) == len(made.verdict.metrics) + len(known)
        ground = await seen.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") != dark
        (tmp_path / "report.png").write_bytes(await seen.picture())


async def test_words_of_a_drawing_stay_within_it(port, written):
    async with tab(port) as seen:
        await seen.open(written[0], width=375)
        outside = await seen.value(
            """[...document.querySelectorAll('svg text')].filter(words => {
                 const it = words.getBoundingClientRect(), card = words.closest('.card').getBoundingClientRect();
                 return it.left < card.left || it.right > card.right; }).map(words => words.textContent)"""
        )
        assert outside == []


async def test_a_pair_opens_and_shows_both_answers(port, written):
    async with tab(port) as seen:
        await seen.open(written[0], width=1280)
        shown = await seen.value("(() => { const it = document.querySelector('details'); it.open = true; return it.innerText })()")
        assert "Write the rule for adults." in shown
        assert "incumbent: 0 (Complete" in shown
        assert "candidate: 1 (" in shown
