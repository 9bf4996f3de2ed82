"""The page of the demo: what was analysed, what limits it, and the way to each report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from alignlab.diagnosis import answer

if TYPE_CHECKING:
    import xarray as xr

    from alignlab.examples import Example

__all__ = ["render_overview"]

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>alignlab demo</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2rem; }
dt { font-weight: 600; }
code { overflow-wrap: anywhere; }
.warning { border-left: 4px solid #c80; padding-left: .75rem; }
</style>
</head>
<body>
<h1>alignlab demo</h1>
<p>Networks trained on handwritten digits by backpropagation and by feedback rules, each measured
from its checkpoint. For every network: how well it does, what limits its learning signal, and the
report with every number and its chance level.</p>
{% for example, said in entries %}
<section>
<h2>{{ example.file.stem }}</h2>
<p>Trained by <code>{{ example.rule_spec }}</code> on {{ example.data }}.
<a href="{{ example.file.stem }}.html">Report</a>,
<a href="{{ example.file.stem }}.nc">recording</a>.</p>
{% for warning in said.warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
<p>{{ said.headline }}</p>
{% if said.limits %}
<dl>
{% for limit in said.limits %}<dt>{{ limit.layer }}: {{ limit.verdict }}</dt>
<dd>{{ limit.sentence }}</dd>
{% endfor %}
</dl>
{% endif %}
<details><summary>How the checkpoint was made</summary><code>{{ example.command }}</code></details>
</section>
{% endfor %}
</body>
</html>
"""


def render_overview(analysed: Sequence[tuple[Example, xr.Dataset]]) -> str:
    """Return the page, with links to the reports that lie beside it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    entries = [(example, answer(dataset)) for example, dataset in analysed]
    return environment.from_string(PAGE).render(entries=entries)
