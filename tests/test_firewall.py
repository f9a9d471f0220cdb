"""What the rules of others mean, read from texts as iptables-save prints them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netwrap import firewall
from netwrap.facts import Facts, Space, parse_policies, parse_rules
from netwrap.nft import Hook
from netwrap.parse import published_port

UFW = """
*filter
:INPUT DROP [12:720]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
COMMIT
"""
FIREWALLD = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:INPUT_ZONES - [0:0]
:IN_public - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -j INPUT_ZONES
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m comment --comment "the rest" -j REJECT --reject-with icmp-host-prohibited
-A INPUT_ZONES -g IN_public
COMMIT
"""
FAIL2BAN = """
*filter
:INPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A f2b-sshd -s 203.0.113.66/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
"""
OURS = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:NETWRAP - [0:0]
:NETWRAP-a - [0:0]
-A FORWARD -m comment --comment "netwrap:host" -j NETWRAP
-A NETWRAP -o a -m comment --comment "netwrap:a" -j NETWRAP-a
-A NETWRAP-a -m comment --comment "netwrap:a" -j DROP
COMMIT
"""
BEHIND = """
*filter
:INPUT ACCEPT [0:0]
:guard - [0:0]
-A INPUT -j guard
-A guard -j DROP
COMMIT
"""


LINKS = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -i eth1 -j ACCEPT
-A INPUT -i eth0 -j DROP
-A FORWARD -i eth0 -j DROP
COMMIT
"""
OPEN = """
*filter
:INPUT DROP [0:0]
-A INPUT -j ACCEPT
-A INPUT -j DROP
COMMIT
"""


def facts(text: str) -> Facts:
    """A host with the addresses 192.168.1.10 and 127.0.0.1, and these rules."""
    host = Space(addrs=frozenset({("eth0", "192.168.1.10/24"), ("lo", "127.0.0.1/8")}))
    return Facts(host, rules=parse_rules(text), policies=parse_policies(text))


@pytest.mark.parametrize(
    ("text", "chain", "guard", "who"),
    [
        (UFW, "INPUT", "policy DROP", "ufw"),
        (UFW, "FORWARD", "policy DROP", "by hand"),
        (
            FIREWALLD,
            "INPUT",
            "-A INPUT -m comment --comment 'the rest' -j REJECT --reject-with icmp-host-prohibited",
            "firewalld",
        ),
        (FIREWALLD, "FORWARD", None, "by hand"),
        (FAIL2BAN, "INPUT", None, "by hand"),
        (OURS, "FORWARD", None, "by hand"),
        (BEHIND, "INPUT", "-A guard -j DROP", "by hand"),
        (LINKS, "INPUT", "-A INPUT -i eth0 -j DROP", "by hand"),
        (LINKS, "FORWARD", None, "by hand"),
        (OPEN, "INPUT", None, "by hand"),
        ("", "INPUT", None, "by hand"),
    ],
)
def test_what_turns_everybody_away_and_who_set_it_up(text: str, chain: str, guard: str | None, who: str) -> None:
    assert firewall.guard(facts(text), chain) == guard
    assert firewall.by_whom(facts(text), chain).startswith(who)


def test_a_table_of_nftables_turns_away_what_iptables_lets_in() -> None:
    hooks = (Hook("inet", "filter", "forward", "forward"), Hook("inet", "filter", "in", "input", "policy drop"))
    for text in ("", OPEN):
        assert firewall.guard(replace(facts(text), hooks=hooks)) == "policy drop in nftables chain inet filter in"
        assert firewall.guard(replace(facts(text), hooks=hooks), "FORWARD") is None
    assert firewall.guard(replace(facts(UFW), hooks=hooks)) == "policy DROP"


def test_two_who_set_a_chain_up_are_both_named() -> None:
    text = "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n:KUBE-FORWARD - [0:0]\n"
    text += "-A FORWARD -j KUBE-FORWARD\n-A FORWARD -j DOCKER-USER\nCOMMIT\n"
    assert firewall.by_whom(facts(text), "FORWARD") == "Docker and Kubernetes"


