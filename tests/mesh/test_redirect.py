import re

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.redirect import Redirect


def rules(text):
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_nft_excludes_the_proxy_the_loopback_and_what_is_skipped_before_it_redirects():
    text = Redirect(uids=(7, 8), gids=(9,), skip_subnets=("10.0.0.0/8", "fd00::/8")).nft()
    assert rules(text) == [
        "table inet linkerd_proxy",
        "delete table inet linkerd_proxy",
        "table inet linkerd_proxy {",
        "chain inbound {",
        "type nat hook prerouting priority -100; policy accept;",
        'iifname "lo" return',
        "tcp dport { 4190, 4191, 4567, 4568 } return",
        "meta l4proto tcp redirect to :4143",
        "}",
        "chain outbound {",
        "type nat hook output priority -100; policy accept;",
        "meta skuid { 7, 8 } return",
        "meta skgid { 9 } return",
        'oifname "lo" return',
        "tcp dport { 4567, 4568 } return",
        "ip daddr { 10.0.0.0/8 } return",
        "ip6 daddr { fd00::/8 } return",
        "meta l4proto tcp redirect to :4140",
        "}",
        "}",
    ]


def test_nft_leaves_a_version_alone_that_is_not_captured():
    assert Redirect(versions=(4,)).nft().count("meta nfproto ipv6 return") == 2
    assert Redirect(versions=(6,)).nft().count("meta nfproto ipv4 return") == 2
    assert "nfproto" not in Redirect().nft()


def test_iptables_has_the_same_rules_for_each_version():
    redirect = Redirect(uids=(7, 8), gids=(9,), skip_subnets=("10.0.0.0/8", "fd00::/8"))
    assert rules(redirect.iptables(4)) == [
        "*nat",
        ":LINKERD_PROXY_IN - [0:0]",
        ":LINKERD_PROXY_OUT - [0:0]",
        "-A LINKERD_PROXY_IN -i lo -j RETURN",
        "-A LINKERD_PROXY_IN -p tcp -m multiport --dports 4190,4191,4567,4568 -j RETURN",
        "-A LINKERD_PROXY_IN -p tcp -j REDIRECT --to-ports 4143",
        "-A LINKERD_PROXY_OUT -m owner --uid-owner 7 -j RETURN",
        "-A LINKERD_PROXY_OUT -m owner --uid-owner 8 -j RETURN",
        "-A LINKERD_PROXY_OUT -m owner --gid-owner 9 -j RETURN",
        "-A LINKERD_PROXY_OUT -o lo -j RETURN",
        "-A LINKERD_PROXY_OUT -p tcp -m multiport --dports 4567,4568 -j RETURN",
        "-A LINKERD_PROXY_OUT -d 10.0.0.0/8 -j RETURN",
        "-A LINKERD_PROXY_OUT -p tcp -j REDIRECT --to-ports 4140",
        "-A PREROUTING -j LINKERD_PROXY_IN",
        "-A OUTPUT -j LINKERD_PROXY_OUT",
        "COMMIT",
    ]
    assert redirect.iptables(6) == redirect.iptables(4).replace("10.0.0.0/8", "fd00::/8")


def test_iptables_takes_jumps_away_that_are_there_already():
    text = rules(Redirect().iptables(4, installed=["OUTPUT"]))
    assert text[3] == "-D OUTPUT -j LINKERD_PROXY_OUT"
    assert not any(rule.startswith("-D PREROUTING") for rule in text)


def test_iptables_removal_empties_the_chains_before_it_deletes_them():
    assert rules(Redirect().iptables_removal()) == [
        "*nat",
        ":LINKERD_PROXY_IN - [0:0]",
        ":LINKERD_PROXY_OUT - [0:0]",
        "-D PREROUTING -j LINKERD_PROXY_IN",
        "-D OUTPUT -j LINKERD_PROXY_OUT",
        "-X LINKERD_PROXY_IN",
        "-X LINKERD_PROXY_OUT",
        "COMMIT",
    ]


def test_more_ports_than_one_multiport_takes_are_several_rules():
    skipped = (*map(str, range(100, 114)), "200-210", "300")  # a range counts twice
    text = Redirect(skip_inbound=skipped).iptables(4)
    first, second = re.findall(r"-A LINKERD_PROXY_IN -p tcp -m multiport --dports (\S+)", text)
    assert first.split(",") == [str(port) for port in range(100, 114)]
    assert second == "200:210,300"


def test_nothing_skipped_is_no_rule():
    text = Redirect(skip_inbound=(), skip_outbound=())
    assert "dport" not in text.nft()
    assert "dport" not in text.iptables(4)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"inbound": 0}, "can't be redirected to port 0"),
        ({"outbound": 65536}, "can't be redirected to port 65536"),
        ({"inbound": 4140}, "inbound and outbound traffic both go to port 4140"),
        ({"uids": ()}, "give --uid or --gid"),
        ({"skip_inbound": ("http",)}, "'http' is no port to skip"),
        ({"skip_outbound": ("90-80",)}, "'90-80' is no port to skip"),
        ({"skip_outbound": ("1-70000",)}, "'1-70000' is no port to skip"),
        ({"skip_outbound": ("0",)}, "'0' is no port to skip"),
        ({"skip_subnets": ("10.0.0.1/8",)}, "'10.0.0.1/8' is no network to skip: 10.0.0.1/8 has host bits set"),
        ({"skip_subnets": ("x; drop",)}, "is no network to skip"),
    ],
)
def test_what_can_not_be_captured_is_told_in_one_line(arguments, told):
    with pytest.raises(InvalidConfiguration) as raised:
        Redirect(**arguments)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
