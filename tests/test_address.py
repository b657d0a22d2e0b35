"""Addresses as users write them, and as they are printed (Linkerd's tests: linkerd/addr)."""

import pytest

from linkerd_proxy.address import Address, UnixAddress, is_name, is_under, parse_address, parse_target
from linkerd_proxy.errors import InvalidConfiguration

LONG = "a" * 63


@pytest.mark.parametrize(
    ("text", "address", "printed"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080"),
        ("web.example:80", Address("web.example", 80), "web.example:80"),
        ("WEB.Example:80", Address("web.example", 80), "web.example:80"),
        ("web.example.:80", Address("web.example.", 80), "web.example.:80"),
        ("my_service:80", Address("my_service", 80), "my_service:80"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("[FD00:0:0::1]:80", Address("fd00::1", 80), "[fd00::1]:80"),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        (":80", Address("", 80), ":80"),
        ("80", Address("", 80), ":80"),
        ("127.0.0.1:0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("unix:/run/a.sock", UnixAddress("/run/a.sock"), "unix:/run/a.sock"),
        ("unix:@name", UnixAddress("@name"), "unix:@name"),
        (f"{LONG}.{LONG}.{LONG}:1", Address(f"{LONG}.{LONG}.{LONG}", 1), f"{LONG}.{LONG}.{LONG}:1"),
    ],
)
def test_what_is_read_is_printed_so_that_it_is_read_again(text, address, printed) -> None:
    assert parse_address(text) == address
    assert str(address) == printed
    assert parse_address(printed) == address


@pytest.mark.parametrize("text", ["web.example", "10.0.0.1", "[::1]"])
def test_a_port_that_is_not_named_is_the_default_one_or_missed(text) -> None:
    address = parse_address(text, default_port=443)
    assert isinstance(address, Address)
    assert address.port == 443
    with pytest.raises(InvalidConfiguration, match="has no port: write host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no port"),
        ("x:", "has no valid port"),
        ("x:-1", "has no valid port"),
        ("x:65536", "has no valid port"),
        ("x:٣", "has no valid port"),
        ("99999", "has no valid port"),
        ("::1", "is ambiguous: put the IPv6 address in brackets"),
        ("[::1", "is no address: write IPv6 as"),
        ("[::1]80", "is no address: write IPv6 as"),
        ("http://x:80", "is a URL: write host:port alone"),
        ("https://[::1]:80/a", "is a URL: write host:port alone"),
        ("a b:80", "names no host"),
        ("-x:80", "names no host"),
        ("1.2.3:80", "names no host"),
        ("256.1.1.1:80", "names no host"),
        (f"{LONG}a:80", "names no host"),
        ("unix:", "is no Unix socket"),
        ("unix:/" + "x" * 107, "is no Unix socket"),
    ],
)
def test_what_is_none_is_told_with_what_to_write(text, told) -> None:
    with pytest.raises(InvalidConfiguration, match=told):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "ip", "loopback"),
    [
        ("127.0.0.1", True, True),
        ("127.9.9.9", True, True),
        ("::1", True, True),
        ("10.0.0.1", True, False),
        ("fe80::1%eth0", True, False),
        ("localhost", False, False),
        ("", False, False),
    ],
)
def test_an_address_knows_what_its_host_is(host, ip, loopback) -> None:
    address = Address(host, 80)
    assert (address.is_ip, address.is_loopback) == (ip, loopback)


def test_a_target_is_an_address_that_somebody_can_listen_on() -> None:
    assert parse_target("web.example:80") == Address("web.example", 80)
    assert parse_target(UnixAddress("/run/a.sock")) == UnixAddress("/run/a.sock")
    for nobody in ("web.example:0", Address("10.0.0.1", 0)):
        with pytest.raises(InvalidConfiguration, match="port 0 is none"):
            parse_target(nobody)


@pytest.mark.parametrize(
    ("name", "domains", "under"),
    [
        ("a.example.com", ["example.com"], True),
        ("example.com", ["example.com"], True),
        ("A.Example.com.", ["example.com"], True),
        ("a.example.com", ["EXAMPLE.com."], True),
        ("a.example.com", [".example.com"], True),
        ("notexample.com", ["example.com"], False),
        ("example.com", ["a.example.com"], False),
        ("a.example.com", ["other", "com"], True),
        ("a.example.com", [""], True),
        ("a.example.com", [], False),
    ],
)
def test_a_name_is_under_a_domain_by_whole_labels(name, domains, under) -> None:
    assert is_under(name, domains) is under


def test_what_looks_like_an_address_is_no_name() -> None:
    assert is_name("web-1.example_x")
    assert not any(map(is_name, ["", ".", "a..b", "1.2.3.4", "1.2.3", "a b", "a/b", f"{LONG}a", ".".join([LONG] * 4)]))
