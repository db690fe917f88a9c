"""
The report as one HTML page: nothing is loaded, nothing runs.

Answers are written by models, and models write what they were told to. Every text is escaped where the markup is made (`markup.py`),
and should that ever fail, the page's policy allows no script, no image, no form, and of styles the one whose hash it names.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256

from graft_api.comparison import Contrast, Kind, Metric, MetricReading, MetricVerdict, Role, spoken
from graft_evaluation.paired.sentences import amount
from graft_evaluation.report import drawing
from graft_evaluation.report.document import Answer, MetricPlots, Report, WorstPair
from graft_evaluation.report.markup import Element, Part, element
from graft_evaluation.report.style import STYLE


def page(report: Report) -> str:
    """Return the page."""
    sections = [_header(report), *_metrics(report), *_worst(report), *_left_out(report), _footer(report)]
    return whole(f"{report.test}: {report.verdict.outcome.value}", sections)


def whole(title: str, sections: Iterable[Element]) -> str:
    """Return a page of finished sections."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        # Ours, and it must reach the browser byte for byte: its hash is in the policy.
        Element(f"<style>{STYLE}</style>"),
    )
    return "<!doctype html>\n" + element("html", head, element("body", element("main", *sections)), lang="en").markup + "\n"


def _policy() -> str:
    digest = base64.b64encode(sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _header(report: Report) -> Element:
    verdict = report.verdict
    about = f"{report.candidate} against {report.incumbent}, {report.pairs:,} pairs from {_time(report.first)} to {_time(report.last)}"
    reasons = element("ul", *(element("li", reason) for reason in verdict.reasons)) if verdict.reasons else element("p", verdict.sentence)
    return element(
        "header",
        element("h1", report.test),
        element("p", about, class_="about"),
        element("p", verdict.outcome.value, class_=f"outcome {verdict.outcome.value.lower()}"),
        reasons,
        *(element("p", note, class_="note") for note in report.notes),
    )


def _metrics(report: Report) -> Iterator[Element]:
    if report.comparison is None or not report.verdict.metrics:
        return
    yield element("h2", "Metrics")
    yield element(
        "p", "Every number is an improvement: positive is better for the user. Intervals are of 95\N{NO-BREAK SPACE}%.", class_="about"
    )
    yield _table(report.verdict.metrics)
    plots = {(plot.contrast, plot.metric.name): plot for plot in report.plots}
    cards = (_card(metric, plots.get((metric.contrast, metric.name))) for metric in report.verdict.metrics)
    yield element("div", *cards, class_="cards")
    if report.comparison.instrument is not None:
        yield from _instrument(report.comparison.instrument)


def _table(metrics: Iterable[MetricVerdict]) -> Element:
    names = ("metric", "role", "outcome", "improvement", "95 % interval", "margin", "conversations", "pairs")
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in names)))
    return element("div", element("table", head, element("tbody", *map(_row, metrics))), class_="wide", tabindex=0)


def _row(found: MetricVerdict) -> Element:
    metric, estimate = found.reading.metric, found.reading.overall
    numbers = ("not measured", "") if estimate is None else (drawing.signed(metric, estimate.improvement), _interval(found.reading))
    margin = "" if found.role is Role.INFORMATIONAL else amount(metric, metric.margin)
    cells = [found.role.value, _badge(found), *numbers, margin, f"{found.clusters:,}", f"{found.pairs:,}"]
    label: Part = [metric.called(), element("small", found.contrast)]
    return element("tr", element("th", label, scope="row"), *(element("td", cell) for cell in cells))


def _interval(reading: MetricReading) -> str:
    estimate = reading.overall
    if estimate is None:
        return ""
    return f"{drawing.signed(reading.metric, estimate.low)} to {drawing.signed(reading.metric, estimate.high)}"


def _badge(found: MetricVerdict) -> Element:
    return element("span", found.outcome.value, class_=f"badge {found.outcome.value.lower()}")


def _card(found: MetricVerdict, plots: MetricPlots | None) -> Element:
    reading, metric = found.reading, found.reading.metric
    parts: list[Element] = [element("h3", metric.called(), " ", _badge(found)), element("p", found.sentence)]
    if reading.overall is not None:
        parts.append(drawing.intervals(metric, reading.overall, reading.first_turn))
    if plots is not None:
        parts += [*_over_time(plots)]
        parts += [element("h4", _values_title(plots)), _legend(), drawing.values(metric, plots.histogram)]
    facts = list(_facts(reading, plots))
    return element("section", *parts, *(element("p", fact, class_="fact") for fact in facts), class_="card")


def _over_time(plots: MetricPlots) -> Iterator[Element]:
    if plots.periods:
        stretch = "day" if plots.periods[0].seconds > 3600 else "hour"
        known = any(period.low is not None for period in plots.periods)
        yield element("h4", f"By {stretch}")
        few = element("p", f"No {stretch} has enough conversations for an interval of its own.", class_="fact")
        yield drawing.over_time(plots.metric, plots.periods) if known else few


