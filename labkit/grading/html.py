"""Render HTML pages; untrusted text is always escaped, never markup."""

from __future__ import annotations

from typing import Any

import jinja2

from labkit.grading.untrusted_text import visible

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title|visible }}</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600 }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid; vertical-align: top }
pre { border: 1px solid; padding: .6rem; overflow-x: auto; white-space: pre-wrap }
.wide { width: 100% } .wide th { white-space: nowrap } .wide td:last-child { width: 100% }
.bar { background: currentColor; height: 1.2em }
.scroll { overflow-x: auto } .scroll table { min-width: 34rem }
</style>
</head>
<body>
<main>
<h1>{{ title|visible }}</h1>
BODY
</main>
</body>
</html>
"""


def render(body: str, **values: Any) -> str:
    """Render a page from a jinja2 template of its body; ``values`` must include ``title``."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    return environment.from_string(_FRAME.replace("BODY", body)).render(**values)
