"""How the host reaches the outside, read from the kernel's answers."""

from __future__ import annotations

import pytest

from netwrap.facts import Facts
from netwrap.wayout import WayOut, parse_way_out

HOP1, HOP2 = '{"gateway":"10.77.0.2","dev":"d1"}', '{"gateway":"10.78.0.2","dev":"d2"}'
WAYS_OUT = {
    "a gateway": ('{"dst":"default","gateway":"10.77.0.2","dev":"d1","flags":[]}', WayOut("d1", "10.77.0.2", 1400)),
    "a table of its own": ('{"dst":"default","dev":"d2","table":"10","flags":[]}', WayOut("d2", None, 1300)),
    "a tunnel": ('{"dst":"128.0.0.0/1","dev":"d2","scope":"253","flags":[]}', WayOut("d2", None, 1300)),
    "an IPv6 gateway": (
        '{"dst":"default","via":{"family":"inet6","host":"fe80::5"},"dev":"d1"}',
        WayOut("d1", None, 1400),
    ),
    "an MTU": ('{"dst":"default","dev":"d1","metrics":[{"initcwnd":9},{"mtu":1200}]}', WayOut("d1", None, 1200)),
    "two ways": (f'{{"dst":"default","flags":[],"nexthops":[{HOP1},{HOP2}]}}', WayOut("d1", "10.77.0.2", 1300)),
    "two ways, an MTU": (
        f'{{"dst":"default","nexthops":[{HOP1},{HOP2}],"metrics":[{{"mtu":900}}]}}',
        WayOut("d1", "10.77.0.2", 900),
    ),
    "two ways, one down": (
        f'{{"dst":"default","flags":[],"nexthops":[{HOP1.replace("}", ",")}"flags":["dead","linkdown"]}},{HOP2}]}}',
        WayOut("d2", "10.78.0.2", 1300),
    ),
    "two ways, both down": (
        '{"dst":"default","nexthops":[{"dev":"d1","flags":["dead"]},{"dev":"d2","flags":["dead"]}]}',
        None,
    ),
    "itself": ('{"type":"2","dst":"default","dev":"d1","table":"255","scope":"254","flags":[]}', None),
    "lo": ('{"dst":"default","dev":"lo","scope":"253","flags":[]}', None),
}
"""Answers of iproute2 6.1 to WAY_OUT."""


@pytest.mark.parametrize("name", WAYS_OUT)
def test_the_way_out_is_read_from_the_kernels_answer(name: str) -> None:
    answer, wanted = WAYS_OUT[name]
    mtus = {"lo": 65536, "d1": 1400, "d2": 1300}
    assert parse_way_out(f"[{answer}]\n", mtus) == wanted


def test_a_network_has_the_mtu_of_the_way_out_and_1500_where_there_is_none() -> None:
    assert Facts(way_out=WayOut("wg0", None, 1420)).default_mtu() == 1420
    assert Facts().default_mtu() == 1500