def _values_title(plots: MetricPlots) -> str:
    return "Values, on a logarithmic scale" if plots.histogram.logarithmic else "Values"


def _legend() -> Element:
    sides = (element("span", side, class_=f"key {side}") for side in ("incumbent", "candidate"))
    return element("p", *sides, class_="legend")


def _facts(reading: MetricReading, plots: MetricPlots | None) -> Iterator[str]:
    never = (plots.histogram.never_incumbent, plots.histogram.never_candidate) if plots else (0, 0)
    if any(never):
        yield f"Never came, so they count as the worst and are not drawn: {never[0]:,} of the incumbent, {never[1]:,} of the candidate."
    if reading.scorer_failures:
        yield f"Its scorer failed on {reading.scorer_failures:,} pairs."
    if reading.transient_failures:
        yield f"On {reading.transient_failures:,} pairs its scorer could not work: network or machine were at fault."
    if reading.harm is not None and reading.harm.shown:
        yield f"Harm was shown on {reading.harm.clusters:,} closed conversations."
    if reading.hours_to_detect is not None:
        after = spoken(reading.hours_to_detect)
        yield f"At this traffic the effect in question is found with 80\N{NO-BREAK SPACE}% power after {after}."


def _instrument(contrast: Contrast) -> Iterator[Element]:
    yield element("h2", "Instrument check")
    yield element("p", "Production against the incumbent on the shadow: the same model twice. What differs is the instrument's doing.")
    rows = [
        element("tr", element("th", reading.metric.called(), scope="row"), element("td", _interval(reading) or reading.reason or ""))
        for reading in contrast.metrics
    ]
    yield element("div", element("table", element("tbody", *rows)), class_="wide", tabindex=0)


def _worst(report: Report) -> Iterator[Element]:
    if report.worst:
        yield element("h2", "Where the candidate did worse")
        metrics = {plot.metric.name: plot.metric for plot in report.plots}
        yield from (_pair(pair, metrics.get(pair.metric)) for pair in report.worst)


def _pair(pair: WorstPair, metric: Metric | None) -> Element:
    asked = f"request {pair.request_id}, " if pair.request_id else ""
    name = pair.metric if metric is None else metric.called()
    parts = [element("summary", element("b", name), f" {_worse(pair, metric)}: {asked}{_time(pair.at)}")]
    if pair.request is not None:
        parts += [element("h4", "request"), _quoted(pair.request)]
    sides = (("incumbent", pair.incumbent), ("candidate", pair.candidate))
    parts.append(element("div", *(_answer(side, answer) for side, answer in sides), class_="sides"))
    return element("details", *parts)


def _worse(pair: WorstPair, metric: Metric | None) -> str:
    if pair.by is None:
        return "worse without end"
    if metric is not None and metric.kind is Kind.PROPORTION:
        return "bad, where the incumbent's is good"
    return f"worse by {pair.by:.4g} {metric.unit if metric else ''}".rstrip()


def _answer(side: str, answer: Answer) -> Element:
    value = "never came" if answer.value is None else f"{answer.value:.4g}"
    title = element("h4", f"{side}: {value} ({answer.ended}, {answer.seconds:.2f} s)")
    return element("div", title, element("p", "The content was not kept.") if answer.text is None else _quoted(answer.text))


def _quoted(text: str) -> Element:
    return element("pre", text, dir="auto")


def _left_out(report: Report) -> Iterator[Element]:
    compared = report.comparison
    contrasts = compared.every() if compared else []
    rows = [(f"left out of {c.name}", f"{e.cause} ({e.side})", e.count) for c in contrasts for e in c.exclusions]
    rows += [("never compared", _lost_on_the_way(report), compared.lost_pairs)] if compared and compared.lost_pairs else []
    rows += [(f"lost: {tally.of}", tally.what, tally.count) for tally in report.lost]
    rows += [(f"scorer of {tally.of} failed", tally.what, tally.count) for tally in report.scorer_failures]
    rows += [(f"answers of {_SIDES.get(tally.of, tally.of)}", tally.what, tally.count) for tally in report.endings]
    yield element("h2", "Left out, lost, ended")
    lines = (element("tr", element("td", of), element("td", what), element("td", f"{count:,}")) for of, what, count in rows)
    yield element("div", element("table", element("tbody", *lines)), class_="wide", tabindex=0)


def _lost_on_the_way(report: Report) -> str:
    return "lost on the way: this test's share of what follows, which is of all domains" if report.lost else "lost on the way"


_SIDES = {"production": "production", "candidate": "the candidate", "incumbent": "the incumbent on the shadow"}


def _footer(report: Report) -> Element:
    limits = report.limits
    text = (
        f"A verdict needs {limits.min_clusters} conversations, none with more than {limits.max_cluster_share:.0%} of the pairs;"
        f" shares of excluded requests at most {limits.max_exclusion_difference:.1%} apart;"
        f" at most {limits.max_excluded_share:.0%} left out, {limits.max_lost_share:.0%} lost;"
        f" scorers that fail on at most {limits.max_scorer_failures:.0%}. Times are UTC."
    )
    return element("footer", element("p", text))


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