JUMP = ("-m", "comment", "--comment", "netwrap:host", "-j", "NETWRAP")
OUR_JUMP = "-A FORWARD -m comment --comment netwrap:host -j NETWRAP"


def forward(*rules: str, policy: str = "ACCEPT") -> Facts:
    """A FORWARD chain of these rules; DOCKER, ONE and TWO are chains of others, made where a rule is in them."""
    lines = [f":FORWARD {policy} [0:0]", *(f":{name} - [0:0]" for name in ("NETWRAP", "DOCKER", "ONE", "TWO"))]
    return facts("\n".join(["*filter", *lines, *rules, "COMMIT", ""]))


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([OUR_JUMP], None),
        ([OUR_JUMP, "-A FORWARD -j DROP"], None),
        (["-A FORWARD -j DROP", OUR_JUMP], "-A FORWARD -j DROP"),
        (
            ['-A FORWARD -m comment --comment "no way" -j REJECT --reject-with icmp-port-unreachable', OUR_JUMP],
            "-A FORWARD -m comment --comment 'no way' -j REJECT --reject-with icmp-port-unreachable",
        ),
        (["-A FORWARD -i eth0 -j DROP", OUR_JUMP], None),
        (["-A FORWARD -i eth0 -j ACCEPT", "-A FORWARD -j DROP", OUR_JUMP], "-A FORWARD -j DROP"),
        (["-A FORWARD -j ACCEPT", "-A FORWARD -j DROP", OUR_JUMP], None),
        (["-A FORWARD -j DOCKER", OUR_JUMP, "-A DOCKER -j DROP"], "-A DOCKER -j DROP"),
        (["-A FORWARD -i eth0 -j DOCKER", OUR_JUMP, "-A DOCKER -j DROP"], None),
        (["-A FORWARD -j DOCKER", OUR_JUMP, "-A DOCKER -j RETURN", "-A DOCKER -j DROP"], None),
        (["-A FORWARD -j DOCKER", OUR_JUMP, "-A DOCKER -j ACCEPT", "-A DOCKER -j DROP"], None),
        (["-A FORWARD -j ONE", OUR_JUMP, "-A ONE -j TWO", "-A TWO -j DROP"], "-A TWO -j DROP"),
        (["-A FORWARD -j ONE", OUR_JUMP, "-A ONE -g TWO", "-A ONE -j DROP"], None),
        (["-A FORWARD -j ONE", OUR_JUMP, "-A ONE -g TWO", "-A TWO -j DROP"], "-A TWO -j DROP"),
        (["-A FORWARD -j ONE", "-A FORWARD -j DROP", OUR_JUMP], "-A FORWARD -j DROP"),
        (["-A FORWARD -j LOG --log-prefix seen", OUR_JUMP], None),
        (["-A FORWARD -j NETWRAP", "-A FORWARD -j DROP", OUR_JUMP], "-A FORWARD -j DROP"),
    ],
)
def test_only_what_comes_in_front_of_a_rule_turns_everybody_away_before_it(rules: list[str], found: str | None) -> None:
    assert firewall.turned_away_before(forward(*rules), "FORWARD", JUMP) == found
    assert firewall.turned_away_before(forward(*rules, policy="DROP"), "FORWARD", JUMP) == found


@pytest.mark.parametrize("rules", [["-A FORWARD -j RETURN", OUR_JUMP], ["-A FORWARD -g ONE", OUR_JUMP], []])
def test_a_rule_that_is_never_met_leaves_it_to_the_policy(rules: list[str]) -> None:
    assert firewall.turned_away_before(forward(*rules), "FORWARD", JUMP) is None
    assert firewall.turned_away_before(forward(*rules, policy="DROP"), "FORWARD", JUMP) == "policy DROP"


