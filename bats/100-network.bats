#!/usr/bin/env bats
# Networks: create, list, inspect, remove.

load helpers

setup() { host_up; }
teardown() { host_down; }

# Creates and removes a network and compares the kernel's state with the one before.
comes_and_goes() {
    local before
    before=$(kernel_state)
    netwrap network create --quiet testbridge
    [ "$(host cat /proc/sys/net/ipv4/ip_forward)" = 1 ]
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

subnet_of() { netwrap network inspect "$1" | jq -r .subnet; }
state_of() { netwrap network inspect "$1" | jq -r .state; }

@test "create prints the name; list and inspect show what the contract names" {
    nw network create --subnet 10.0.0.1/24 testbridge
    [ "$CODE" -eq 0 ]
    [ "$OUT" = testbridge ]
    grep -q '^+ ip addr add 10.0.0.1/24 dev testbridge$' <<<"$ERR"
    container
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    nw network list
    [ "$(wc -l <<<"$OUT")" -eq 2 ]
    [ "$(awk 'NR == 1 {$1 = $1; print}' <<<"$OUT")" = "NAME SUBNET GATEWAY DRIVER BRIDGE CONTAINERS STATE" ]
    [ "$(awk 'NR == 2 {$1 = $1; print}' <<<"$OUT")" = "testbridge 10.0.0.0/24 10.0.0.1 bridge testbridge 1 up" ]
    [ -z "$ERR" ]
    nw network inspect testbridge
    jq -e '(.name, .bridge) == "testbridge" and .driver == "bridge" and .subnet == "10.0.0.0/24" and .gateway == "10.0.0.1"
        and .mtu == 1500 and .internal == false and .state == "up" and .links == []' <<<"$OUT"
    jq -e '.endpoints | length == 1 and .[0].name == "web" and .[0].ip == "10.0.0.2"' <<<"$OUT"
    same "$OUT" "$(netwrap network list --json | jq '.[0]' --indent 2)"
}

@test "without --subnet a free /24 is chosen that overlaps no route, address or network" {
    local first second third fourth
    host ip link add name other type bridge
    host ip link set dev other up
    netwrap network create --quiet a
    first=$(subnet_of a)
    netwrap network remove --quiet a
    host ip route add "${first%.*.*}.0.0/17" dev other
    netwrap network create --quiet a
    second=$(subnet_of a)
    netwrap network remove --quiet a
    host ip addr add "${second%.*}.200/26" dev other
    netwrap network create --quiet a
    third=$(subnet_of a)
    netwrap network create --quiet b
    fourth=$(subnet_of b)
    echo "$first $second $third $fourth"
    python3 -c 'import ipaddress, itertools, sys
first, *others = map(ipaddress.ip_network, sys.argv[1:])
for a, b in itertools.combinations([first.supernet(new_prefix=17), *others], 2):
    assert not a.overlaps(b), (a, b)
assert all(n.prefixlen == 24 and n.is_private for n in others)' "$first" "$second" "$third" "$fourth"
}

@test "the kernel is as it was when the last network goes" {
    comes_and_goes
    host sysctl -q net.ipv4.conf.all.accept_redirects=0
    comes_and_goes
    host ip link add name other type bridge
    host ip link set dev other up
    host sysctl -q net.ipv4.conf.lo.forwarding=1 net.ipv4.conf.other.forwarding=1 net.ipv4.conf.default.forwarding=1
    comes_and_goes
    host sysctl -q net.ipv4.ip_forward=1
    comes_and_goes
    [ "$(host cat /proc/sys/net/ipv4/ip_forward)" = 1 ]
}

@test "of several networks only the last takes the host's settings back" {
    local before
    before=$(kernel_state)
    netwrap network create --quiet a
    netwrap network create --quiet b
    netwrap network remove --quiet a
    [ "$(host cat /proc/sys/net/ipv4/ip_forward)" = 1 ]
    netwrap network create --quiet a
    nw network remove b a
    [ "$CODE" -eq 0 ]
    [ "$OUT" = $'b\na' ]
    same "$before" "$(kernel_state)"
}

@test "the gateway and the range of addresses are as asked" {
    local before pids=()
    before=$(kernel_state)
    netwrap network create --quiet --subnet 10.0.0.0/24 --gateway 10.0.0.254 --ip-range 10.0.0.252/30 testbridge
    [ "$(netwrap network inspect testbridge | jq -r .gateway)" = 10.0.0.254 ]
    host ip -4 -o addr show dev testbridge | grep -q ' 10.0.0.254/24 '
    container
    pids+=("$PID")
    [ "$(netwrap connect --quiet --net testbridge --pid "$PID")" = 10.0.0.252 ]
    at "$PID" ip route show default | grep -q '^default via 10.0.0.254 dev eth0'
    at "$PID" ping -c 1 -W 10 10.0.0.254
    container
    pids+=("$PID")
    [ "$(netwrap connect --quiet --net testbridge --pid "$PID")" = 10.0.0.253 ]
    container
    pids+=("$PID")
    refused 1 10.0.0.252/30 connect --net testbridge --pid "$PID" # exhausted: .254 is the gateway, .255 the broadcast address
    netwrap network remove --quiet --force testbridge
    end "${pids[@]}"
    same "$before" "$(kernel_state)"
}

@test "the MTU is on the bridge, the veth and eth0; without --mtu it is the default route's" {
    local veth
    container
    netwrap network create --quiet --mtu 1400 testbridge
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    veth=$(netwrap ps --json | jq -r '.[0].veth')
    [ "$(host cat /proc/sys/net/ipv4/conf/testbridge/forwarding)" = 1 ]
    host ip -o link show dev testbridge | grep -q ' mtu 1400 '
    host ip -o link show dev "$veth" | grep -q ' mtu 1400 '
    at "$PID" ip -o link show dev eth0 | grep -q ' mtu 1400 '
    [ "$(netwrap network inspect testbridge | jq .mtu)" = 1400 ]
    machine wan 203.0.113.2/24 203.0.113.1/24
    host ip link set dev wan mtu 1280
    host ip route add default via 203.0.113.1
    netwrap network create --quiet second
    [ "$(netwrap network inspect second | jq .mtu)" = 1280 ]
    host ip route change default via 203.0.113.1 mtu 1270
    netwrap network create --quiet third
    [ "$(netwrap network inspect third | jq .mtu)" = 1270 ]
}

# mtu_is MTU WHEN: a network made now has that.
mtu_is() {
    netwrap network create --quiet way
    local got
    got=$(netwrap network inspect way | jq .mtu)
    netwrap network remove --quiet way
    [ "$got" = "$1" ] || { echo "MTU $got, not $1: $2" >&2; return 1; }
}

@test "the way out is the kernel's: no table that no rule asks, the lowest metric, what a VPN puts over it, both of two ways" {
    machine wan 203.0.113.2/24 203.0.113.1/24
    machine other 198.51.100.2/24 198.51.100.1/24
    host ip link set dev wan mtu 1400
    host ip link set dev other mtu 1300
    host ip route add default via 198.51.100.1 dev other table 10 # listed before main's
    mtu_is 1500 "no way out"
    host ip route add default via 203.0.113.1 dev wan metric 200
    mtu_is 1400 "the only route of main's"
    [ "$(unprivileged netwrap network create --dry-run way | grep -c 'mtu 1400')" = 1 ]
    host ip rule add from all lookup 10 priority 100
    mtu_is 1300 "a rule asks table 10 first"
    host ip rule del from all lookup 10 priority 100
    host ip route add default via 198.51.100.1 dev other metric 300
    mtu_is 1400 "the other has a higher metric"
    host ip route add default via 198.51.100.1 dev other metric 100
    mtu_is 1300 "the other has a lower metric"
    host ip route add unreachable default metric 50
    mtu_is 1500 "nothing gets out"
    host ip route del unreachable default metric 50
    host ip route replace default metric 100 nexthop via 203.0.113.1 dev wan nexthop via 198.51.100.1 dev other
    mtu_is 1300 "either may be taken"
    host ip link set dev other down
    mtu_is 1400 "only one of the two is left"
    host ip link add name vpn type bridge
    host ip addr add 10.99.0.1/32 dev vpn
    host ip link set dev vpn mtu 1200
    host ip link set dev vpn up
    host ip route add 0.0.0.0/1 dev vpn
    host ip route add 128.0.0.0/1 dev vpn
    mtu_is 1200 "a VPN's two halves"
    host ip route add default dev vpn mtu 1100 table 11
    host ip rule add not fwmark 51820 lookup 11
    mtu_is 1100 "what bears no mark goes by the VPN"
}

@test "an internal network has no way out and none in, but its containers reach each other" {
    local before wan c1 c2 free
    machine wan 203.0.113.2/24 203.0.113.1/24
    wan=$PID
    at "$wan" ip route add 10.0.0.0/8 via 203.0.113.2
    container
    c1=$PID
    container
    c2=$PID
    container
    free=$PID
    before=$(kernel_state)
    netwrap network create --quiet --subnet 10.0.0.0/24 --internal closed
    netwrap network create --quiet --subnet 10.1.0.0/24 open
    [ "$(netwrap network inspect closed | jq .internal)" = true ]
    netwrap connect --quiet --net closed --pid "$c1" --name c1
    netwrap connect --quiet --net closed --pid "$c2" --name c2
    netwrap connect --quiet --net open --pid "$free" --name free
    at "$c1" ping -c 1 -W 10 10.0.0.3
    at "$free" ping -c 1 -W 10 203.0.113.1
    at "$c1" sh -c '! ip route show default | grep .'
    at "$c1" ip route add default via 10.0.0.1 # even where it helps itself
    run at "$c1" ping -c 1 -W 2 203.0.113.1
    [ "$status" -ne 0 ]
    run at "$c1" ping -c 1 -W 2 10.1.0.2
    [ "$status" -ne 0 ]
    run at "$wan" ping -c 1 -W 2 10.0.0.2
    [ "$status" -ne 0 ]
    run at "$free" ping -c 1 -W 2 10.0.0.2
    [ "$status" -ne 0 ]
    at "$c1" ip route del default
    refused 2 closed publish c1 8080:80
    netwrap network remove --quiet --force closed open
    same "$before" "$(kernel_state)"
}

@test "a name longer than an interface's gets the bridge br- and 8 hex digits" {
    local before bridge name=a-network-with-a-name-of-more-than-15-characters
    before=$(kernel_state)
    netwrap network create --quiet abcdefghijklmno # 15 fit
    [ "$(netwrap network inspect abcdefghijklmno | jq -r .bridge)" = abcdefghijklmno ]
    nw network create --quiet "$name"
    [ "$OUT" = "$name" ]
    bridge=$(netwrap network inspect "$name" | jq -r .bridge)
    [[ $bridge =~ ^br-[0-9a-f]{8}$ ]]
    host ip link show dev "$bridge"
    container
    netwrap connect --quiet --net "$name" --pid "$PID" -p 8080:80
    at "$PID" ping -c 1 -W 10 "$(netwrap network inspect "$name" | jq -r .gateway)"
    netwrap network remove --quiet --force "$name" abcdefghijklmno
    end "$PID"
    same "$before" "$(kernel_state)"
}

@test "names with dots and names that look like keywords of ip are ordinary names" {
    local before name
    before=$(kernel_state)
    container
    for name in eth0.7 br dev; do
        netwrap network create --quiet "$name"
        netwrap connect --quiet --net "$name" --pid "$PID" --name up -p 8080:80
        [ "$(state_of "$name")" = up ]
        netwrap network remove --quiet --force "$name"
    done
    end "$PID"
    same "$before" "$(kernel_state)"
}

@test "a network in use goes with --force only, and its containers' other networks stay" {
    local before
    container
    before=$(kernel_state)
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    netwrap connect --quiet --net a --pid "$PID" --name web -p 8080:80
    netwrap connect --quiet --net b --pid "$PID"
    refused 2 web network remove a
    nw network remove --force --quiet a
    [ "$CODE" -eq 0 ]
    [ "$OUT" = a ]
    [ "$(netwrap ps --json | jq -r '.[].net')" = b ]
    at "$PID" ping -c 1 -W 10 10.0.1.1
    netwrap network remove --force --quiet b
    [ "$(netwrap ps --json)" = '[]' ]
    same "$before" "$(kernel_state)"
}

@test "options stand before or after the arguments" {
    local before
    before=$(kernel_state)
    netwrap network create a --subnet 10.0.0.1/24 --quiet
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    container
    netwrap connect --pid "$PID" --name web --quiet --net a
    netwrap publish web 8080:80 --quiet --net a
    netwrap unpublish --quiet web --net a 8080:80
    netwrap disconnect web --net a --quiet
    netwrap network remove a --quiet b
    end "$PID"
    same "$before" "$(kernel_state)"
}

@test "STATE tells a network that stands from one that drifted and one that is down" {
    local before
    before=$(kernel_state)
    netwrap network create --quiet testbridge
    [ "$(state_of testbridge)" = up ]
    host sysctl -q net.ipv4.ip_forward=0
    [ "$(state_of testbridge)" = drifted ]
    host sysctl -q net.ipv4.ip_forward=1
    [ "$(state_of testbridge)" = up ]
    # shellcheck disable=SC2016
    host bash -c 'iptables -t nat -S POSTROUTING | grep -e "-A.*netwrap" | sed s/-A/-D/ | xargs iptables -t nat'
    [ "$(state_of testbridge)" = drifted ]
    netwrap network list | grep -q ' drifted$'
    host ip link del dev testbridge
    [ "$(state_of testbridge)" = down ]
    container
    nw connect --net testbridge --pid "$PID"
    [ "$CODE" -eq 1 ]
    grep -q "^netwrap: .*'testbridge' is down" <<<"$ERR"
    end "$PID"
    nw network remove testbridge
    [ "$CODE" -eq 0 ]
    same "$before" "$(kernel_state)"
}

@test "an ordinary user may list, ps, log and dry-run on root's state" {
    local words before
    unprivileged netwrap --version || skip "an ordinary user may not run $NETWRAP"
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    [ "$(host stat -c %a /run/netwrap)" = 755 ]
    [ "$(host stat -c %a /run/netwrap/netwrap.db)" = 644 ]
    unprivileged netwrap network list | grep -q '^testbridge .* up$'
    [ "$(unprivileged netwrap network inspect testbridge | jq -r '.endpoints[0].ip')" = 10.0.0.2 ]
    [ "$(unprivileged netwrap ps --json | jq -r '.[0].name')" = web ]
    [ "$(unprivileged netwrap log --json | jq length)" -eq 2 ]
    unprivileged netwrap log 1 | grep -q 'ip link add name testbridge'
    container
    before=$(kernel_state)
    for words in "network create new --dry-run" "connect --dry-run --net testbridge --pid $PID -p 8080:80" \
        "publish web 8080:80 --dry-run" "disconnect --dry-run web" "network remove --force testbridge --dry-run" \
        "undo --dry-run" "run --net testbridge --dry-run -- true"; do
        echo "$words"
        # shellcheck disable=SC2086
        unprivileged netwrap $words >"$BATS_TEST_TMPDIR/script"
        grep -q '^set -e$' "$BATS_TEST_TMPDIR/script"
        grep -q '^ip ' "$BATS_TEST_TMPDIR/script" || grep -q '^iptables ' "$BATS_TEST_TMPDIR/script"
    done
    same "$before" "$(kernel_state)"
}

@test "where threads cannot be started, at whichever command, a network is made or nothing of it is left" {
    local before n
    before=$(kernel_state)
    mkdir -p "$BATS_TEST_TMPDIR/scarce"
    cat >"$BATS_TEST_TMPDIR/scarce/sitecustomize.py" <<'PYTHON'
import os, threading
left, start = [int(os.environ["THREADS"])], threading.Thread.start
def scarce(thread):
    left[0] -= 1
    if left[0] < 0:
        raise RuntimeError("can't start new thread")
    return start(thread)
threading.Thread.start = scarce
PYTHON
    for n in 0 21 22 23 24; do
        if host env THREADS=$n PYTHONPATH="$BATS_TEST_TMPDIR/scarce" netwrap network create n --quiet; then
            netwrap network remove n --quiet
        fi
        same "$before" "$(kernel_state)"
    done
}
