"""Redis URLs."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import parse_url as redis_py_parse_url

from bananas.address import Address, Tls, parse_url, slot_of
from bananas.errors import FieldError


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://cache.example",
        "redis://cache.example:7000",
        "redis://cache.example:7000/",
        "redis://cache.example/4",
        "redis://cache.example/4?db=5",
        "redis://:pa%2Fss%40@cache.example/1",
        "redis://ann:pa:ss@cache.example",
        "redis://[::1]:7000/2",
        "redis://cache.example?username=ann&password=p%25q",
        "rediss://ann:secret@cache.example:6380/3",
        "unix:///run/redis.sock",
        "unix:///run/my%20redis.sock?db=3",
        "unix://ann:secret@/run/redis.sock?db=3",
    ],
)
def test_urls_mean_what_they_mean_to_redis_py(url: str) -> None:
    """Host, port, path, database, user and password are those that redis-py reads."""
    theirs = dict(redis_py_parse_url(url))
    ours = parse_url(url)
    assert ours.path == theirs.get("path")
    assert ours.host == theirs.get("host", "localhost")
    assert ours.port == theirs.get("port", 6379)
    assert ours.db == theirs.get("db", 0)
    assert ours.username == theirs.get("username")
    assert ours.password == theirs.get("password")
    assert (ours.tls is not None) == url.startswith("rediss")


def test_a_sentinel_url_names_sentinels_master_and_database() -> None:
    """Ports default to 26379; the credentials are the server's, not the sentinels'."""
    address = parse_url("redis+sentinel://ann:pw@s1,s2:7/jobs/2?sentinel_password=other")
    assert address.sentinels == (("s1", 26379), ("s2", 7))
    assert (address.master_name, address.db, address.master_only) == ("jobs", 2, True)
    assert address.auth() == ("AUTH", "ann", "pw")
    assert address.sentinel_password == "other"  # noqa: S105 - made up


def test_tls_is_verified_unless_the_url_says_otherwise() -> None:
    """A bare rediss:// checks certificate and host name."""
    strict = parse_url("rediss://h").tls
    lax = parse_url("rediss://h?ssl_cert_reqs=none").tls
    assert strict is not None
    assert lax is not None
    assert (strict.verify, strict.check_hostname) == (True, True)
    assert strict.context().check_hostname
    assert not lax.verify
    assert not lax.context().check_hostname


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "h:6379",
        "redis://:hunter2/x@h",
        "redis://u:hunter2#x@h",
        "redis://h:hunter2",
        "redis://h:0",
        "redis://h:70000",
        "redis://h/hunter2",
        "redis://h/-1",
        "redis://h?hunter2=1",
        "redis://[::1",
        "unix://hunter2.sock",
        "redis+sentinel://s1",
    ],
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str) -> None:
    """The error names the rule; a password read as something else stays out of it."""
    with pytest.raises(FieldError) as caught:
        parse_url(url)
    assert caught.value.field == "redis_url"
    if "?" not in url:  # an option's name is no secret and must be named
        assert "hunter2" not in f"{caught.value!r}{caught.value.value!r}"
    assert caught.value.__cause__ is None


def test_no_text_of_an_address_holds_a_password() -> None:
    """Neither repr nor label show credentials; the label leads back to the server."""
    address = parse_url("redis://ann:hunter2@h:7/3")
    assert "hunter2" not in repr(address)
    assert address.label == "redis://h:7/3"
    sentinel = parse_url("rediss+sentinel://ann:hunter2@s1:1,s2/jobs?sentinel_password=hunter2")
    assert "hunter2" not in repr(sentinel)
    assert sentinel.label == "rediss+sentinel://s1:1,s2:26379/jobs/0"
    assert parse_url("unix:///run/r.sock?db=2").label == "unix:///run/r.sock?db=2"


def test_a_cluster_url_names_nodes_and_the_prefix_the_slot() -> None:
    """Ports default to 6379; there is one database; the tag alone decides about the slot."""
    address = parse_url("rediss+cluster://ann:pw@n1,n2:7", "x:{user1000}:y")
    assert address.nodes == (("n1", 6379), ("n2", 7))
    assert address.slot == slot_of("{user1000}.following") == 3443
    assert (address.auth(), address.tls) == (("AUTH", "ann", "pw"), Tls())
    assert address.label == "rediss+cluster://n1:6379,n2:7"
    assert parse_url("redis+cluster://n1/0", "{a}").db == 0
    with pytest.raises(FieldError, match="database 0 only"):
        parse_url("redis+cluster://n1/2", "{a}")
    with pytest.raises(FieldError, match=r'key_prefix: needs a hash tag .* "\{bananas\}"'):
        parse_url("redis+cluster://n1", "bananas")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (Address(), None),
        (Address(password="pw"), ("AUTH", "pw")),  # noqa: S106 - made up
        (Address(username="ann", password="pw"), ("AUTH", "ann", "pw")),  # noqa: S106 - made up
        (Address(username="ann"), ("AUTH", "ann", "")),
    ],
)
def test_auth_is_sent_only_for_credentials(
    address: Address, expected: tuple[str, ...] | None
) -> None:
    """No credentials, no AUTH; a password alone uses the form that Redis 5 knows."""
    assert address.auth() == expected
