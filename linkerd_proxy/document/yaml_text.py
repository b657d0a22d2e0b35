"""YAML 1.2 with line numbers, by ruamel.yaml (extra ``config``)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NoReturn

from linkerd_proxy.document.tree import (
    MAX_DEPTH,
    MAX_NODES,
    InvalidDocument,
    Node,
    Problem,
    Scalar,
    lines_in,
    whole,
    whole_text,
)
from linkerd_proxy.errors import InvalidConfiguration

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node as YamlNode

__all__ = ["parse_yaml"]

_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
_SCALARS = {*_TEXTS, _TAG + "null", _TAG + "bool", _TAG + "int", _TAG + "float"}
_OLDER = re.compile(r"^%YAML +1\.[01]\b", re.MULTILINE)


def parse_yaml(text: str, name: str) -> Node:
    """Parse a YAML document of one part.

    Values are those of JSON: no tags, no dates (they stay text), no merge keys. Aliases may repeat a value.

    Raises:
        InvalidDocument: at the first thing that is wrong.
        InvalidConfiguration: if ruamel.yaml is not installed.
    """
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.reader import ReaderError
    except ImportError:
        raise InvalidConfiguration(
            f"{name} is YAML, which needs ruamel.yaml: pip install 'linkerd-proxy[config]', or write JSON"
        ) from None
    if (older := _OLDER.search(text)) is not None:  # where "yes" was true and 010 was 8
        _refuse(name, _line_of(text, older.start()), "this is YAML 1.2: remove the directive, or say %YAML 1.2")
    try:
        yaml = YAML(typ="safe", pure=True)
        yaml.composer.warn_double_anchors = False  # an anchor may be given anew (YAML 1.2 section 7.1)
        root = yaml.compose(text)
    except ReaderError as error:
        what = f"the character U+{ord(text[error.position]):04X} may not stand in YAML: remove it"
        _refuse(name, _line_of(text, error.position), what)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        _refuse(name, mark.line + 1 if mark is not None else 0, f"this is no YAML: {problem}")
    except (YAMLError, ValueError) as error:
        _refuse(name, 0, f"this is no YAML: {' '.join(str(error).split())}")
    except RecursionError:
        _refuse(name, 0, f"values lie more than {MAX_DEPTH} deep in one another: is it the right file?")
    if root is None:
        _refuse(name, 0, "the document is empty")
    return _Reader(name).read(root, 0)


def _line_of(text: str, position: int) -> int:
    return 1 + lines_in(text, 0, position)


def _refuse(name: str, line: int, problem: str) -> NoReturn:
    raise InvalidDocument(name, [Problem(line, "", problem)])


class _Reader:
    __slots__ = ("_count", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def read(self, found: YamlNode, depth: int) -> Node:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        line = found.start_mark.line + 1
        self._count += 1
        if depth > MAX_DEPTH:
            _refuse(self._name, line, f"values lie more than {MAX_DEPTH} deep in one another, or in themselves")
        if self._count > MAX_NODES:
            _refuse(self._name, line, f"there are more than {MAX_NODES} values, aliases counted")
        if isinstance(found, MappingNode):
            self._check_tag(found, {_TAG + "map"}, line)
            return self._mapping(found, line, depth)
        if isinstance(found, SequenceNode):
            self._check_tag(found, {_TAG + "seq"}, line)
            return Node([self.read(item, depth + 1) for item in found.value], line)
        assert isinstance(found, ScalarNode)
        self._check_tag(found, _SCALARS, line)
        return Node(self._scalar(str(found.tag), found.value, line), line)

    def _check_tag(self, found: YamlNode, known: set[str], line: int) -> None:
        if str(found.tag) not in known:
            _refuse(self._name, line, f"the tag {str(found.tag).removeprefix(_TAG)!r} means nothing here: remove it")

    def _mapping(self, found: YamlNode, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        node = Node(entries, line)
        for key_node, value_node in found.value:
            key, key_line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                _refuse(self._name, key_line, "a key must be a text")
            self._check_tag(key_node, _SCALARS | {_TAG + "merge"}, key_line)
            key = self._text(key, key_line)
            if key == "<<":
                _refuse(self._name, key_line, "merge keys are no part of YAML 1.2: write the keys out")
            if key in entries:
                _refuse(self._name, key_line, f"the key {key!r} is there twice: keep one")
            entries[key] = self.read(value_node, depth + 1)
            node.key_lines[key] = key_line
        return node

    def _text(self, text: str, line: int) -> str:
        try:
            return whole_text(text)
        except ValueError as error:
            _refuse(self._name, line, f"{error}: write the whole character")

    def _scalar(self, tag: str, text: str, line: int) -> Scalar:
        if tag in _TEXTS:
            return self._text(text, line)
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            if text.lower() not in {"true", "false"}:
                _refuse(self._name, line, f"{text[:40]!r} is neither true nor false: write one of them")
            return text.lower() == "true"
        try:
            return self._number(tag, text)
        except ValueError:
            _refuse(self._name, line, f"{text[:40]!r} is no number: put it in quotes if it is a text")

    @staticmethod
    def _number(tag: str, text: str) -> int | float:
        if tag == _TAG + "int":
            return whole(text.replace("_", ""))
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and "inf" not in text.lower():
            raise ValueError("more than a float can be")
        return value
