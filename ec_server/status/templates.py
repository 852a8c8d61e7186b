"""The templates of the pages, and the formats of numbers and times in them; everything is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utilities import utc

PAGE_FOLDER = Path(__file__).parent / "page"


def _number(value: float) -> str:
    return f"{value:,}"


def _moment_text(moment_s: float) -> str:
    return f"{utc.iso(int(moment_s) * 10**6)[:16].replace('T', ' ')} UTC"


def _when(moment_s: float) -> Markup:
    """An epoch second, readable for people and programs."""
    text = _moment_text(moment_s)
    return Markup('<time datetime="{}">{}</time>').format(utc.iso(int(moment_s) * 10**6), text)


def _ago(moment_s: float) -> Markup:
    """The same, which the browser turns into an age, so that the HTML of an unchanged row does not change."""
    form = Markup('<time datetime="{}" data-ago="{}">{}</time>')
    return form.format(utc.iso(int(moment_s) * 10**6), int(moment_s), _moment_text(moment_s))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, when=_when, ago=_ago)
    return environment


TEMPLATES = _environment()


def render(template: str, /, **values: Any) -> str:
    """Render a complete page."""
    return TEMPLATES.get_template(template).render(**values)
