"""Documents: YAML and JSON in, checked values out, every problem with its line and remedy."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.address import Address, AnyAddress, parse_address
from linkerd_proxy.document.load import load, loads, parse
from linkerd_proxy.document.schema import schema
from linkerd_proxy.document.shape import Range, Tagged, Text
from linkerd_proxy.document.tree import InvalidDocument
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import InvalidConfiguration


@dataclass(frozen=True)
class Http:
    """Speaks HTTP."""

    timeout: Annotated[float, Text(parse_duration, "10s")] = 10.0


@dataclass(frozen=True)
class Tcp:
    port: Annotated[int, Range(1, 65535)]


@dataclass(frozen=True)
class Route:
    to: Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80", numbers=True)]
    weight: Annotated[float, Range(0)] = 1.0
    kind: Literal["exact", "prefix"] = "prefix"
    backup: str | None = None
    hops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.weight == 13:
            raise InvalidConfiguration("weight 13 brings bad luck: give another")


@dataclass(frozen=True)
class Document:
    name: str
    routes: tuple[Route | str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    protocol: Annotated[Http | Tcp, Tagged("kind", {"http": Http, "tcp": Tcp})] = Http()
    retry_after: float = field(default=1.0, metadata={"name": "retryAfter"})


YAML = """\
# a comment
name: web
routes:
  - to: 10.0.0.1:80
    weight: 2
    hops: [1, 2]
  - "elsewhere"
  - to: 9000
    kind: exact
    backup: null
labels: {version: "1", zone: a}
strict: yes_not_a_bool
retryAfter: 3
protocol:
  kind: tcp
  port: 80
"""
GOOD = Document(
    "web",
    (Route(Address("10.0.0.1", 80), 2.0, hops=(1, 2)), "elsewhere", Route(Address("", 9000), kind="exact")),
    {"version": "1", "zone": "a"},
    True,
    Tcp(80),
    3.0,
)


def problems(text: str, name: str = "p.yaml") -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        loads(text, Document, name)
    return str(caught.value).splitlines()


def test_a_document_becomes_a_value() -> None:
    assert loads(YAML.replace("yes_not_a_bool", "true"), Document, "p.yaml") == GOOD


def test_json_is_the_same() -> None:
    plain = parse(YAML.replace("yes_not_a_bool", "true"), "p.yaml").plain()
    assert loads(json.dumps(plain, indent=1), Document, "p.json") == GOOD
    assert loads(json.dumps(plain), Document) == GOOD


def test_all_problems_are_told_at_once_in_order_with_lines_and_remedies() -> None:
    text = """\
nme: web
routes:
  - to: nowhere
    wieght: 2
  - to: 10.0.0.1:80
    weight: -1
    hops: 3
  - to: 10.0.0.1:80
    weight: 13
  - 7
labels:
  version: 1