def test_a_rule_is_met_however_it_is_printed() -> None:
    jump = "-A FORWARD -j NETWRAP -m comment --comment netwrap:host"
    assert firewall.turned_away_before(forward(jump, "-A FORWARD -j DROP"), "FORWARD", JUMP) is None


THEIRS = "-p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80"


@pytest.mark.parametrize(
    ("rule", "spec", "taken"),
    [
        (THEIRS, "8088:80", True),
        (THEIRS, "8000-8090:8000-8090", True),
        (THEIRS, "127.0.0.1:8088:80", True),
        (THEIRS, "8089:80", False),
        (THEIRS, "8088:80/udp", False),
        (THEIRS.replace("8088", "8000:8100"), "8088:80", True),
        (f"-d 192.168.1.10/32 {THEIRS}", "192.168.1.10:8088:80", True),
        (f"-d 192.168.1.10/32 {THEIRS}", "192.168.1.11:8088:80", False),
        (f"-d 192.168.1.10/32 {THEIRS}", "8088:80", True),
        (f"-d 192.168.0.0/16 {THEIRS}", "8088:80", True),
        (f"-d 192.168.1.99/32 {THEIRS}", "8088:80", False),
        (f"! -d 127.0.0.0/8 {THEIRS}", "8088:80", True),
        (f"-m comment --comment netwrap:c1/a {THEIRS}", "8088:80", False),
        (THEIRS.replace("172.17", "10.0").replace(":80", ":81"), "8088:80", True),
        (THEIRS.replace("172.17", "10.0"), "8088:80", False),
        ("-p tcp -m tcp --dport 8088 -j REDIRECT --to-ports 80", "8088:80", True),
        ("-p tcp -m tcp --dport 8088 -j MARK --set-mark 1", "8088:80", False),
        ("-p tcp -j DNAT --to-destination 172.17.0.2", "8088:80", False),
        (f"-d 192.0.1.0/255.0.255.0 {THEIRS}", "8088:80", True),
        (f"-d 192.0.2.0/255.0.255.0 {THEIRS}", "8088:80", False),
        (f"! -d 192.0.1.0/255.0.255.0 {THEIRS}", "192.168.1.10:8088:80", False),
        (f"! -d 192.168.1.10/32 {THEIRS}", "192.168.1.10:8088:80", False),
        (THEIRS.replace("-m tcp --dport 8088", "-m multiport --dports 80,8000:8100"), "8088:80", True),
        (THEIRS.replace("-m tcp --dport 8088", "-m multiport --dports 80,8000:8080"), "8088:80", False),
        (THEIRS.replace("--dport", "! --dport"), "8088:80", False),
        (THEIRS.replace("--dport", "! --dport"), "8087:80", True),
        (f"! -p udp {THEIRS.removeprefix('-p tcp ')}", "8088:80", True),
        (THEIRS.replace("-p tcp", "-p 6"), "8088:80", True),
        (f"-m addrtype ! --dst-type LOCAL {THEIRS}", "8088:80", False),
        (f"-s 203.0.113.0/24 -i eth0 {THEIRS}", "8088:80", True),
        (THEIRS.replace("172.17.0.2:80", "172.17.0.2-172.17.0.9:80-90 --random --persistent"), "8088:80", True),
        ("-p tcp -m tcp --dport 8088 -j DNAT --to-destination :81", "8088:80", True),
        (f"-m set --match-set web dst {THEIRS}", "8088:80", False),
        (f"-m comment --comment -j {THEIRS}", "8088:80", True),
    ],
)
def test_a_port_that_a_rule_of_others_leads_elsewhere_is_found(rule: str, spec: str, taken: bool) -> None:
    text = f"*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A DOCKER {rule}\nCOMMIT\n"
    found = firewall.dnat_of_others(published_port(spec), "10.0.0.2:80", facts(text))
    assert found == (f"-t nat -A DOCKER {rule}" if taken else None)


