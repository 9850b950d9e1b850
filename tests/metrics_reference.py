"""The tables of the page on Prometheus, made from the collector and from the alert rules.

::

    python tests/metrics_reference.py     # writes them into the page
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from prometheus_client import CollectorRegistry

from dagflow._instruments import METRICS
from dagflow.metrics import MetricsCollector
from pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagflow._instruments import Metric

__all__ = ["PAGE", "filled"]

PAGE = ROOT / "docs" / "how-to" / "prometheus-integration.md"
_RULES = ROOT / "deploy" / "prometheus" / "dagflow-rules.yml"
_TOGETHER = {
    "livesum": "sum",
    "livemostrecent": "newest",
    "livemin": "lowest",
    "livemax": "highest",
}


def filled(page: str) -> str:
    """Return the text of the page with its tables made anew."""
    for name, table in {"metrics": _metrics(), "alerts": _alerts()}.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    return page


def _metrics() -> str:
    rows = [
        (f"`{metric.name}`", metric.type, ", ".join(f"`{label}`" for label in metric.labels), metric.help, _sum(metric))
        for metric in _registered()
    ]
    return _table(("metric", "type", "labels", "what it says", "of several processes"), rows)


def _registered() -> list[Metric]:
    """Return the metrics that a collector registers, in their order."""
    families = {family.name for family in MetricsCollector(CollectorRegistry()).registry.collect()}
    known = {metric.name.removesuffix("_total").removesuffix("_info"): metric for metric in METRICS}
    if lost := families - known.keys():
        raise LookupError(f"the collector has metrics that no table describes: {lost}")
    return [metric for name, metric in known.items() if name in families]


def _sum(metric: Metric) -> str:
    return _TOGETHER[metric.together] if metric.type in {"gauge", "info"} else "sum"


def _alerts() -> str:
    rules = [rule for group in yaml.safe_load(_RULES.read_text())["groups"] for rule in group["rules"]]
    rows = [
        (
            f"`{rule['alert']}`",
            rule["labels"]["severity"],
            rule.get("for", "at once"),
            re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", rule["annotations"]["summary"]),
        )
        for rule in rules
    ]
    return _table(("alert", "severity", "after", "what has happened"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
