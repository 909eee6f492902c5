"""The picture of the access networks: what it leaves out, and which bursts of news are changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ntmpatch.handover.kernel import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_OPTIMISTIC,
    IFA_F_TENTATIVE,
    DefaultRoute,
    Item,
    KernelAddress,
    Link,
    News,
)
from ntmpatch.handover.networks import (
    EVERY_INTERFACE,
    MAX_HOLD,
    QUIET_INTERVAL,
    Change,
    InterfacePolicy,
    Networks,
)

LO = Link(1, "lo", is_loopback=True)
ETH = Link(2, "eth0")
LTE = Link(3, "wwan0")
LOOPBACK = KernelAddress(1, "127.0.0.1", 8)
HOME = KernelAddress(2, "192.0.2.10", 24)
HOME6 = KernelAddress(2, "2001:db8::10", 64)
AWAY = KernelAddress(3, "198.51.100.7", 24)
BY_HOME = DefaultRoute(2, is_ipv6=False, metric=100, gateway="192.0.2.1")
BY_LTE = DefaultRoute(3, is_ipv6=False, metric=700, gateway="198.51.100.1")
START = (LO, LOOPBACK, ETH, HOME, BY_HOME)


def begun(*items: Item, policy: InterfacePolicy = EVERY_INTERFACE) -> Networks:
    networks = Networks(policy)
    networks.replace([News(item) for item in items], 0.0)
    assert networks.poll_change() is None
    assert networks.poll_timeout() is None
    return networks


def addresses(networks: Networks) -> list[str]:
    return [network.address for network in networks.picture or ()]


def settle(networks: Networks) -> Change | None:
    """Let the burst end: the change, if it was one."""
    while (due_at := networks.poll_timeout()) is not None:
        networks.handle_timeout(due_at)
    return networks.poll_change()


def after(networks: Networks, *news: News) -> Change | None:
    for each in news:
        networks.hear(each, 1.0)
    return settle(networks)


@pytest.mark.parametrize(
    ("items", "usable"),
    [
        pytest.param(START, ["192.0.2.10"], id="loopback-is-left-out"),
        pytest.param((LO, LOOPBACK), ["127.0.0.1"], id="loopback-is-all-there-is"),
        pytest.param((ETH, KernelAddress(2, "fe80::1", 64)), [], id="link-local"),
        pytest.param((ETH, replace(HOME6, flags=IFA_F_TENTATIVE)), [], id="tentative"),
        pytest.param(
            (ETH, replace(HOME6, flags=IFA_F_TENTATIVE | IFA_F_OPTIMISTIC)),
            ["2001:db8::10"],
            id="optimistic",
        ),
        pytest.param((ETH, replace(HOME6, flags=IFA_F_DADFAILED)), [], id="duplicate"),
        pytest.param((ETH, replace(HOME6, flags=IFA_F_DEPRECATED)), [], id="deprecated"),
        pytest.param((replace(ETH, is_up=False), HOME), [], id="down"),
        pytest.param((replace(ETH, has_carrier=False), HOME), [], id="no-carrier"),
        pytest.param((HOME,), [], id="link-unknown"),
        pytest.param(
            (LTE, AWAY, BY_LTE, ETH, HOME6, HOME, BY_HOME),
            ["192.0.2.10", "198.51.100.7", "2001:db8::10"],
            id="default-routes-first-by-metric",
        ),
    ],
)
def test_what_is_usable(items: tuple[Item, ...], usable: list[str]) -> None:
    assert addresses(begun(*items)) == usable


def test_interfaces_are_allowed_and_metered_by_pattern() -> None:
    expensive = replace(BY_LTE, metric=1)
    everything = (*START, LTE, AWAY, expensive)
    assert addresses(begun(*everything, policy=InterfacePolicy(("eth*",)))) == ["192.0.2.10"]
    metered = begun(*everything, policy=InterfacePolicy((), ("wwan?",)))
    assert [(n.interface, n.metered) for n in metered.picture or ()] == [
        ("eth0", False),
        ("wwan0", True),
    ]


@pytest.mark.parametrize(
    ("news", "lost", "gained"),
    [
        pytest.param([News(HOME, True), News(HOME), News(BY_HOME)], None, None, id="back-again"),
        pytest.param([News(LOOPBACK, True)], None, None, id="of-no-use"),
        pytest.param([News(LTE), News(AWAY)], set(), {AWAY.text}, id="another-comes"),
        pytest.param(
            [News(HOME, True), News(replace(HOME, text="192.0.2.99"))],
            {HOME.text},
            {"192.0.2.99"},
            id="replaced",
        ),
        pytest.param(
            [News(ETH, True), News(LTE), News(AWAY), News(BY_LTE)],
            {HOME.text},
            {AWAY.text},
            id="unplugged",
        ),
        pytest.param([News(BY_HOME, True)], set(), set(), id="default-route-goes"),
        pytest.param(
            [News(replace(BY_HOME, gateway="192.0.2.2"), replaces=True)],
            set(),
            set(),
            id="another-router",
        ),
        pytest.param([News(replace(ETH, has_carrier=False)), News(ETH)], None, None, id="flap"),
    ],
)
def test_a_burst_is_one_change_or_none(
    news: list[News], lost: set[str] | None, gained: set[str] | None
) -> None:
    networks = begun(*START)
    before = networks.picture
    change = after(networks, *news)
    if lost is None:
        assert change is None
        assert networks.picture == before
    else:
        assert change is not None
        assert (change.lost, change.gained) == (lost, gained)
        assert (change.old, change.new) == (before, networks.picture)
    assert settle(networks) is None


def test_only_another_way_out_is_another_default() -> None:
    networks = begun(*START)
    worse = after(networks, News(LTE), News(AWAY), News(BY_LTE))
    assert worse is not None
    assert not worse.has_other_default(is_ipv6=False)
    better = after(networks, News(BY_HOME, True))
    assert better is not None
    assert better.has_other_default(is_ipv6=False)
    assert not better.has_other_default(is_ipv6=True)
    router = after(networks, News(replace(BY_LTE, gateway="198.51.100.2"), replaces=True))
    assert router is not None
    assert router.has_other_default(is_ipv6=False)


def test_what_the_kernel_flushes_silently() -> None:
    networks = begun(*START)
    after(networks, News(replace(ETH, is_up=False)))
    after(networks, News(ETH))
    assert [n.has_default for n in networks.picture or ()] == [False], "a link that was down"
    networks = begun(*START)
    after(networks, News(HOME, True))
    after(networks, News(HOME))
    assert [n.has_default for n in networks.picture or ()] == [False], "its last address"


def test_losing_everything_is_told_with_what_comes_next() -> None:
    networks = begun(*START)
    assert after(networks, News(HOME, True)) is None
    change = after(networks, News(HOME), News(BY_HOME))
    assert change is not None
    assert change.interrupted
    assert not change.lost


def test_a_resume_is_a_change_of_nothing() -> None:
    networks = begun(*START)
    networks.resumed(5.0)
    change = settle(networks)
    assert change is not None
    assert change.interrupted
    assert change.old == change.new


def test_when_a_burst_ends() -> None:
    networks = begun(*START)
    networks.hear(News(LTE), 1.0)
    assert networks.poll_timeout() == 1.0 + QUIET_INTERVAL
    networks.hear(News(AWAY), 1.002)
    assert networks.poll_timeout() == 1.002 + QUIET_INTERVAL
    networks.handle_timeout(1.004)
    assert networks.poll_change() is None, "too early"
    for step in range(1, 7):
        networks.hear(News(replace(BY_LTE, metric=step)), 1.002 * (1 + 0.002 * step))
    assert networks.poll_timeout() == 1.0 + MAX_HOLD


def test_any_sequence_of_news_ends_where_a_dump_would() -> None:
    """And the changes told lead from the first picture to the last."""
    rng = random.Random(5)
    pool: list[Item] = [LOOPBACK, HOME, HOME6, AWAY, KernelAddress(3, "2001:db8:3::7", 64)]
    pool += [DefaultRoute(i, is_ipv6=True, metric=m) for i in (2, 3) for m in (1, 9)]
    links = (LO, ETH, LTE)
    told = 0
    for _ in range(300):
        networks = begun(*links, *START)
        told_last = networks.picture
        there: dict[Item, None] = dict.fromkeys((LOOPBACK, HOME, BY_HOME))
        now = 1.0
        for _ in range(rng.randrange(1, 25)):
            item = rng.choice(pool)
            is_gone = item in there and rng.random() < 0.6
            networks.hear(News(item, is_gone), now)
            if is_gone:
                del there[item]
                if item in (HOME, AWAY):  # the last IPv4 address of its link
                    there.pop(BY_HOME if item == HOME else BY_LTE, None)
            else:
                there[item] = None
            now += rng.choice((0.0, 0.001, 0.01))
            networks.handle_timeout(now)
            if (change := networks.poll_change()) is not None:
                assert change.old == told_last
                told_last = change.new
                told += 1
        if (change := settle(networks)) is not None:
            assert change.old == told_last
            told_last = change.new
        expected = begun(*links, *there)
        if addresses(expected) in ([], [LOOPBACK.text]):
            continue  # held back until there is a network
        assert networks.picture == told_last == expected.picture
    assert told > 300
