"""The page as one document, with a policy that lets a browser run this and nothing else."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

#: The files that replace ``/* style */`` and ``/* script */``.
_PARTS: Final = {
    "style": ("page.css",),
    "script": ("chart.js", "packet.js", "errors.js", "page.js"),
}

# The page loads only this document and its JSON.  Trusted types forbid making elements out of
# text (innerHTML and the like), so that a mistake of ours would do nothing.
_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "connect-src 'self'; img-src data:; require-trusted-types-for 'script'; trusted-types 'none'"
)


class Document(NamedTuple):
    """A whole page, and its Content-Security-Policy."""

    html: bytes
    policy: bytes


def document(name: str) -> Document:
    """The page *name* with its style and script inside."""
    html, policy = _source(f"{name}.html"), _POLICY
    for kind, parts in _PARTS.items():
        mark = f"/* {kind} */"
        if mark in html:
            text = "".join(map(_source, parts))
            html = html.replace(mark, text)
            digest = b64encode(sha256(text.encode()).digest()).decode("ascii")
            policy += f"; {kind}-src 'sha256-{digest}'"
    return Document(html.encode(), policy.encode())


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
