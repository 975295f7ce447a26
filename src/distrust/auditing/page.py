"""Page: an audit on one screen, as an HTML file that loads nothing."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from .audit import Audit

COLOURS = {"clean-looking": "#2f6b3a", "suspicious": "#8a5a00", "backdoored": "#a3231f", "inconclusive": "#55555f"}
LIMITS = (
    "An audit sees what its panel looks for, in the model as it is. A backdoor that wakes only in a student, or whose "
    "trigger is another for every image, may not move it; clean-looking does not mean clean."
)


def page(audit: Audit, picture: bytes | None = None) -> str:
    """Render an audit as one HTML file.

    Args:
        audit: what to show.
        picture: PNG of the trigger that was found.
    """
    templates = Environment(
        loader=PackageLoader("distrust.auditing", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    names = audit.images.classes if audit.images else ()
    return templates.get_template("page.html.j2").render(
        audit=audit, name=Path(audit.source).name, colour=COLOURS[audit.verdict], limits=LIMITS,
        classes=[names[one.target] if len(one.scores) > 1 and names else "" for one in audit.findings],
        picture=b64encode(picture).decode() if picture else "",
        data=Markup(json.dumps(audit.record(), default=str).replace("<", "\\u003c")),
    )  # fmt: skip
