"""An upstream that was asked in HTTP/2 and knows HTTP/1 alone."""

from __future__ import annotations

from linkerd_proxy.errors import UpstreamProtocolError

__all__ = ["SpeaksNoHttp2"]


class SpeaksNoHttp2(UpstreamProtocolError):
    """The upstream was asked in HTTP/2 and answered in text: it surely did not process the request.

    The preface of HTTP/2 was chosen so that servers of HTTP/1 stop at it (RFC 9113 section 3.4).
    """

    remedy = "let it be asked in HTTP/1 (protocol: http/1.1, or Client(protocol='http/1.1')), or teach it HTTP/2"
