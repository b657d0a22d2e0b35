"""How the documentation is built: ``sphinx-build -n -W docs docs/_build``."""

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx

from linkerd_proxy import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "linkerd-proxy"
author = "the linkerd-proxy authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio", "reference_tables"]
exclude_patterns = ["_build", "_ext"]
templates_path: list[str] = []
html_theme = "furo"
html_title = f"linkerd-proxy {release}"
smartquotes = False  # would turn -- of an option into a dash
nitpicky = True

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

# Names of other projects are links where the network is there to ask them, and plain text otherwise: a build
# must give the same verdict on a train.
_foreign = (
    r"(trio|collections|typing|types|contextlib|contextvars|logging|random|socket|ssl|select|enum|pathlib|datetime|"
    r"ipaddress|click|pytest|h2|h11)\..*"
)
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
    }
nitpick_ignore_regex = [
    ("py:.*", _foreign),
    ("py:(class|obj)", r"(.*\.)?([A-Z]|Req|Rep)"),  # type variables
    ("py:class", r"(.*\.)?_\w+"),  # private types of public fields
    # In signatures that name a type which is imported for type checkers only, all names stay as they are written.
    (
        "py:class",
        r"(Path|datetime(\.datetime)?|(x509|ec)\.\w+|CertificateIssuerPrivateKeyTypes|PublicKey)",
    ),
    ("py:class", r"(SSL\.Context|os\.PathLike|cryptography\..*|Metric)"),
    ("py:class", r"linkerd_proxy\.duration\.parse_duration"),  # how a file's text is read, inside an annotation
    ("py:class", r"linkerd_proxy\.mesh\.worker\.Job"),  # what a worker process is told: of no use to others
]

_as_written: dict[str, list[str]] = {}


def _keep(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if what in {"attribute", "data", "property"}:
        _as_written[name] = lines.copy()


def _restore(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    if name in _as_written:
        lines[:] = _as_written.pop(name)


def setup(app: Sphinx) -> None:
    """Keep napoleon from reading "type: description" into a field's docstring that has a colon."""
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