def test_the_same_rule_in_another_table_is_no_port() -> None:
    text = f"*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {THEIRS}\nCOMMIT\n"
    assert firewall.dnat_of_others(published_port("8088:80"), "10.0.0.2:80", facts(text)) is None


@pytest.mark.parametrize(
    ("chain", "rule", "said"),
    [
        ("PREROUTING", f"-m set --match-set web dst {THEIRS}", True),
        ("DOCKER", f"-m set ! --match-set web dst {THEIRS}", True),
        ("DOCKER", f"-m iprange --dst-range 192.168.1.1-192.168.1.20 {THEIRS}", True),
        ("DOCKER", f"-m u32 --u32 6&0xFF=0x6 {THEIRS}", True),
        ("DOCKER", f"-m statistic --mode random --probability 0.5 {THEIRS}", True),
        ("DOCKER", f"-d 192.168.1.10/what {THEIRS}", True),
        ("DOCKER", f"-m set --match-set web dst {THEIRS}".replace("8088", "8089"), False),
        ("DOCKER", f"-m set --match-set web dst -d 10.9.9.9/32 {THEIRS}", False),
        ("DOCKER", THEIRS, False),
        ("PREROUTING", "-d 192.168.1.10/32 -j DNAT --to-destination 172.17.0.2", True),
        ("KUBE-SEP-1", "-p tcp -m tcp -j DNAT --to-destination 10.244.0.5:80", False),
    ],
)
def test_a_rule_of_others_that_may_lead_a_port_elsewhere_is_told(chain: str, rule: str, said: bool) -> None:
    seen = facts(f"*nat\n:PREROUTING ACCEPT [0:0]\n:{chain} - [0:0]\n-A {chain} {rule}\nCOMMIT\n")
    assert firewall.dnat_perhaps(published_port("8088:80"), "10.0.0.2:80", seen) == (
        [f"-t nat -A {chain} {rule.replace('6&0xFF=0x6', chr(39) + '6&0xFF=0x6' + chr(39))}"] if said else []
    )


def test_what_a_rule_is_for_is_not_read_out_of_its_comment() -> None:
    rule = ("-p", "tcp", "-m", "comment", "--comment", "-j", "-j", "DROP")
    assert firewall.target(rule) == "DROP"
    assert firewall.value(rule, "--comment") == "-j"
    assert firewall.conditions(rule)
    assert not firewall.conditions(rule[2:])


STRANGE = """! -p tcp 6 -d -s 10.0.0.5/255.0.255.0 0.0.0.0/0 1.2.3.4/33 ::/0 --dport 8088 8000:9000 --dports 1,2:3,x :
-m multiport set --match-set -j -g DNAT REDIRECT DROP ONE --to-destination --comment -i lo --u32 --dst-type LOCAL"""
WORDS = st.one_of(st.sampled_from(STRANGE.split()), st.text(max_size=5))
RULES = st.lists(st.lists(WORDS, max_size=12).map(tuple), max_size=4)


@given(
    st.lists(st.lists(WORDS, max_size=12).map(tuple), max_size=4), st.sampled_from(["8088:80", "1-65535:1-65535/udp"])
)
def test_no_rule_of_others_is_too_strange(rules: list[tuple[str, ...]], spec: str) -> None:
    known = {
        ("nat", "PREROUTING"): tuple(rules),
        ("filter", "INPUT"): tuple(rules),
        ("filter", "FORWARD"): tuple(rules),
    }
    seen = replace(facts(""), rules=known)
    for port in (published_port(spec), replace(published_port(spec), host_ip=IPv4Address("192.168.1.10"))):
        assert isinstance(firewall.dnat_of_others(port, "10.0.0.2:80", seen), str | None)
        assert isinstance(firewall.dnat_perhaps(port, "10.0.0.2:80", seen), list)
    for chain in ("INPUT", "FORWARD"):
        firewall.guard(seen, chain)
        firewall.by_whom(seen, chain)
        firewall.turned_away_before(seen, chain, rules[0] if rules else ())
