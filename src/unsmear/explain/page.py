"""A report as one HTML page that needs nothing else."""

from html import escape
from importlib import resources
from string import Template

import numpy as np

from unsmear.embed import data_uri
from unsmear.explain.draw import Legend
from unsmear.explain.report import Panel, Report, Section

_STOPS = 16  # of a legend's colors


def render_page(report: Report) -> str:
    """Write a report as HTML; pictures are inside, as JPEG copies at their own size."""
    template = resources.files("unsmear.explain").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(report.title),
        subtitle=escape(report.subtitle),
        sections="\n".join(_section(section) for section in report.sections),
    )


def _section(section: Section) -> str:
    panels = "\n".join(_figure(panel) for panel in section.panels)
    return (
        f'<section>\n<h2>{escape(section.title)}</h2>\n<p class="soft">{escape(section.text)}</p>\n'
        f'<div class="panels">\n{panels}\n</div>\n</section>'
    )


def _figure(panel: Panel) -> str:
    title = escape(panel.title)
    legend = "" if panel.legend is None else _legend(panel.legend)
    return (
        f"<figure{' class=wide' if panel.is_wide else ''}>\n<h3>{title}</h3>\n"
        f'<button aria-label="enlarge: {title}"><img src="{data_uri(panel.picture)}" alt="{title}"></button>\n'
        f"{legend}<figcaption>{escape(panel.caption)}</figcaption>\n</figure>"
    )


def _legend(legend: Legend) -> str:
    chosen = legend.colors[np.linspace(0, len(legend.colors) - 1, _STOPS).round().astype(int)]
    stops = ", ".join(f"#{bytes(color.tolist()).hex()}" for color in chosen)
    labels = "".join(f"<span>{escape(label)}</span>" for label in legend.labels)
    bar = f'<div class="bar" style="background: linear-gradient(to right, {stops})"></div>'
    return f'{bar}\n<div class="labels">{labels}</div>\n'
