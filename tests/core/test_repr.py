"""A layer's repr is the call that makes it, without what is as by default."""

from dataclasses import dataclass, field

from linkerd_proxy import Exchange, Layer


@dataclass(frozen=True, slots=True, repr=False)
class Colour(Layer[Exchange, Exchange]):
    name: str
    shade: float = 0.5
    others: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Named(Layer[Exchange, Exchange]):
    name: str


class Plain(Layer[Exchange, Exchange]):
    __slots__ = ()


def test_defaults_are_left_out_and_what_has_none_needs_no_name():
    assert repr(Colour("red")) == "Colour('red')"
    assert repr(Colour("red", 0.75, ("blue",))) == "Colour('red', shade=0.75, others=('blue',))"


def test_a_keyword_stays_a_keyword():
    assert repr(Named(name="x")) == "Named(name='x')"


def test_a_layer_without_fields_says_its_name():
    assert repr(Plain()) == "Plain()"
    assert str(Plain() | Colour("red")) == "Plain()\nColour('red')"
