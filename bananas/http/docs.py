"""The document as a page: rendered here, one file, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from bananas.http.operations import Document

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0;
  --paper: #fff; --tint: #f6f8fa; --accent: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9198a1; --line: #3d444d;
  --paper: #0d1117; --tint: #151b23; --accent: #f2c94c; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); display: grid; grid-template-columns: 15rem minmax(0, 52rem);
  gap: 2.5rem; padding: 0 1.5rem 4rem; }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.5rem 0;
  font-size: .875rem; }
nav h2 { font-size: .75rem; text-transform: uppercase; letter-spacing: .06em; color: var(--dim);
  margin: 1.25rem 0 .25rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { display: block; color: inherit; text-decoration: none; padding: .125rem 0; }
nav a:hover, nav a:focus { text-decoration: underline; }
h1 { margin: 1.5rem 0 .5rem; font-size: 1.75rem; }
section > h2 { margin: 2.5rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line);
  text-transform: capitalize; }
article { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0;
  padding: 1rem 1.25rem; scroll-margin-top: 1rem; }
article h3 { margin: 0; font: 600 1rem ui-monospace, monospace; overflow-wrap: anywhere; }
article p { margin: .5rem 0; }
.method { display: inline-block; min-width: 4.5rem; color: var(--accent); }
nav .method { min-width: 3.75rem; font: 600 .75rem ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
  border-top: 1px solid var(--line); }
th { color: var(--dim); font-weight: 500; border-top: 0; }
td:first-child { white-space: nowrap; }
code { font: .875em ui-monospace, monospace; }
pre { background: var(--tint); padding: .75rem 1rem; border-radius: .375rem; overflow-x: auto;
  font-size: .8125rem; line-height: 1.45; }
details > summary { cursor: pointer; color: var(--dim); font-size: .875rem; margin-top: .5rem; }
.dim { color: var(--dim); }
main a { color: var(--accent); }
.lead { white-space: pre-line; }
@media (max-width: 56rem) { body { display: block; padding: 0 1rem 3rem; }
  nav { position: static; height: auto; columns: 2; } nav ul { break-inside: avoid; }
  td:first-child { white-space: normal; } }
"""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bananas API</title>
<style>{{ style }}</style>
</head>
<body>
<nav aria-label="Routes">
{% for tag in tags %}{% if tag.operations %}
<h2>{{ tag.name }}</h2>
<ul>{% for op in tag.operations %}
<li><a href="#{{ op.id }}"><span class="method">{{ op.method }}</span>{{ op.path }}</a></li>
{% endfor %}</ul>{% endif %}{% endfor %}
<h2>Data</h2>
<ul>{% for schema in schemas %}
<li><a href="#{{ schema.name }}">{{ schema.name }}</a></li>{% endfor %}
<li><a href="#problems">Problems</a></li></ul>
</nav>
<main>
<h1>bananas API</h1>
<p class="lead">{{ description }}</p>
<p>The same as data: <a href="openapi.json">openapi.json</a>.</p>
{% for tag in tags %}{% if tag.operations %}
<section aria-labelledby="tag-{{ tag.name }}">
<h2 id="tag-{{ tag.name }}">{{ tag.name }}</h2>
<p class="dim">{{ tag.description }}</p>
{% for op in tag.operations %}
<article id="{{ op.id }}">
<h3><span class="method">{{ op.method }}</span>{{ op.path }}</h3>
<p>{{ op.summary }}.{% if op.description %} {{ op.description }}{% endif %}</p>
{% if op.parameters %}<table>
<thead><tr><th>parameter</th><th>in</th><th>value</th><th></th></tr></thead>
<tbody>{% for p in op.parameters %}<tr><td><code>{{ p.name }}</code></td><td>{{ p["in"] }}</td>
<td>{{ p.value }}</td><td>{{ p.description }}</td></tr>{% endfor %}</tbody>
</table>{% endif %}
{% for body in op.bodies %}<p class="dim">Body: <code>{{ body.type }}</code>\
{% if body.schema %}, <a href="#{{ body.schema }}">{{ body.schema }}</a>{% endif %}</p>
{% if body.example %}<pre>{{ body.example }}</pre>{% endif %}{% endfor %}
<table>
<thead><tr><th>status</th><th>body</th><th></th></tr></thead>
<tbody>{% for r in op.responses %}<tr><td><code>{{ r.status }}</code></td>
<td>{% if r.schema %}<a href="#{{ r.schema }}">{{ r.schema }}</a>{% endif %}</td>
<td>{{ r.description }}</td></tr>{% endfor %}</tbody>
</table>
</article>
{% endfor %}</section>{% endif %}{% endfor %}
<section aria-labelledby="data"><h2 id="data">Data</h2>
{% for schema in schemas %}
<article id="{{ schema.name }}">
<h3>{{ schema.name }}</h3>
{% if schema.description %}<p>{{ schema.description }}</p>{% endif %}
{% if schema.fields %}<table>
<thead><tr><th>member</th><th>value</th><th></th></tr></thead>
<tbody>{% for f in schema.fields %}<tr>
<td><code>{{ f.name }}</code>{% if f.required %} *{% endif %}</td>
<td>{{ f.value }}</td><td>{{ f.description }}</td></tr>{% endfor %}</tbody>
</table>{% endif %}
<details><summary>as JSON Schema</summary><pre>{{ schema.json }}</pre></details>
</article>
{% endfor %}
<article id="problems"><h3>Problems</h3>
<p>Every <code>type</code> there is.</p>
<table><thead><tr><th>type</th><th>status</th><th>title</th></tr></thead>
<tbody>{% for p in problems %}<tr><td><code>{{ p.type }}</code></td><td>{{ p.status }}</td>
<td>{{ p.title }}</td></tr>{% endfor %}</tbody></table>
</article>
</section>
</main>
</body>
</html>
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def render(document: Document, problems: list[dict[str, Any]]) -> str:
    """Return the page of a document; every text in it is escaped.

    Args:
        document: As `openapi.document` gives it.
        problems: Kinds of problems: type, status, title.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    tags = [
        {
            "name": tag["name"],
            "description": tag["description"],
            "operations": [
                _operation(path, method, operation)
                for path, methods in document["paths"].items()
                for method, operation in methods.items()
                if tag["name"] in operation["tags"]
            ],
        }
        for tag in document["tags"]
    ]
    schemas = [_schema(name, body) for name, body in document["components"]["schemas"].items()]
    return environment.from_string(_PAGE).render(
        style=Markup(_STYLE),  # noqa: S704 - our own constant
        description=_marked(_unwrapped(document["info"]["description"])),
        tags=tags,
        schemas=schemas,
        problems=problems,
    )


def _unwrapped(text: str) -> str:
    """Return paragraphs on one line each."""
    return "\n\n".join(part.replace("\n", " ").strip() for part in text.split("\n\n"))


def _marked(text: str) -> Markup:
    """Return a text of ours as HTML, what is between backticks as code."""
    parts = re.split(r"`([^`]*)`", text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {"content": {}})
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": operation.get("description", ""),
        "parameters": [
            {**item, "value": _value(item["schema"])} for item in operation.get("parameters", [])
        ],
        "bodies": [
            {
                "type": media_type,
                "schema": _ref(content["schema"]),
                "example": _example(content.get("example")),
            }
            for media_type, content in body["content"].items()
        ],
        "responses": [
            {
                "status": status,
                "description": response["description"],
                "schema": next(
                    (_ref(content["schema"]) for content in response.get("content", {}).values()),
                    "",
                ),
            }
            for status, response in operation["responses"].items()
        ],
    }


def _schema(name: str, body: dict[str, Any]) -> dict[str, Any]:
    required = body.get("required", [])
    return {
        "name": name,
        "description": body.get("description", ""),
        "fields": [
            {
                "name": field,
                "value": _value(schema),
                "description": schema.get("description", ""),
                "required": field in required,
            }
            for field, schema in body.get("properties", {}).items()
        ],
        "json": json.dumps(body, indent=2, ensure_ascii=False),
    }


def _ref(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _example(example: object) -> str:
    if example is None or isinstance(example, str):
        return example or ""
    return json.dumps(example, indent=2, ensure_ascii=False)


def _value(schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        return _ref(schema)
    if "const" in schema:
        return str(schema["const"])
    kind: str | list[str] = schema.get("type", "any JSON")
    words = [" or ".join(kind) if isinstance(kind, list) else str(kind)]
    if "items" in schema:
        words.append(f"of {_value(schema['items'])}")
    if "enum" in schema and len(schema["enum"]) <= 6:  # noqa: PLR2004 - fits a line
        words = [" | ".join(map(str, schema["enum"]))]
    low = schema.get("minimum", schema.get("minLength", schema.get("exclusiveMinimum")))
    high = schema.get("maximum", schema.get("maxLength"))
    if low is not None and high is not None:
        words.append(f"{low} to {high}" + (" characters" if "maxLength" in schema else ""))
    elif low is not None:
        words.append(f"from {low}")
    elif high is not None:
        words.append(f"at most {high}" + (" characters" if "maxLength" in schema else ""))
    if "pattern" in schema:
        words.append(schema["pattern"])
    if "default" in schema:
        words.append(f"(default {json.dumps(schema['default'])})")
    return " ".join(words)
