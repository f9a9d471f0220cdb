#!/usr/bin/env bats
# netwrap check: what packets show, and for what does not work the first hop that breaks. Each fault is made for real.

load helpers

setup() {
    host_up
    machine lan 192.168.50.1/24 192.168.50.2/24
    LAN=$PID
    host ip route add default via 192.168.50.2 # the outside: it knows no way to the containers
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    container
    C1=$PID
    container
    C2=$PID
    netwrap connect --quiet --net a --pid "$C1" --name c1 -p 8080:80 -p 8081:81/udp -p 8082:82/sctp
    netwrap connect --quiet --net a --pid "$C2" --name c2
    container
    netwrap connect --quiet --net b --pid "$PID" --name c3
    serve "$C1" tcp 0.0.0.0 80 c1
    serve "$C1" udp 0.0.0.0 81 c1
    wait_for at "$C1" sh -c 'grep -q ":0050 .* 0A " /proc/net/tcp && grep -q ":0051 " /proc/net/udp'
    V1=$(veth c1)
    V2=$(veth c2)
}
teardown() { host_down; }

veth() { netwrap ps --json | jq -r --arg name "$1" '.[] | select(.name == $name) | .veth'; }

# breaks HOP FROM TO TEXT [NAME…]: check names HOP for that trial, with TEXT, and gives exit code 1; sets FIX.
breaks() {
    local row
    nw check "${@:5}" --json
    row=$(jq -c --arg hop "$1" --arg from "$2" --arg to "$3" --arg text "$4" \
        'first(.[] | select(.from == $from and .to == $to and .works != true and .hop == $hop and (.broken | contains($text))))' <<<"$OUT")
    if [ -z "$row" ] || [ "$CODE" -ne 1 ]; then
        printf 'check does not name %s\n%s\n%s\n' "$*" "$(jq -c '.[] | select(.works != true)' <<<"$OUT")" "$ERR" >&2
        return 1
    fi
    FIX=$(jq -r '.fix // empty' <<<"$row")
}

content() {
    nw check "$@"
    [ "$CODE" -eq 0 ] || { printf '%s\n' "$OUT" >&2 && return 1; }
}

# fault COMMAND HOP FROM TO TEXT [NAME…]: after COMMAND check names it, the fix that it prints works as printed, and all is well.
fault() {
    host bash -c "$1" || { echo "cannot be done: $1" >&2 && return 1; }
    breaks "$2" "$3" "$4" "$5" "${@:6}" || { echo "after: $1" >&2 && return 1; }
    [ -n "$FIX" ] || { echo "no fix after: $1" >&2 && return 1; }
    host bash -c "$FIX" || { echo "the fix fails: $FIX" >&2 && return 1; }
    content "${@:6}" || { echo "after $1 and its fix $FIX" >&2 && return 1; }
}

# unharmed COMMAND BACK: nothing is wrong after COMMAND.
unharmed() {
    host bash -c "$1"
    content || { echo "false alarm after: $1" >&2 && return 1; }
    host bash -c "$2"
}

@test "everything that stands is tried, what must not get through too, and nothing is changed by that" {
    local before
    before=$(kernel_state)
    nw check --json
    [ "$CODE" -eq 0 ]
    [ -z "$ERR" ]
    [ "$(jq -r '.[] | "\(.from) > \(.to) \(.ip) \(.how) \(.works)"' <<<"$OUT" | sort)" = "$(sort <<'EOF'
c1 > c2 10.0.0.3 ping true
c2 > c1 10.0.0.2 ping true
host > c1 10.0.0.2 ping true
host > c2 10.0.0.3 ping true
host > c3 10.0.1.2 ping true
c1 > gateway of a 10.0.0.1 ping true
c2 > gateway of a 10.0.0.1 ping true
c3 > gateway of b 10.0.1.1 ping true
c1 > outside 192.168.50.2 ping true
c2 > outside 192.168.50.2 ping true
c3 > outside 192.168.50.2 ping true
host > c1 by 8080:80/tcp 127.0.0.1 tcp true
host > c1 by 8080:80/tcp 192.168.50.1 tcp true
host > c1 by 8081:81/udp 127.0.0.1 udp true
host > c1 by 8081:81/udp 192.168.50.1 udp true
host > c1 by 8082:82/sctp 127.0.0.1 sctp true
host > c1 by 8082:82/sctp 192.168.50.1 sctp true
c1 > c3 10.0.1.2 isolated true
c3 > c1 10.0.0.2 isolated true
EOF
)" ]
    jq -e 'all(.[]; keys_unsorted == ["from", "to", "ip", "how", "works", "hop", "broken", "fix"])' <<<"$OUT"
    nw check
    [ "$(head -n 1 <<<"$OUT" | xargs)" = "FROM TO IP HOW WORKS BROKEN" ]
    nw check c3 --json
    [ "$(jq -r '.[] | "\(.from) > \(.to)"' <<<"$OUT" | sort | paste -sd,)" = "c1 > c3,c3 > c1,c3 > gateway of b,c3 > outside,host > c3" ]
    nw check b --json
    [ "$(jq length <<<"$OUT")" -eq 5 ]
    refused 2 "no container or network 'nobody'" check nobody
    netwrap network link --quiet a b
    nw check --json
    [ "$CODE" -eq 0 ]
    [ "$(jq -c '[.[] | select(.from == "c3" and .to == "c1" or .from == "c1" and .to == "c3") | .how]' <<<"$OUT")" = '["ping","ping"]' ]
    netwrap network unlink --quiet a b
    same "$before" "$(kernel_state)"
}

