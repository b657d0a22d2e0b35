"""Tables that are made from the code, so that they can't say anything else than the code does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import runpy
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Union, get_args, get_origin

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import linkerd_proxy
from linkerd_proxy.document.convert import document_fields
from linkerd_proxy.document.schema import field_texts
from linkerd_proxy.document.shape import Partial, Range, Tagged, Text
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import CODES
from linkerd_proxy.mesh.explanations import EXPLANATIONS, meaning

PACKAGE = Path(linkerd_proxy.__file__).parent


def list_table(head: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[str]]) -> str:
    """Return a reStructuredText list table."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in (head, *rows):
        for index, cell in enumerate(row):
            lines.append(f"   {'*' if index == 0 else ' '} - {' '.join(cell.split())}")
    return "\n".join(lines) + "\n"


def first_paragraph(text: str | None) -> str:
    """Return a docstring's first paragraph."""
    return inspect.cleandoc(text or "").partition("\n\n")[0]


def failure_codes() -> str:
    """Return the table of all failure codes."""
    rows = (
        (
            f"``{code}``",
            f":exc:`~linkerd_proxy.errors.{error.__name__}`",
            str(error.status) if code != "DPR" else "405, 417, 431 ...",
            error.grpc_status.name,
            first_paragraph(error.__doc__),
            error.remedy,
        )
        for code, error in sorted(CODES.items())
    )
    return list_table(("Code", "Error", "HTTP", "gRPC", "What happened", "What to do"), (6, 16, 8, 14, 30, 26), rows)


def failure_pages() -> str:
    """Return a section for each failure code: what it says, its cause, where to look and what to do."""
    lines: list[str] = []
    for code, explained in EXPLANATIONS.items():
        title = f"{code}: {meaning(code).rstrip('.')}"
        lines += [
            f".. _failure-{code}:",
            "",
            ".. index::",
            f"   single: {code}",
            "   single: failure code; " + code,
            "",
        ]
        lines += [title, "-" * len(title), ""]
        for name, text in (
            ("Cause", explained.cause),
            ("Where to look", explained.look),
            ("What to do", explained.remedy),
        ):
            lines += [f"*{name}.* {_literal(text)}", ""]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Return a text with the characters escaped that mean something in reStructuredText."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def dataclass_fields(path: str) -> str:
    """Return the table of a dataclass's fields with their defaults."""
    module, _, name = path.rpartition(".")
    cls: type[object] = getattr(importlib.import_module(module), name)
    docs = field_texts(cls)
    assert dataclasses.is_dataclass(cls)
    rows = ((f"``{f.name}``", f"``{f.default!r}``", docs[f.name]) for f in dataclasses.fields(cls))
    return list_table(("Field", "Default", "What it limits, and where the figure is from"), (26, 14, 60), rows)


def config_parts(root: type[object]) -> list[type[object]]:
    """Return the dataclasses that a configuration is made of, the root first, each after those that hold it."""
    found: list[type[object]] = []
    pending = [root]
    while pending:
        cls = pending.pop(0)
        if cls not in found:
            found.append(cls)
            for _, kind in document_fields(cls).values():
                pending += classes_in(kind)
    return found


def classes_in(kind: object) -> Iterator[type[object]]:
    """Yield the dataclasses that a type mentions, those told apart by a key among them."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
    for part in get_args(kind):
        if isinstance(part, Tagged):
            yield from part.choices.values()
        elif isinstance(part, Partial):
            yield part.of
        else:
            yield from classes_in(part)


def config_default(field: dataclasses.Field[object], kind: object) -> str:
    """Return a field's default as a file would say it."""
    value = field.default
    if value is dataclasses.MISSING:
        return "" if field.default_factory is not dataclasses.MISSING else "needed"
    if value is None or value in ((), ""):
        return ""
    is_text = any(isinstance(note, Text) for note in get_args(kind))
    if is_text and isinstance(value, float):
        return f"``{value:g}s``"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, tuple):
        return f"``[{', '.join(map(str, value))}]``"
    return f"``{value}``" if isinstance(value, (str, int, float)) else ""


