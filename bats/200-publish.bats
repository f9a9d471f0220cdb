#!/usr/bin/env bats
# Published ports and the way out, with real packets.

load helpers

setup() { host_up; }
teardown() { host_down; }

# A LAN machine 192.168.50.2 (PID: $LAN) and an internet machine 203.0.113.1 ($NET) around the host; the latter knows
# the way to the LAN and none to the containers. Containers $C1 and $C2 with their networks still to come.
around() {
    machine lan 192.168.50.1/24 192.168.50.2/24
    LAN=$PID
    at "$LAN" ip route add default via 192.168.50.1
    machine wan 203.0.113.2/24 203.0.113.1/24
    NET=$PID
    at "$NET" ip route add 192.168.50.0/24 via 203.0.113.2
    host ip route add default via 203.0.113.1
    container
    C1=$PID
    container
    C2=$PID
}

# Who may reach what, as the tutorial tests it; with PROTO's servers in c1 (port 80) and outside (port 8080).
everybody_reaches() {
    local proto=$1
    answers "c1 80 10.0.0.3" "$C2" "$proto" 10.0.0.2 80             # container to container
    answers "c1 80 10.0.0.1" 1 "$proto" 10.0.0.2 80                 # host to container
    answers "c1 80 10.0.0.1" 1 "$proto" 127.0.0.1 8080              # host to its published port
    ask 1 "$proto" 192.168.50.1 8080 | grep '^c1 80 '               # by its own address
    answers "c1 80 192.168.50.2" "$LAN" "$proto" 192.168.50.1 8080  # a LAN machine
    ask "$C2" "$proto" 192.168.50.1 8080 | grep '^c1 80 '           # another container, by the host's address
    ask "$C2" "$proto" 10.0.0.1 8080 | grep '^c1 80 '               # and by the gateway's
    ask "$C1" "$proto" 192.168.50.1 8080 | grep '^c1 80 '           # the container itself
    answers "net 8080 203.0.113.2" "$C1" "$proto" 203.0.113.1 8080  # out, to another machine's port 8080
    answers "net 8080 203.0.113.2" 1 "$proto" 203.0.113.1 8080      # nor is the host's own traffic caught
}