strict: "no"
protocol: {kind: htp}
"""
    assert problems(text) == [
        "p.yaml:1: nme: there is no such key; did you mean 'name'?",
        "p.yaml:1: the key 'name' is missing: give it a text",
        "p.yaml:3: routes[0].to: 'nowhere' has no port: write host:port, for example 127.0.0.1:8080",
        "p.yaml:4: routes[0].wieght: there is no such key; did you mean 'weight'?",
        "p.yaml:6: routes[1].weight: -1.0 is out of range: give a number 0 or more",
        "p.yaml:7: routes[1].hops: expected a list, found the number 3",
        "p.yaml:8: routes[2]: weight 13 brings bad luck: give another",
        "p.yaml:10: routes[3]: expected a mapping or a text, found the number 7",
        'p.yaml:12: labels.version: expected a text, found the number 1: put it in quotes, "1"',
        "p.yaml:13: strict: expected true or false, found the text 'no'",
        "p.yaml:14: protocol.kind: the text 'htp' is none of http, tcp; did you mean 'http'?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: web\nretryAftr: 1", "p.yaml:2: retryAftr: there is no such key; did you mean 'retryAfter'?"),
        (
            "name: web\nzzz: 1",
            "p.yaml:2: zzz: there is no such key: the keys are name, routes, labels, strict, protocol, retryAfter",
        ),
        ("name: web\nprotocol: {port: 1}", "p.yaml:2: protocol: the key 'kind' is missing: give one of http, tcp"),
        ("name: web\nprotocol: 1", "p.yaml:2: protocol: expected a mapping with 'kind', found the number 1"),
        (
            "name: web\nprotocol: {kind: http, timeout: 5}",
            "p.yaml:2: protocol.timeout: expected a text like '10s', found the number 5",
        ),
        (
            "name: web\nprotocol: {kind: http, timeout: 5 sec}",
            "p.yaml:2: protocol.timeout: '5 sec' is no duration: give a number with a unit (ms, s, m, h, d), as in 30s",
        ),
        ("name: web\nretryAfter: .nan", "p.yaml:2: retryAfter: NaN is no number here: give one"),
        ("- 1", "p.yaml:1: expected a mapping, found a list"),
        ("", "p.yaml: the document is empty"),
        ("name: web\nname: two", "p.yaml:2: the key 'name' is there twice: keep one"),
        ("name: [1", "p.yaml:1: this is no YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: &a 1\nb:\n  <<: *a", "p.yaml:3: merge keys are no part of YAML 1.2: write the keys out"),
        ("name: !!python/object:os.system x", None),
        ("name: web\n---\nname: two", None),
        ("? [1]\n: 2", "p.yaml:1: a key must be a text"),
        ("a: &a [*a]", None),
        ("name: web\nretryAfter: .inf", "p.yaml:2: retryAfter: infinity is no number here: give one"),
        ("retryAfter: " + "9" * 400, f"p.yaml:1: '{'9' * 40}' is no number: put it in quotes if it is a text"),
        ("retryAfter: 0x" + "f" * 5000, f"p.yaml:1: '0x{'f' * 38}' is no number: put it in quotes if it is a text"),
        ("retryAfter: 1e400", "p.yaml:1: '1e400' is no number: put it in quotes if it is a text"),
        ("strict: !!bool yes", "p.yaml:1: 'yes' is neither true nor false: write one of them"),
        ("%YAML 1.1\n---\nstrict: yes", "p.yaml:1: this is YAML 1.2: remove the directive, or say %YAML 1.2"),
        ("\nlabels: !!set {a: x}", "p.yaml:2: the tag 'set' means nothing here: remove it"),
        ("name: web\nroutes: !mine []", "p.yaml:2: the tag '!mine' means nothing here: remove it"),
        ("!mine name: web", "p.yaml:1: the tag '!mine' means nothing here: remove it"),
        ("name: web\nlabels: {a: \x07}", "p.yaml:2: the character U+0007 may not stand in YAML: remove it"),
        (
            'name: "\\ud83d"',
            "p.yaml:1: half a character (a lone surrogate, U+D800 to U+DFFF) is no text: write the whole character",
        ),
        ("name: web\nlabels:\n\ta: b", "p.yaml:3: this is no YAML: found character '\\t' that cannot start any token"),
        ("name: web\r\nlabels: 1", "p.yaml:2: labels: expected a mapping, found the number 1"),
        ("name: web\rlabels: 1", "p.yaml:2: labels: expected a mapping, found the number 1"),
    ],
)
def test_bad_yaml_says_where_and_what_to_do(text, problem) -> None:
    told = problems(text)
    assert told[0].startswith("p.yaml")
    assert problem is None or problem in told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n"name": "web",\n}', "p.json:3: a key must stand in double quotes, and no comma before a closing brace"),
        ('{"name" "web"}', "p.json:1: a colon must follow the key 'name'"),
        ('{"name": "web"\n "strict": true}', "p.json:2: a comma or '}' must follow a value"),
        ('{"name": "web"}\n\nx', "p.json:3: there is more after the end of the document: remove it"),
        ('{"name": "web", "name": "x"}', "p.json:1: the key 'name' is there twice: keep one"),
        ('{"name":\n[1, 2', "p.json:2: the document ends too early: a bracket is not closed, or nothing is there"),
        ("", "p.json:1: the document ends too early: a bracket is not closed, or nothing is there"),
        ('{"name": NaN}', "p.json:1: NaN is no JSON: give a number"),
        ('{"name": nul}', None),
        ('{"name": "a\nb"}', None),
        ("[" * 100_000, "p.json:1: values lie more than 64 deep in one another: is it the right file?"),
        ('{"name": ' + "9" * 10_000 + "}", "p.json:1: a number of 10000 digits: give a number"),
        ('{"name": "x", "retryAfter": 1e400}', "p.json:1: 1e400 is more than a number can be: give a number"),
        (
            '{"name": "\\ud800"}',
            "p.json:1: half a character (a lone surrogate, U+D800 to U+DFFF) is no text: write the whole character",
        ),
        ('{"name": "a\\u0000b"}', "p.json:1: name: the text holds a NUL character: remove it"),
        ('{"name":\r\n"web",\r"labels": 1}', "p.json:3: labels: expected a mapping, found the number 1"),
        ("[" + "[],\n" * 500_000 + "[]]", "p.json:500000: there are more than 500000 values: is it the right file?"),
        ('{"name": "web", "labels": {"a\\nb": 1}}', None),
    ],
)
def test_bad_json_says_where_and_what_to_do(text, problem) -> None:
    told = problems(text, "p.json")
    assert told[0].startswith("p.json:")
    assert problem is None or told == [problem]


def test_a_billion_laughs_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "there are more than 500000 values, aliases counted" in problems("\n".join(lines))[0]


def test_deep_yaml_is_refused() -> None:
    assert "deep in one another" in problems("[" * 500 + "]" * 500)[0]


def test_a_problem_is_one_line_whatever_a_key_holds() -> None:
    for name in ("p.json", "p.yaml"):
        (told,) = problems('{"name": "web", "labels": {"a\\nb\\u2028": 1}}', name)
        assert told.startswith(f"{name}:1: 'labels.a\\nb\\u2028': expected a text")


def test_halves_of_characters_are_joined_and_a_byte_order_mark_is_none_of_the_text() -> None:
    for name in ("p.json", "p.yaml"):
        assert loads('\ufeff{"name": "\\ud83d\\ude00"}', Document, name).name == "\N{GRINNING FACE}"


def test_an_anchor_may_be_given_anew() -> None:
    text = "name: &a web\nlabels: {x: *a, y: &a api, z: *a}\n"
    assert loads(text, Document, "p.yaml").labels == {"x": "web", "y": "api", "z": "api"}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 2]))
def test_json_reads_as_the_standard_library_reads_it(value, indent) -> None:
    assert parse(json.dumps(value, indent=indent), "p.json").plain() == value


@given(values.filter(lambda value: value is not None))
def test_yaml_reads_json_too(value) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=True)
    # Keys of more than 1024 characters are no YAML (YAML 1.2 section 7.4.2).
    if '"<<"' not in text and max(map(len, text.splitlines())) <= 1024:
        assert parse(text, "p.yaml").plain() == value


@given(st.text(), st.sampled_from(["p.json", "p.yaml"]))
def test_whatever_is_in_the_file_the_answer_is_a_value_or_an_invalid_document(text, name) -> None:
    with suppress(InvalidDocument):
        loads(text, Document, name)


def test_a_file_that_cannot_be_read_says_so(tmp_path) -> None:
    with pytest.raises(InvalidDocument, match=r"missing.json: it can't be read: No such file or directory"):
        load(tmp_path / "missing.json", Document)
    with pytest.raises(InvalidDocument, match="it can't be read: embedded null byte"):
        load("a\0b", Document)
    (tmp_path / "latin.json").write_bytes(b'{"name":\n "\xe9"}')
    with pytest.raises(InvalidDocument, match=r"latin.json:2: this is no UTF-8"):
        load(tmp_path / "latin.json", Document)
    (tmp_path / "good.json").write_text('\ufeff{"name": "web"}')
    assert load(tmp_path / "good.json", Document) == Document("web")


def test_json_needs_no_extra_and_yaml_says_which_one(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    assert loads('{"name": "web"}', Document, "p.json") == Document("web")
    with pytest.raises(InvalidConfiguration, match=r"pip install 'linkerd-proxy\[config\]', or write JSON"):
        loads("name: web", Document, "p.yaml")


def test_the_schema_says_what_is_accepted() -> None:
    found = schema(Document)
    document = found["$defs"]["Document"]
    assert found["$ref"] == "#/$defs/Document"
    assert document["required"] == ["name"]
    assert document["additionalProperties"] is False
    assert list(document["properties"]) == ["name", "routes", "labels", "strict", "protocol", "retryAfter"]
    assert document["properties"]["retryAfter"] == {"type": "number", "default": 1.0}
    assert found["$defs"]["Document"]["properties"]["protocol"]["oneOf"][0]["properties"]["timeout"] == {
        "type": "string",
        "examples": ["10s"],
        "default": "10s",
    }
    assert document["properties"]["labels"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert document["properties"]["routes"]["items"] == {"anyOf": [{"$ref": "#/$defs/Route"}, {"type": "string"}]}
    route = found["$defs"]["Route"]["properties"]
    assert route["to"] == {"type": ["string", "number"], "examples": ["10.0.0.1:80"]}
    assert route["weight"] == {"type": "number", "minimum": 0, "default": 1.0}
    assert route["kind"] == {"enum": ["exact", "prefix"], "default": "prefix"}
    http, tcp = document["properties"]["protocol"]["oneOf"]
    assert http["description"] == "Speaks HTTP."
    assert tcp["properties"] == {
        "kind": {"const": "tcp"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    }
    assert tcp["required"] == ["kind", "port"]
    json.dumps(found)