@test "what other people's machines are like is no fault" {
    unharmed 'iptables -P FORWARD DROP' 'iptables -P FORWARD ACCEPT'
    unharmed 'iptables -N ufw; iptables -A ufw -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; iptables -A ufw -i a -j ACCEPT; iptables -A ufw -i b -j ACCEPT; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -j ufw; iptables -P INPUT DROP' \
        'iptables -P INPUT ACCEPT; iptables -F INPUT; iptables -F ufw; iptables -X ufw'
    unharmed 'ip route add default via 192.168.50.77 dev lan metric 500; ip route add 10.0.0.0/24 via 192.168.50.2 table 99; ip route add default via 192.168.50.99 table 10' 'ip route del default metric 500; ip route flush table 99; ip route flush table 10'
    unharmed 'ip route del default' 'ip route add default via 192.168.50.2'
    unharmed 'iptables -t nat -D POSTROUTING -s 127.0.0.0/8 -o a -m conntrack --ctstate DNAT -m comment --comment netwrap:a -j MASQUERADE; iptables -t nat -A POSTROUTING -s 127.0.0.0/8 -o a -j MASQUERADE' \
        'iptables -t nat -D POSTROUTING -s 127.0.0.0/8 -o a -j MASQUERADE; netwrap repair --quiet'
    unharmed 'ip netns del c2' 'netwrap repair --quiet' # packets pass: status says that the handle is gone
    if host test -e /proc/sys/net/bridge/bridge-nf-call-iptables; then
        unharmed 'sysctl -q net.bridge.bridge-nf-call-iptables=1' 'sysctl -q net.bridge.bridge-nf-call-iptables=0'
        unharmed 'sysctl -q net.bridge.bridge-nf-call-iptables=0' true
    fi
    if command -v nft >/dev/null; then
        unharmed "nft add table inet g; nft add chain inet g f '{ type filter hook forward priority 10; policy drop; }'; nft add rule inet g f meta oifname '{ a, b, lan }' accept" 'nft delete table inet g'
    fi
    netwrap network remove --quiet --force a b
    nw check --json
    [ "$CODE" -eq 0 ]
    [ "$OUT" = "[]" ]
}

@test "links, addresses, bridges and neighbours: what breaks is named, and the fix works as printed" {
    fault 'ip -n c2 addr del 10.0.0.3/24 dev eth0; ip -n c2 addr add 10.0.0.99/24 dev eth0' address host c2 "addr add 10.0.0.3/24" c2
    fault 'ip -n c2 link set dev eth0 down' link host c2 "ip -n c2 link set dev eth0 up" c2
    fault "ip link set dev $V2 down" link c2 "gateway of a" "$V2 up" c2
    fault "ip link set dev $V2 nomaster" "bridge port" c1 c2 "master a" c2
    fault 'ip link set dev b down' link host c3 "ip link set dev b up" c3
    fault 'ip addr del 10.0.1.1/24 dev b' address c3 "gateway of b" "10.0.1.1/24" c3
    fault "bridge link set dev $V2 state 0" "bridge port" host c2 "$V2 is disabled in a" c2
    fault "bridge link set dev $V1 isolated on; bridge link set dev $V2 isolated on" "bridge port" c1 c2 "isolated from each other" c2
    fault 'ip neigh replace 10.0.0.3 lladdr 02:00:00:00:00:66 dev a nud permanent' neighbour host c2 "02:00:00:00:00:66" c2
    fault 'ip -n c2 neigh replace 10.0.0.1 lladdr 02:00:00:00:00:66 dev eth0 nud permanent' neighbour c2 outside "02:00:00:00:00:66" c2
    fault 'ip -n c2 link set dev eth0 mtu 9000' mtu c2 "gateway of a" "MTU of 9000" c2
    end "$C2"
    breaks process host c2 "c2 is gone" c2
}

