"""The seam to the libraries that parse HTTP/1 heads: two functions, so that a third codec is one file.

Only heads go through a library. How content is framed is read by ``chunks.py`` and ``body.py``, whatever the codec:
h11 and llhttp each let through other malformed chunks, and to hold both to one set of rules one has to know where each
chunk begins, which is all there is to decoding them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, Protocol, TypeAlias

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.headers import RawHeaders

__all__ = ["Codec", "CodecName", "Malformed", "make_codec"]

CodecName: TypeAlias = Literal["auto", "h11", "httptools"]
"""``auto`` takes httptools where it is installed (extra ``fast``), h11 otherwise."""


class Malformed(Exception):
    """The library does not take a head."""


class Codec(Protocol):
    """Parses one whole head, which ends with an empty line and was scanned for what no head may contain.

    Names may be in any case and values may have white space at their ends: the validator sees to that.
    """

    @property
    def name(self) -> str:
        """The library's name."""
        ...

    def request_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a request's fields; its request line ends before ``line_end``. Raises Malformed."""
        ...

    def line_fields(self, lines: bytes) -> RawHeaders:
        """Return the fields of some lines of a head, in order, with the empty line at the end. Raises Malformed."""
        ...

    def response_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a response's fields; its status line ends before ``line_end``. Raises Malformed."""
        ...


def make_codec(name: CodecName) -> Codec:
    """Return the codec of that name.

    Raises:
        InvalidConfiguration: if there is none, or its library is not installed.
    """
    if name == "auto":
        name = "httptools" if find_spec("httptools") is not None else "h11"
    if name == "h11":
        from linkerd_proxy.http.h1.h11_codec import H11Codec

        return H11Codec()
    if name == "httptools":
        try:
            from linkerd_proxy.http.h1.httptools_codec import HttptoolsCodec
        except ImportError:
            raise InvalidConfiguration(
                "codec 'httptools' is not installed: pip install 'linkerd-proxy[fast]'"
            ) from None
        return HttptoolsCodec()
    raise InvalidConfiguration(f"codec {name!r} is unknown: give auto, h11 or httptools")
