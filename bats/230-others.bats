#!/usr/bin/env bats
# Beside others: their rules and policies, limits of the kernel, traffic that the kernel remembers.

load helpers

setup() { host_up; }
teardown() { host_down; }

# A LAN machine 192.168.50.2 (PID: $LAN) at the host's 192.168.50.1, and two containers-to-be, $C1 and $C2.
around() {
    machine lan 192.168.50.1/24 192.168.50.2/24
    LAN=$PID
    at "$LAN" ip route add default via 192.168.50.1
    container
    C1=$PID
    container
    C2=$PID
}

# Rules as Docker 28 makes them for docker0, its FORWARD policy included.
docker_rules() {
    host ip link add name docker0 type bridge
    host ip addr add 172.17.0.1/16 dev docker0
    host ip link set dev docker0 up
    host iptables-restore <<'RULES'
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-BRIDGE - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
RULES
}

# As ufw sets a host up: INPUT and FORWARD dropped but for SSH and replies.
ufw_rules() {
    host iptables-restore <<'RULES'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-before-forward - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -j ufw-before-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
RULES
}

# As firewalld sets a host up with its iptables backend: everything else is rejected at the end of both chains.
firewalld_rules() {
    host iptables-restore <<'RULES'
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:INPUT_ZONES - [0:0]
:FORWARD_IN_ZONES - [0:0]
:IN_public - [0:0]
:IN_public_allow - [0:0]
:FWDI_public - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -j INPUT_ZONES
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A INPUT_ZONES -g IN_public
-A IN_public -j IN_public_allow
-A IN_public_allow -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
-A FORWARD -j FORWARD_IN_ZONES
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
-A FORWARD_IN_ZONES -g FWDI_public
COMMIT
RULES
}

# beside SETUP: with their rules there ours work, and when ours are gone theirs are as they were.
beside() {
    local before proto
    around
    "$1"
    before=$(kernel_state)
    testbridge
    netwrap publish --quiet c1 8080:80 8080:80/udp
    for proto in tcp udp; do
        serve "$C1" "$proto" 0.0.0.0 80 c1
        serve "$LAN" "$proto" 0.0.0.0 7000 lan
        answers "c1 80 192.168.50.2" "$LAN" "$proto" 192.168.50.1 8080
        answers "c1 80 10.0.0.3" "$C2" "$proto" 10.0.0.2 80
        answers "c1 80 10.0.0.1" "$C2" "$proto" 192.168.50.1 8080
        answers "lan 7000 192.168.50.1" "$C1" "$proto" 192.168.50.2 7000
        answers "c1 80 10.0.0.1" 1 "$proto" 127.0.0.1 8080
        silent "$LAN" "$proto" 10.0.0.2 80
    done
    host iptables-save | grep -v netwrap: | grep '^-A' | grep -v NETWRAP >"$BATS_TEST_TMPDIR/theirs"
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
    [ "$(host iptables-save | grep '^-A')" = "$(cat "$BATS_TEST_TMPDIR/theirs")" ]
}

@test "beside Docker: its chains and its FORWARD policy DROP" { beside docker_rules; }
@test "beside ufw: INPUT and FORWARD policy DROP" { beside ufw_rules; }
@test "beside firewalld: everything else is rejected" { beside firewalld_rules; }

@test "a host port that a rule of others leads elsewhere is refused" {
    around
    docker_rules
    testbridge
    refused 2 "172.17.0.2:80" publish c1 8088:80
    refused 2 "8088" publish c1 8080-8090:8080-8090
    netwrap publish --quiet c1 8088:80/udp
}

@test "no rule and no socket of others that does not take the port is in its way" {
    around
    testbridge
    serve "$C1" tcp 0.0.0.0 80 c1
    host iptables -t nat -A PREROUTING -d 192.0.2.0/255.0.255.0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
    host iptables -t nat -A PREROUTING -p tcp -m multiport ! --dports 8080,9000:9010 -m iprange --src-range 203.0.113.5-203.0.113.7 -j REDIRECT --to-ports 81
    host iptables -t nat -A PREROUTING -m addrtype ! --dst-type LOCAL -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
    at 1 python3 -c 'import socket, time
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); s.bind(("::", 8080)); s.listen()
d = socket.socket(socket.AF_INET6); d.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0); d.bind(("::", 9090)); d.listen()
time.sleep(1000)' >/dev/null 2>&1 </dev/null &
    wait_for host sh -c 'ss -6lnt "sport = :9090" | grep -q LISTEN'
    nw publish c1 8080:80
    [ "$CODE" -eq 0 ]
    [[ $ERR != *elsewhere* ]]
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    refused 2 "listens on *:9090/tcp" publish c1 9090:80
    host iptables -t nat -I PREROUTING -d 192.0.50.0/255.0.255.0 -p tcp -m multiport --dports 80,7070:7071 -j DNAT --to-destination 172.17.0.2:80
    refused 2 "forwards it elsewhere" publish c1 7071:80
    host iptables -t nat -A PREROUTING -p tcp -m tcp --dport 6060 -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 172.17.0.2:80
    nw publish --quiet c1 6060:80
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"6060:80/tcp may be forwarded elsewhere by a rule that is not netwrap's"* ]]
    netwrap status >/dev/null
    netwrap doctor >/dev/null || [ $? -eq 1 ]
}

