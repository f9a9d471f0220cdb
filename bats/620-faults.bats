#!/usr/bin/env bats
# Faults that nobody has built check for: it names what is so, or says that it does not know; never something else.

load helpers

setup() {
    host_up
    machine lan 192.168.50.1/24 192.168.50.2/24
    LAN=$PID
    host ip route add default via 192.168.50.2
    netwrap network create --quiet --subnet 172.20.5.1/26 a
    netwrap network create --quiet --subnet 10.99.0.129/25 b
    container
    C1=$PID
    netwrap connect --quiet --net a --pid "$C1" --name c1 -p 7000-7002:70-72
    container
    netwrap connect --quiet --net a --pid "$PID" --name c2
    container
    netwrap connect --quiet --net b --pid "$PID" --name c3
    serve "$C1" tcp 0.0.0.0 70 c1
    serve "$C1" tcp 0.0.0.0 71 c1
    wait_for at "$C1" sh -c 'grep -q ":0046 .* 0A " /proc/net/tcp && grep -q ":0047 .* 0A " /proc/net/tcp'
    V2=$(netwrap ps --json | jq -r '.[] | select(.name == "c2") | .veth')
}
teardown() { host_down; }

# only NAME TEXT COMMAND BACK: after COMMAND, whatever fails for NAME is put down to TEXT, or its cause is unknown; the
# fix that is printed with TEXT works as printed.
only() {
    local fix rows
    host bash -c "$3" || { echo "cannot be done: $3" >&2 && return 1; }
    nw check "$1" --json
    rows=$(jq -c '.[] | select(.works != true)' <<<"$OUT")
    fix=$(jq -r --arg text "$2" 'first(.[] | select(.works == false and (.broken | contains($text)))).fix // "false"' <<<"$OUT")
    if [ "$CODE" -ne 1 ] || [ -z "$fix" ] ||
        ! jq -e --arg text "$2" 'all(.[]; .works != false or .hop == "unknown" or (.broken | contains($text)))' <<<"$OUT" >/dev/null; then
        printf 'after %s check does not say %s\n%s\n%s\n' "$3" "$2" "$rows" "$ERR" >&2
        return 1
    fi
    host bash -c "$fix" || { echo "after $3 the fix fails: $fix" >&2 && return 1; }
    nw check "$1"
    [ "$CODE" -eq 0 ] || { printf 'after %s and its fix %s\n%s\n' "$3" "$fix" "$OUT" >&2 && return 1; }
    host bash -c "$4"
}

@test "what breaks links, routes and rules is named as it is, and its fix works" {
    only c2 "ARP is off on eth0 of c2" 'ip -n c2 link set dev eth0 arp off' true
    only c2 "ARP is off on a of this host" 'ip link set dev a arp off; ip neigh flush all' true
    only c2 "MTU of 68" "ip link set dev $V2 mtu 68" true
    only c3 "192.168.50.0/24 via 10.99.0.200 dev eth0" 'ip -n c3 route add 192.168.50.0/24 via 10.99.0.200' true
    only c3 "10.99.0.130" 'ip route add local 10.99.0.130 dev lo table local' true
    only c3 "has the address 10.99.0.130 itself" 'ip addr add 10.99.0.130/32 dev lan' true
    only c3 "iif b blackhole" 'ip rule add pref 50 iif b blackhole' true
    only c3 "blackhole default table 79" \
        'iptables -t mangle -A PREROUTING -i b -j MARK --set-mark 0x90/0xf0; ip route add blackhole default table 79; ip rule add pref 51 fwmark 0x90/0xf0 lookup 79' \
        'ip rule del pref 51; iptables -t mangle -F PREROUTING'
    only c3 "in a zone of their own" 'iptables -t raw -I PREROUTING -i b -j CT --zone 7' true
    only c3 "--ttl-set 1" 'iptables -t mangle -I PREROUTING -i b -j TTL --ttl-set 1' true
    only c3 "--to-destination 192.168.50.99" 'iptables -t nat -I PREROUTING -i b -p icmp -j DNAT --to-destination 192.168.50.99' true
    only c1 "port 7001: -t mangle -A POSTROUTING" 'iptables -t mangle -I POSTROUTING -o a -p tcp --dport 71 -j DROP' true
}

@test "rules and routes of others that the packets do meet, and that break nothing, are not blamed for what does" {
    local off='sysctl -q net.ipv4.conf.b.forwarding=0'
    host ip rule add pref 60 fwmark 0x80000/0xff0000 blackhole
    host iptables -t mangle -A PREROUTING -i b -j MARK --set-mark 0x7
    only c3 "forwarding is 0" "$off" 'iptables -t mangle -F PREROUTING'
    host iptables -t mangle -A PREROUTING -i b -j TTL --ttl-set 65
    only c3 "forwarding is 0" "$off" 'iptables -t mangle -F PREROUTING'
    host ip rule add pref 61 iif lan to 10.1.0.0/16 prohibit
    host ip rule add pref 62 iif a blackhole
    only c3 "unreachable 192.168.50.0/24 table 80" \
        'ip route add unreachable 192.168.50.0/24 table 80; ip rule add pref 63 iif b lookup 80' 'ip rule del pref 62; ip rule del pref 63'
    host iptables -t nat -N THEIRS
    host iptables -t nat -A THEIRS -j RETURN
    host iptables -t nat -I OUTPUT -j THEIRS
    only c1 "missing: iptables" 'iptables -t nat -D OUTPUT -m addrtype --dst-type LOCAL -m comment --comment netwrap:host -j NETWRAP 2>/dev/null || iptables -t nat -S OUTPUT | sed -n "s/^-A \(.*netwrap.*\)/iptables -t nat -D \1/p" | bash' \
        'iptables -t nat -D OUTPUT -j THEIRS'
    host ip -n c3 route add default via 10.99.0.200 metric 500
    only c3 "-p icmp -j DROP in c3" 'ip netns exec c3 iptables -A INPUT -p icmp -j DROP' true
}

@test "a next machine that answers no pings shows nothing of containers, and breaks nothing" {
    at "$LAN" sysctl -q net.ipv4.icmp_echo_ignore_all=1
    nw check c3 --json
    [ "$CODE" -eq 0 ]
    jq -e 'any(.[]; .to == "outside" and .works == null and (.broken | contains("answers this host no pings either")))' <<<"$OUT"
    host ip route replace blackhole default
    nw check c3 --json
    jq -e 'any(.[]; .to == "outside" and .broken == "the default route of this host is blackhole")' <<<"$OUT"
}
