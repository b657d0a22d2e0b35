"""YAML 1.2 with line numbers, by ruamel.yaml (extra ``config``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from linkerd_proxy.document.tree import MAX_DEPTH, MAX_NODES, InvalidDocument, Node, Problem, Scalar
from linkerd_proxy.errors import InvalidConfiguration

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node as YamlNode

__all__ = ["parse_yaml"]

_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}


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
    except ImportError:
        raise InvalidConfiguration(
            f"{name} is YAML, which needs ruamel.yaml: pip install 'linkerd-proxy[config]', or write JSON"
        ) from None
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        _refuse(name, mark.line + 1 if mark is not None else 0, f"this is no YAML: {problem}")
    except (YAMLError, ValueError) as error:
        _refuse(name, 0, f"this is no YAML: {' '.join(str(error).split())}")
    except RecursionError:
        _refuse(name, 0, f"values lie more than {MAX_DEPTH} deep in one another")
    if root is None:
        _refuse(name, 0, "the document is empty")
    return _Reader(name).read(root, 0)


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
            return self._mapping(found, line, depth)
        if isinstance(found, SequenceNode):
            return Node([self.read(item, depth + 1) for item in found.value], line)
        assert isinstance(found, ScalarNode)
        return Node(self._scalar(str(found.tag), found.value, line), line)

    def _mapping(self, found: YamlNode, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        node = Node(entries, line)
        for key_node, value_node in found.value:
            key, key_line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                _refuse(self._name, key_line, "a key must be a text")
            if key == "<<":
                _refuse(self._name, key_line, "merge keys are no part of YAML 1.2: write the keys out")
            if key in entries:
                _refuse(self._name, key_line, f"the key {key!r} is there twice: keep one")
            entries[key] = self.read(value_node, depth + 1)
            node.key_lines[key] = key_line
        return node

    def _scalar(self, tag: str, text: str, line: int) -> Scalar:
        if tag in _TEXTS:
            return text
        if tag == _TAG + "null":
            return None
        if tag == _TAG + "bool":
            return text.lower() == "true"
        try:
            if tag == _TAG + "int":
                return int(text.replace("_", ""), 0) if text.lower()[:2] in {"0x", "0o", "0b"} else int(text)
            if tag == _TAG + "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            _refuse(self._name, line, f"{text!r} is no number: put it in quotes if it is a text")
        _refuse(self._name, line, f"the tag {tag!r} means nothing here: remove it")