@test "publishing says when it opens a port past the INPUT rules, also quietly; --allow-from limits who may use it" {
    local before rules
    around
    machine office 192.168.60.1/24 192.168.60.2/24
    ufw_rules
    before=$(kernel_state)
    testbridge
    serve "$C1" tcp 0.0.0.0 80 c1
    nw publish --quiet c1 8080:80
    [ "$CODE" -eq 0 ]
    [[ $ERR == "netwrap: 8080:80/tcp is open to everybody"*"policy DROP; ufw"*"--allow-from"* ]]
    [ "$(wc -l <"$BATS_TEST_TMPDIR/err")" -eq 1 ]
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    answers "c1 80 192.168.60.2" "$PID" tcp 192.168.60.1 8080
    netwrap unpublish --quiet c1 8080:80
    nw publish --quiet c1 8080:80 --allow-from 192.168.50.0/24
    [ -z "$ERR" ]
    answers "c1 80 192.168.50.2" "$LAN" tcp 192.168.50.1 8080
    answers "c1 80 10.0.0.1" 1 tcp 127.0.0.1 8080
    silent "$PID" tcp 192.168.60.1 8080
    [ "$(netwrap ps --json | jq -c '.[0] | .ports, .allow_from')" = '["8080:80/tcp"]
{"8080:80/tcp":["192.168.50.0/24"]}' ]
    netwrap unpublish --quiet c1 8080:80
    netwrap publish --quiet c1 8080:80 --allow-from 192.168.50.2 --allow-from 192.168.60.0/24
    answers "c1 80 192.168.60.2" "$PID" tcp 192.168.60.1 8080
    nw publish --quiet c1 127.0.0.1:8081:80
    [ -z "$ERR" ] # nobody but the host reaches that
    if command -v nft >/dev/null; then
        rules=$(host iptables-save)
        host iptables -P INPUT ACCEPT
        host iptables -F INPUT
        host nft add table inet guard
        host nft add chain inet guard input '{ type filter hook input priority 0; policy drop; }'
        nw publish --quiet c1 8082:80
        [[ $ERR == *"8082:80/tcp is open to everybody"*"policy drop in nftables chain inet guard input"* ]]
        host nft delete table inet guard
        host iptables-restore <<<"$rules"
    fi
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "without INPUT rules there is nothing to say" {
    around
    testbridge
    host iptables -A INPUT -s 203.0.113.66 -j DROP # for some, as fail2ban does
    nw publish --quiet c1 8080:80
    [ -z "$ERR" ]
}

@test "a port published again leads to the new container at once: who has sent UDP there before, too" {
    around
    testbridge
    serve "$C1" udp 0.0.0.0 80 c1
    serve "$C2" udp 0.0.0.0 80 c2
    run ask "$LAN" udp 192.168.50.1 8080 1 40000
    [ "$status" -ne 0 ] # remembered as traffic to the host itself
    netwrap publish --quiet c1 8080:80/udp
    [ "$(ask "$LAN" udp 192.168.50.1 8080 60 40000)" = "c1 80 192.168.50.2" ]
    [ "$(ask "$C2" udp 192.168.50.1 8080 60 40000)" = "c1 80 10.0.0.1" ]
    netwrap unpublish --quiet c1 8080:80/udp
    run ask "$LAN" udp 192.168.50.1 8080 1 40000
    [ "$status" -ne 0 ]
    netwrap publish --quiet c2 8080:80/udp
    [ "$(ask "$LAN" udp 192.168.50.1 8080 60 40000)" = "c2 80 192.168.50.2" ]
    netwrap disconnect --quiet c2
    netwrap publish --quiet c1 192.168.50.1:8080:80/udp
    [ "$(ask "$LAN" udp 192.168.50.1 8080 60 40000)" = "c1 80 192.168.50.2" ]
}

@test "traffic of others is not forgotten with ours" {
    around
    testbridge
    serve "$LAN" udp 0.0.0.0 8080 lan
    [ "$(ask "$C2" udp 192.168.50.2 8080 60 40000)" = "lan 8080 192.168.50.1" ]
    netwrap publish --quiet c1 8080:80/udp # the same port, of this host
    netwrap unpublish --quiet c1 8080:80/udp
    host conntrack -L -p udp 2>/dev/null | grep -q 'sport=40000 dport=8080'
}

@test "a rule like ours without our mark stays, and so does one in the same chain" {
    local before
    around
    host iptables -A FORWARD -i testbridge -j ACCEPT
    host iptables -t nat -A POSTROUTING -s 10.0.0.0/24 '!' -o testbridge -j MASQUERADE
    host iptables -t nat -A PREROUTING -p tcp -m tcp --dport 9999 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.0.0.2:80
    before=$(kernel_state)
    testbridge
    host iptables -t nat -A POSTROUTING -s 10.0.0.0/24 '!' -o testbridge -m conntrack '!' --ctstate DNAT -j MASQUERADE
    netwrap publish --quiet c1 8080:80
    host iptables -t nat -I OUTPUT -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.0.0.2:80
    netwrap network remove --quiet --force testbridge
    host iptables -t nat -D POSTROUTING -s 10.0.0.0/24 '!' -o testbridge -m conntrack '!' --ctstate DNAT -j MASQUERADE
    host iptables -t nat -D OUTPUT -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.0.0.2:80
    same "$before" "$(kernel_state)"
}

@test "the bridge's MAC does not follow its ports" {
    local mac
    around
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    mac=$(host cat /sys/class/net/testbridge/address)
    netwrap connect --quiet --net testbridge --pid "$C1" --name c1 --mac 02:00:00:00:00:01
    [ "$(host cat /sys/class/net/testbridge/address)" = "$mac" ]
    host ip link add name low address 00:00:00:00:00:01 type veth peer name high
    host ip link set dev low master testbridge
    [ "$(host cat /sys/class/net/testbridge/address)" = "$mac" ]
    host ip link del dev low
    netwrap disconnect --quiet c1
    [ "$(host cat /sys/class/net/testbridge/address)" = "$mac" ]
}

@test "a bridge takes 1,023 ports: the next connect is refused with that reason, and nothing is left over" {
    local before
    around
    netwrap network create --quiet --subnet 10.0.0.1/16 big
    seq 1022 | sed 's/.*/link add name d& type veth peer name e&\nlink set dev d& master big/' >"$BATS_TEST_TMPDIR/ports"
    host ip -batch - <"$BATS_TEST_TMPDIR/ports"
    netwrap connect --quiet --net big --pid "$C1" --name c1
    before=$(host ip -br link | sort)
    nw connect --net big --pid "$C2" --name c2
    [ "$CODE" -eq 1 ]
    [ -z "$OUT" ]
    [[ $ERR == "netwrap: network 'big' is full: its bridge big has 1023 ports"*$'\n'"hint: "* ]]
    same "$before" "$(host ip -br link | sort)"
    [ "$(netwrap ps --json | jq length)" -eq 1 ]
    netwrap disconnect --quiet c1
    netwrap connect --quiet --net big --pid "$C2" --name c2
}

@test "two networks on one container: connect and disconnect in any order give back what was" {
    local none one
    around
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    netwrap network create --quiet --subnet 10.0.2.1/24 c
    none=$(kernel_state)
    netwrap connect --quiet --net a --pid "$C1" --name c1
    one=$(kernel_state)
    netwrap connect --quiet --net b --pid "$C1"
    [ "$(at "$C1" ip rule | grep -c 'from 10\.0\.[01]\.2 lookup 10[12]')" -eq 2 ]
    netwrap connect --quiet --net c --pid "$C1"
    netwrap disconnect --quiet c1 --net b
    [ "$(at "$C1" ip rule | grep -c 'from 10\.0\.[02]\.2 lookup 10[13]')" -eq 2 ]
    netwrap disconnect --quiet c1 --net c
    same "$one" "$(kernel_state)"
    netwrap connect --quiet --net b --pid "$C1"
    netwrap disconnect --quiet c1 --net a
    [ "$(at "$C1" ip rule | grep -c lookup)" -eq 4 ] # b has no default route, and answers still
    netwrap disconnect c1 --quiet
    same "$none" "$(kernel_state)"
}