@test "routes and settings: what breaks is named, and the fix works as printed" {
    fault 'ip -n c3 route del default' route c3 outside "route add default via 10.0.1.1" c3
    fault 'ip -n c3 route replace default via 10.0.1.99' route c3 outside "goes to 10.0.1.99" c3
    fault 'ip -n c3 route add unreachable 192.168.50.0/24' route c3 outside "unreachable 192.168.50.0/24" c3
    fault 'ip route del 10.0.1.0/24 dev b' route host c3 "no route to 10.0.1.0/24" c3
    fault 'ip route add 10.0.1.2/32 dev lan' route host c3 "10.0.1.2 dev lan" c3
    fault 'ip rule add from 10.0.1.0/24 prio 100 unreachable' route c3 outside "ip rule pref 100 from 10.0.1.0/24" c3
    fault 'ip rule add to 10.0.1.0/24 prio 100 prohibit' route host c3 "ip rule pref 100 to 10.0.1.0/24" c3
    fault 'ip route add blackhole 10.0.1.2' route host c3 "blackhole 10.0.1.2" c3
    fault 'sysctl -q net.ipv4.ip_forward=0' forwarding c3 outside "net.ipv4.conf.all.forwarding is 0" c3
    fault 'sysctl -q net.ipv4.conf.b.forwarding=0' forwarding c3 outside "net.ipv4.conf.b.forwarding is 0" c3
    fault 'sysctl -q net.ipv4.conf.lan.forwarding=0' forwarding c3 outside "net.ipv4.conf.lan.forwarding is 0" c3
    fault 'sysctl -q net.ipv4.conf.a.route_localnet=0' forwarding host "c1 by 8080:80/tcp" "route_localnet" c1
    fault 'ip netns exec c3 sysctl -q net.ipv4.icmp_echo_ignore_all=1' setting host c3 "icmp_echo_ignore_all is 1" c3
}

@test "rules of others, of each table and on each way: the one that takes the packet is named with its removal" {
    fault 'iptables -I FORWARD -i b -j REJECT' rule c3 outside "-A FORWARD -i b -j REJECT" c3
    fault 'iptables -t mangle -I FORWARD -i b -j DROP' rule c3 outside "-t mangle -A FORWARD -i b -j DROP" c3
    fault 'iptables -t mangle -I POSTROUTING -o lan -j DROP' rule c3 outside "-t mangle -A POSTROUTING -o lan" c3
    fault 'iptables -t raw -I PREROUTING -i b -m comment --comment "of a \"friend\"" -j DROP' rule c3 "gateway of b" "-t raw -A PREROUTING -i b" c3
    fault 'iptables -t raw -I PREROUTING -i b -j NOTRACK' rule c3 outside "not tracked" c3
    fault 'iptables -t nat -I POSTROUTING -s 10.0.0.0/8 -j ACCEPT' rule c3 outside "-t nat -A POSTROUTING -s 10.0.0.0/8" c3
    fault 'iptables -I NETWRAP -i b -j DROP' rule c3 outside "-A NETWRAP -i b -j DROP" c3
    fault 'iptables -I FORWARD -m conntrack --ctstate ESTABLISHED -j DROP' rule c3 outside "--ctstate ESTABLISHED" c3
    fault 'iptables -P INPUT DROP' rule c3 "gateway of b" "-P INPUT DROP" c3
    host iptables -P INPUT ACCEPT
    fault 'iptables -I OUTPUT -d 10.0.1.2 -j DROP' rule host c3 "-A OUTPUT -d 10.0.1.2/32" c3
    fault 'iptables -t nat -I OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 9' rule host "c1 by 8080:80/tcp" "-j REDIRECT --to-ports 9" c1
    fault 'ip netns exec c1 iptables -A INPUT -p tcp --dport 80 -j DROP' rule host "c1 by 8080:80/tcp" "--dport 80 -j DROP in c1" c1
    fault 'ip netns exec c1 iptables -A INPUT -p udp -j DROP' rule host "c1 by 8081:81/udp" "-p udp -j DROP in c1" c1
    fault 'ip netns exec c3 iptables -A INPUT -p icmp -j DROP' rule host c3 "-p icmp -j DROP in c3" c3
}