# Under both FORWARD policies, with bridges filtered and not, and who must not get through: 220-traffic.
@test "a published port answers the host, the LAN, containers and itself; tcp and udp" {
    local proto before
    around
    before=$(kernel_state)
    testbridge
    netwrap publish --quiet c1 8080:80 8080:80/udp
    for proto in tcp udp; do
        serve "$C1" "$proto" 0.0.0.0 80 c1
        serve "$NET" "$proto" 0.0.0.0 8080 net
        everybody_reaches "$proto"
    done
    answers "net 8080 192.168.50.2" "$LAN" tcp 203.0.113.1 8080 # what the host only passes on is not caught
    silent "$LAN" tcp 10.0.0.2 80 # the LAN machine has a route, and is not let in
    silent "$LAN" udp 10.0.0.2 80
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "ranges lead port by port, equal and shifted" {
    local before
    around
    before=$(kernel_state)
    testbridge
    netwrap publish --quiet c1 8000-8003:8000-8003 9000-9003:8000-8003/tcp 7000-7003:8000-8003/udp
    serve "$C1" tcp 0.0.0.0 8000-8003 c1
    serve "$C1" udp 0.0.0.0 8000-8003 c1
    answers "c1 8000 192.168.50.2" "$LAN" tcp 192.168.50.1 8000
    answers "c1 8003 192.168.50.2" "$LAN" tcp 192.168.50.1 8003
    answers "c1 8000 192.168.50.2" "$LAN" tcp 192.168.50.1 9000
    answers "c1 8002 192.168.50.2" "$LAN" tcp 192.168.50.1 9002
    answers "c1 8003 192.168.50.2" "$LAN" tcp 192.168.50.1 9003
    answers "c1 8001 192.168.50.2" "$LAN" udp 192.168.50.1 7001
    answers "c1 8003 10.0.0.1" 1 tcp 127.0.0.1 9003
    answers "c1 8002 10.0.0.1" 1 udp 127.0.0.1 7002
    silent "$LAN" tcp 192.168.50.1 8004
    silent "$LAN" tcp 192.168.50.1 9004
    [ "$(netwrap ps --json | jq -c '.[0].ports')" = '["8000-8003:8000-8003/tcp","9000-9003:8000-8003/tcp","7000-7003:8000-8003/udp"]' ]
    netwrap unpublish --quiet c1 8000-8003:8000-8003 9000-9003:8000-8003 7000-7003:8000-8003/udp
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "with HOSTIP a port answers on that address alone, and 127.0.0.1 the host alone" {
    local before
    around
    before=$(kernel_state)
    testbridge
    netwrap publish --quiet c1 127.0.0.1:8080:80 192.168.50.1:8081:80 0.0.0.0:8082:80
    netwrap publish --quiet c2 192.168.50.1:8080:80
    serve "$C1" tcp 0.0.0.0 80 c1
    serve "$C2" tcp 0.0.0.0 80 c2
    answers "c1 80 10.0.0.1" 1 tcp 127.0.0.1 8080
    answers "c2 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8081
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8082
    answers "c1 80 203.0.113.1" "$NET" tcp 203.0.113.2 8082
    silent "$NET" tcp 203.0.113.2 8081
    silent 1 tcp 127.0.0.1 8081
    netwrap unpublish --quiet c2 192.168.50.1:8080:80
    silent "$LAN" tcp 192.168.50.1 8080
    # A neighbour that sends frames for 127.0.0.1 to the host is not let in.
    at "$LAN" ip addr del 127.0.0.1/8 dev lo
    at "$LAN" sysctl -q net.ipv4.conf.all.route_localnet=1
    at "$LAN" ip route add 127.0.0.0/8 via 192.168.50.1 dev eth0 src 192.168.50.2
    host sysctl -q net.ipv4.conf.lan.rp_filter=0
    silent "$LAN" tcp 127.0.0.1 8080
    answers "c1 80 10.0.0.1" 1 tcp 127.0.0.1 8080
    host sysctl -q "net.ipv4.conf.lan.rp_filter=$(grep '^/*conf/lan/rp_filter:' <<<"$before" | head -n 1 | cut -d: -f2)"
    at "$LAN" ip route del 127.0.0.0/8
    at "$LAN" sysctl -q net.ipv4.conf.all.route_localnet=0
    at "$LAN" ip addr add 127.0.0.1/8 dev lo
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "publish and unpublish work at any time, and connect -p is the same" {
    local before published
    around
    before=$(kernel_state)
    testbridge
    serve "$C1" tcp 0.0.0.0 80 c1
    silent "$LAN" tcp 192.168.50.1 8080
    published=$(kernel_state)
    nw publish c1 8080:80
    [ "$CODE" -eq 0 ]
    [ -z "$OUT" ]
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    netwrap publish --quiet c1 8081:80
    netwrap unpublish --quiet c1 8080:80/tcp
    silent "$LAN" tcp 192.168.50.1 8080
    silent 1 tcp 127.0.0.1 8080
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8081
    netwrap unpublish --quiet c1 8081:80
    same "$published" "$(kernel_state)"
    netwrap disconnect --quiet c1
    netwrap connect --quiet --net testbridge --pid "$C1" --ip 10.0.0.2 -p 8080:80
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "sctp is planned with its own rules" {
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    nw connect --net testbridge --pid "$PID" -p 127.0.0.1:9899:36412/sctp --dry-run
    [ "$CODE" -eq 0 ]
    grep -Eq '^iptables -w -t nat -A OUTPUT -d 127.0.0.1/32 -p sctp .*--dport 9899 .*-j DNAT --to-destination 10.0.0.2:36412$' <<<"$OUT"
}