def configuration(path: str) -> str:
    """Return the tables of all keys of a configuration, made from the dataclasses that read it."""
    module, _, name = path.rpartition(".")
    parts: list[str] = []
    for cls in config_parts(getattr(importlib.import_module(module), name)):
        title = cls.__name__.removesuffix("Entry")
        docs = field_texts(cls)
        rows = (
            (f"``{key}``", kind_of(kind), config_default(field, kind), docs.get(field.name, ""))
            for key, (field, kind) in document_fields(cls).items()
        )
        head = ("Key", "Value", "Default", "What it says")
        table = list_table(head, (18, 26, 16, 40), rows) if docs else ""
        parts.append(f".. _config-{title.lower()}:\n\n.. rubric:: {title}\n\n{first_paragraph(cls.__doc__)}\n\n{table}")
    return "\n".join(parts)


def kind_of(kind: object) -> str:
    """Say what a key's value is, with references to the parts that it is made of."""
    return " or ".join(dict.fromkeys(filter(None, _kinds(kind))))


def _kinds(kind: object) -> Iterator[str]:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for part in parts:
            yield from _kinds(part)
    elif origin is Annotated:
        yield _annotated_kind(parts)
    elif origin in (tuple, list, frozenset):
        yield f"a list of: {kind_of(parts[0])}"
    elif origin in (dict, Mapping):
        yield f"a mapping of names to: {kind_of(parts[1])}"
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        title = kind.__name__.removesuffix("Entry")
        yield f":ref:`{title} <config-{title.lower()}>`"
    elif origin is Literal:
        yield ", ".join(f"``{part}``" for part in parts)
    elif kind is not type(None):
        yield {str: "text", int: "whole number", float: "number", bool: "``true`` or ``false``"}[kind]


def _annotated_kind(parts: Sequence[object]) -> str:
    for note in parts[1:]:
        if isinstance(note, Partial):
            return kind_of(note.of)
        if isinstance(note, Tagged):
            named = [f"``{tag}``: {kind_of(cls)}" for tag, cls in note.choices.items()]
            return f"by ``{note.key}``, {', '.join(named)}"
        if isinstance(note, Text):
            return "duration" if note.read is parse_duration else f"a text like ``{note.example}``"
        if isinstance(note, Range):
            return f"{kind_of(parts[0])} {note}"
    return kind_of(parts[0])