@test "rules of netwrap's own that are gone or stand in another order" {
    fault 'iptables -t nat -F' rule c1 outside "MASQUERADE"
    fault 'iptables -t nat -F OUTPUT' rule host "c1 by 8081:81/udp" "OUTPUT" c1
    fault 'iptables -P FORWARD DROP; iptables -F' rule c3 outside "missing: iptables" c3
    fault 'iptables -D NETWRAP-b -m comment --comment netwrap:b -j DROP; iptables -I NETWRAP-b -m comment --comment netwrap:b -j DROP' rule c3 outside "out of order in NETWRAP-b" c3
}

@test "tables of nftables, bridges' too: what counts is named, what does not is found by what else is ruled out" {
    command -v nft >/dev/null || skip "nft is not installed"
    host nft add table inet g
    host nft add chain inet g f '{ type filter hook forward priority 10; }'
    fault 'nft add rule inet g f ip saddr 10.0.1.0/24 counter drop' rule c3 outside "ip saddr 10.0.1.0/24 drop" c3
    fault 'nft add rule inet g f ip saddr 10.0.1.0/24 drop' rule c3 outside "nftables: ip saddr 10.0.1.0/24 drop in inet g f" c3
    fault "nft add chain inet g f '{ policy drop; }'" rule c3 outside "policy drop in inet g f" c3
    host nft add table bridge g
    host nft add chain bridge g f '{ type filter hook forward priority 0; }'
    fault 'nft add rule bridge g f drop' rule c1 c2 "drop in bridge g f" c2
}

@test "isolation that does not hold is found, with what lets packets through" {
    netwrap network create --quiet --internal --subnet 10.0.2.1/24 i
    container
    netwrap connect --quiet --net i --pid "$PID" --name c4
    fault 'iptables -I FORWARD -j ACCEPT' isolation c1 c3 "-A FORWARD -j ACCEPT" b
    fault 'iptables -I NETWRAP-b -i a -p tcp -j ACCEPT' isolation c1 c3 "-p tcp -j ACCEPT" b
    fault 'iptables -D NETWRAP-b -m comment --comment netwrap:b -j DROP' isolation c1 c3 "-j DROP" b
    fault 'iptables -D FORWARD -m comment --comment netwrap:host -j NETWRAP' isolation c3 c1 "-j NETWRAP" b
    fault 'iptables -t mangle -I FORWARD -j ACCEPT' isolation c4 outside "-t mangle -A FORWARD -j ACCEPT" i
    fault 'iptables -t mangle -F FORWARD' isolation c1 c4 "mangle" i
}

@test "the outside: a link that is down, a next machine that does not answer, no default route" {
    fault 'ip link set dev lan down' link c3 outside "lan (192.168.50.1/24) is down" c3 # the route went with it
    host ip route replace default via 192.168.50.2
    content c3
    host ip route replace default via 192.168.50.77
    breaks outside c3 outside "192.168.50.77" c3
    host ip route del default
    nw check c3 --json
    [ "$CODE" -eq 0 ]
    jq -e 'any(.[]; .to == "outside" and .works == null and (.broken | contains("no default route")))' <<<"$OUT"
}

@test "the service does not listen, or not where the port leads; of a range one is enough" {
    netwrap publish --quiet c2 8083:83 8084:84/udp 9000-9002:90-92
    serve "$C2" tcp 127.0.0.1 83 c2
    serve "$C2" udp 127.0.0.1 84 c2
    serve "$C2" tcp 0.0.0.0 91 c2
    wait_for at "$C2" sh -c 'grep -q ":0053 .* 0A " /proc/net/tcp && grep -q ":0054 " /proc/net/udp && grep -q ":005B .* 0A " /proc/net/tcp'
    breaks service host "c2 by 8083:83/tcp" "port 83/tcp in c2 (10.0.0.3), only on 127.0.0.1" c2
    breaks service host "c2 by 8084:84/udp" "port 84/udp in c2 (10.0.0.3), only on 127.0.0.1" c2
    jq -e 'all(.[]; .to != "c2 by 9000-9002:90-92/tcp" or .works)' <<<"$OUT"
}

