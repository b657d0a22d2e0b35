"""What a client is told that is refused before any layer."""

import pytest

from linkerd_proxy.errors import BadRequest, ConnectFailed, RequestRefused, RequestTimeout
from linkerd_proxy.http.refused import refusal_of


@pytest.mark.parametrize(
    ("error", "status", "begins"),
    [
        (BadRequest("no colon"), 400, b"DPE no colon; "),
        (RequestRefused("what is that", 501), 501, b"DPR what is that"),
        (RequestTimeout("the head took too long"), 408, b"DT the head"),
        (ConnectFailed("10.0.0.1 refused"), 502, b""),
        (ValueError("a bug"), 500, b""),
    ],
)
def test_only_what_the_client_did_is_explained(error, status, begins):
    found = refusal_of(error)
    assert found[0] == status
    assert found[1].startswith(begins)
    assert bool(found[1]) == bool(begins)


def test_nothing_of_the_clients_text_can_be_a_field_of_its_own():
    _, told = refusal_of(BadRequest("the method 'x\r\nset-cookie: y\x7f\N{SNOWMAN}' is none"))
    assert told.startswith(rb"DPE the method 'x??set-cookie: y?\u2603' is none")