def metric_calls(source: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, kind, labels and help of every metric that a module makes."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)) or len(node.args) != 2:
            continue
        name, text = node.args
        if node.func.attr in {"counter", "gauge", "histogram"} and isinstance(name, ast.Constant):
            labels = ", ".join(f"``{keyword.arg}``" for keyword in node.keywords if keyword.arg)
            yield name.value, node.func.attr, labels, ast.literal_eval(text)


def metrics() -> str:
    """Return the table of all metrics."""
    found: dict[str, tuple[str, str, str, str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for name, kind, labels, text in metric_calls(file.read_text()):
            if name not in found or labels > found[name][2]:
                found[name] = (f"``{name}``", kind, labels, text)
    return list_table(("Name", "Kind", "Labels", "What it counts"), (34, 12, 20, 34), (found[n] for n in sorted(found)))


def option_rows(command: click.Command) -> Iterator[tuple[str, str, str]]:
    """Yield the names, environment variable and help of a command's options."""
    context = click.Context(command, info_name=command.name)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if not isinstance(parameter, click.Option) or record is None:
            continue
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
        text = re.sub(r"env var: [A-Z0-9_]+(; )?", "", record[1]).replace("[]", "")
        yield f"``{record[0]}``", ", ".join(f"``{name}``" for name in variables), escaped(text)


def help_text(command: click.Command, names: Sequence[str]) -> str:
    """Return a command's usage and help; paragraphs that click shall leave as they are become literal blocks."""
    context = click.Context(command, info_name=" ".join(["linkerd-proxy", *names]))
    paragraphs = [f"::\n\n    {command.get_usage(context).removeprefix('Usage: ')}"]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            paragraphs.append("::\n\n" + textwrap.indent(paragraph.removeprefix("\b\n"), "    "))
        else:
            paragraphs.append(escaped(paragraph))
    return "\n\n".join(paragraphs)


def environment(path: str) -> str:
    """Return the table of the environment variables that a command group reads."""
    module, _, attribute = path.partition(":")
    group: click.Group = getattr(importlib.import_module(module), attribute)
    rows = [
        (variables, option, f"``{name}``")
        for name, command in group.commands.items()
        for option, variables, _ in option_rows(command)
        if variables
    ]
    return list_table(("Variable", "Option", "Of"), (45, 40, 15), sorted(rows))


def escaped(text: str) -> str:
    """Return plain text that reStructuredText leaves as it is."""
    return text.replace("\\", r"\\").replace("*", r"\*").replace("`", r"\`").replace("|", r"\|")


def command_options(path: str) -> str:
    """Return the table of a command's options; ``path`` is ``module:group`` and the command's names."""
    where, *names = path.split()
    module, _, attribute = where.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    rows = list(option_rows(command))
    table = list_table(("Option", "Environment", "What it does"), (28, 30, 42), rows) if rows else ""
    return f"{help_text(command, names)}\n\n{table}"


def drawing(file: Path) -> str:
    """Return what ``print`` shows of the stack in an example."""
    stack = runpy.run_path(str(file))["proxy"]
    return str(stack() if callable(stack) else stack)


class Drawn(SphinxDirective):
    """``.. drawn:: example.py``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Insert the drawing of the example's stack."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        text = drawing(Path(absolute))
        return [nodes.literal_block(text, text, language="text")]


class FailureCodes(SphinxDirective):
    """``.. failure-codes::``."""

    def run(self) -> list[nodes.Node]:
        """Insert the table."""
        return self.parse_text_to_nodes(failure_codes())


class FailurePages(SphinxDirective):
    """``.. failure-pages::``."""

    def run(self) -> list[nodes.Node]:
        """Insert the sections."""
        return self.parse_text_to_nodes(failure_pages(), allow_section_headings=True)


class Metrics(SphinxDirective):
    """``.. metrics::``."""

    def run(self) -> list[nodes.Node]:
        """Insert the table."""
        return self.parse_text_to_nodes(metrics())


class Fields(SphinxDirective):
    """``.. dataclass-fields:: module.Class``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Insert the table."""
        return self.parse_text_to_nodes(dataclass_fields(self.arguments[0]))


class Configuration(SphinxDirective):
    """``.. configuration:: module.Class``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Insert the tables."""
        return self.parse_text_to_nodes(configuration(self.arguments[0]))


class Options(SphinxDirective):
    """``.. command-options:: module:group command``."""

    required_arguments: ClassVar[int] = 1
    final_argument_whitespace: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Insert the help and the table."""
        return self.parse_text_to_nodes(command_options(self.arguments[0]))


class Environment(SphinxDirective):
    """``.. environment:: module:group``."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Insert the table."""
        return self.parse_text_to_nodes(environment(self.arguments[0]))


def plain_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Leave out of a signature how documents write what its types hold."""
    if signature is None or "Annotated[" not in signature:
        return None
    return re.sub(r"Annotated\[(\w+), \w+\([^]]*\)\]", r"\1", signature), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.connect("autodoc-process-signature", plain_types)
    app.add_directive("drawn", Drawn)
    app.add_directive("failure-codes", FailureCodes)
    app.add_directive("failure-pages", FailurePages)
    app.add_directive("metrics", Metrics)
    app.add_directive("dataclass-fields", Fields)
    app.add_directive("configuration", Configuration)
    app.add_directive("command-options", Options)
    app.add_directive("environment", Environment)
    return {"parallel_read_safe": True}