@test "a datagram of check's never reaches the service" {
    at "$C2" python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 85))
print(s.recv(99), flush=True)' >"$BATS_TEST_TMPDIR/got" 2>&1 3>&- &
    netwrap publish --quiet c2 8085:85/udp
    wait_for at "$C2" grep -q ":0055 " /proc/net/udp
    nw check c2 --json
    jq -e 'all(.[]; .to != "c2 by 8085:85/udp" or .works)' <<<"$OUT"
    [ ! -s "$BATS_TEST_TMPDIR/got" ]
    ask "$LAN" udp 192.168.50.1 8085 1 || true
    wait_for test -s "$BATS_TEST_TMPDIR/got" # it did listen
}

@test "somebody else who answers for an address does not count" {
    netwrap publish --quiet c2 192.168.50.1:8086:86
    serve "$C2" tcp 0.0.0.0 86 c2
    wait_for at "$C2" grep -q ":0056 .* 0A " /proc/net/tcp
    content c2
    host ip addr del 192.168.50.1/24 dev lan
    host ip addr add 192.168.50.3/24 dev lan
    host ip route replace default via 192.168.50.2
    at "$LAN" ip addr add 192.168.50.1/24 dev eth0
    serve "$LAN" tcp 192.168.50.1 8086 another
    wait_for at "$LAN" grep -q ":1F96 .* 0A " /proc/net/tcp
    breaks address host "c2 by 192.168.50.1:8086:86/tcp" "192.168.50.1 is no address of this host" c2
}

@test "in a sandbox ports are tried from the LAN: who may get in, and who must not" {
    cd "$ROOT"
    # shellcheck disable=SC2016
    run env PATH="$(dirname "$NETWRAP"):$PATH" "$NETWRAP" sandbox --lan -- bash -c 'set -e
        netwrap network create -q --subnet 10.0.0.1/24 a
        for port in 80 81; do unshare --net python3 bats/peer serve tcp 0.0.0.0 $port "c$port" >/dev/null 2>&1 & echo $!; done >/run/pids
        sleep 0.3; read -r one </run/pids; two=$(tail -n 1 /run/pids)
        netwrap connect -q --net a --pid "$one" --name c1 -p 8080:80; netwrap connect -q --net a --pid "$two" --name c2
        netwrap publish -q c2 8081:81 --allow-from 192.168.50.20
        until ip netns exec c1 grep -q ":0050 .* 0A " /proc/net/tcp && ip netns exec c2 grep -q ":0051 .* 0A " /proc/net/tcp; do sleep 0.1; done
        netwrap check --json | jq -r ".[] | select(.from == \"neighbour\" or .from == \"internet\") | \"\(.from) \(.to) \(.how) \(.works)\"" | sort
        iptables -t nat -I PREROUTING -p tcp --dport 8080 -j DNAT --to 10.9.9.9:9
        iptables -t nat -I PREROUTING -p tcp --dport 8081 -j DNAT --to 10.0.0.3:81
        netwrap check --json | jq -r ".[] | select(.works == false) | \"\(.from) \(.to) \(.hop) \(.fix)\"" | sort'
    [ "$status" -eq 0 ]
    same "$(grep -v '^[0-9.]*$' <<<"$output" | grep -v '^a$')" "internet c1 by 8080:80/tcp tcp true
internet c2 by 8081:81/tcp isolated true
neighbour c1 by 8080:80/tcp tcp true
neighbour c1 isolated true
neighbour c2 by 8081:81/tcp tcp true
internet c1 by 8080:80/tcp rule iptables -w -t nat -D PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:9
internet c2 by 8081:81/tcp isolation iptables -w -t nat -D PREROUTING -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.0.0.3:81
neighbour c1 by 8080:80/tcp rule iptables -w -t nat -D PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:9"
}

@test "without root it cannot try, and says so" {
    run unprivileged netwrap check
    [ "$status" -eq 1 ]
    [[ $output == *"needs root"*"hint: sudo netwrap check"* ]]
}
