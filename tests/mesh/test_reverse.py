import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.reverse import reverse_proxy


def test_it_detects_and_shares_nothing_but_the_targets():
    lines = str(reverse_proxy(["127.0.0.1:9000", "[::1]:9000"], codec="h11")).splitlines()
    assert lines[0] == "Detect()"
    assert sum("Connect('127.0.0.1:9000', '[::1]:9000')" in line for line in lines) == 2
    assert sum("codec='h11'" in line for line in lines) == 2


def test_opaque_is_a_chain_without_detection():
    assert str(reverse_proxy(["127.0.0.1:9000"], opaque=True)).splitlines() == [
        "Metrics()",
        "Tap()",
        "Forward()",
        "Connect('127.0.0.1:9000')",
    ]


@pytest.mark.parametrize(("targets", "told"), [([], "at least one target"), (["nonsense"], "'nonsense' has no port")])
def test_what_is_no_target(targets, told):
    with pytest.raises(InvalidConfiguration, match=told):
        reverse_proxy(targets)
