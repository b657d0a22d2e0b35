"""Field lines that came before: most of a head's, even where no two heads are alike."""

from __future__ import annotations

from linkerd_proxy.http.fields import END_TO_END, ReadField, read_field
from linkerd_proxy.http.h1.codec import Codec, Malformed
from linkerd_proxy.http.h1.scan import FIELD_LINE
from linkerd_proxy.http.memo import Doorkeeper, remember

__all__ = ["Lines"]

_SIZE = 1024
_LENGTH = 256  # so that a memory holds a quarter of a megabyte of lines
_NAMES_SIZE = 256
_NAME_LENGTH = 64


class Lines(dict[bytes, ReadField]):
    """What field lines say, by one codec. Those known need neither scan nor parser nor check; others are read.

    A field line means the same in every head. What depends on the others (which Host, how long, in chunks, what
    Connection names) is for the validator, which sees all of them; so a head made of good lines is as good as if it
    had gone through the library as a whole.

    The library reads every line that a codec acts upon, and every name that is new. The value of an end-to-end field
    whose name it has read before is opaque to it: there our grammar, which is the stricter one, says all there is. (A
    parser made for one line costs as much as all else that is done with the line: 3 us of 100 a request.)
    """

    __slots__ = ("_codec", "_door", "_names")

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self._codec = codec
        self._door = Doorkeeper()
        self._names: dict[bytes, bytes] = {}

    def __missing__(self, line: bytes) -> ReadField:
        """Read a line without its end.

        Raises:
            Malformed, BadRequest: if it is not good; the whole head tells better what is wrong.
        """
        match = FIELD_LINE.fullmatch(line)
        if match is None:
            raise Malformed("not a field line")
        name, value = match.groups()
        lower = self._names.get(name)
        read = self._read(name, line) if lower is None else (END_TO_END, (lower, value.strip(b" \t")))
        if len(line) <= _LENGTH and self._door.admits(hash(line)):
            remember(self, line, read, _SIZE)
        return read

    def _read(self, name: bytes, line: bytes) -> ReadField:
        """Read a line by the library, in a head of its own."""
        fields = self._codec.line_fields(line + b"\r\n\r\n")
        if len(fields) != 1:
            raise Malformed("not one field")
        read = read_field(fields[0])
        if read[0] is END_TO_END and len(name) <= _NAME_LENGTH:
            remember(self._names, name, read[1][0], _NAMES_SIZE)
        return read

    def __repr__(self) -> str:
        return f"<Lines by {self._codec.name}, {len(self)} known>"
