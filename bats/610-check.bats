#!/usr/bin/env bats
# netwrap check: the table of what works, and for what does not the first hop that breaks.

load helpers

setup() {
    host_up
    machine lan 192.168.50.1/24 192.168.50.2/24
    host ip route add default via 192.168.50.2 # the outside: it knows no way to the containers
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    container
    C1=$PID
    container
    C2=$PID
    netwrap connect --quiet --net a --pid "$C1" --name c1 -p 8080:80 -p 8081:81/udp
    netwrap connect --quiet --net a --pid "$C2" --name c2
    container
    netwrap connect --quiet --net b --pid "$PID" --name c3
    serve "$C1" tcp 0.0.0.0 80 c1
    serve "$C1" udp 0.0.0.0 81 c1
    wait_for at "$C1" sh -c 'grep -q ":0050 .* 0A " /proc/net/tcp && grep -q ":0051 " /proc/net/udp'
}
teardown() { host_down; }

veth() { netwrap ps --json | jq -r --arg name "$1" '.[] | select(.name == $name) | .veth'; }

# breaks HOP FROM TO TEXT: check names HOP for that trial, with TEXT, and gives exit code 1.
breaks() {
    nw check --json
    jq -e --arg hop "$1" --arg from "$2" --arg to "$3" --arg text "$4" \
        'any(.[]; .from == $from and .to == $to and .works == false and .hop == $hop and (.broken | contains($text)))' <<<"$OUT" >/dev/null || {
        printf 'check does not name %s\n%s\n%s\n' "$*" "$OUT" "$ERR" >&2
        return 1
    }
    [ "$CODE" -eq 1 ]
}

# Runs the command that check gives for a trial, and all is well.
mended() {
    nw check --json
    host bash -c "$(jq -r --arg from "$1" --arg to "$2" '[.[] | select(.from == $from and .to == $to)][0].mend' <<<"$OUT")"
    nw check
    [ "$CODE" -eq 0 ] || { printf '%s\n' "$OUT" >&2 && return 1; }
}

@test "everything that stands is tried: each to each, host to each, gateway, outside, each port" {
    local before
    before=$(kernel_state)
    nw check --json
    [ "$CODE" -eq 0 ]
    [ -z "$ERR" ]
    [ "$(jq -r '.[] | "\(.from) > \(.to) \(.how) \(.works)"' <<<"$OUT" | sort)" = "$(sort <<'EOF'
c1 > c2 ping true
c2 > c1 ping true
host > c1 ping true
host > c2 ping true
host > c3 ping true
c1 > gateway of a ping true
c2 > gateway of a ping true
c3 > gateway of b ping true
c1 > outside ping true
c2 > outside ping true
c3 > outside ping true
host > c1 by 8080:80/tcp tcp true
host > c1 by 8081:81/udp udp socket true
EOF
)" ]
    nw check
    [ "$(head -n 1 <<<"$OUT" | xargs)" = "FROM TO IP HOW WORKS BROKEN" ]
    netwrap network link --quiet a b
    nw check --json
    [ "$(jq '[.[] | select(.from == "c3" and .to == "c1" or .from == "c1" and .to == "c3") | .works] | length' <<<"$OUT")" -eq 2 ]
    [ "$CODE" -eq 0 ]
    netwrap network unlink --quiet a b
    same "$before" "$(kernel_state)"
}

@test "nothing stands: nothing to try, exit code 0" {
    netwrap network remove --quiet --force a b
    nw check --json
    [ "$CODE" -eq 0 ]
    [ "$OUT" = "[]" ]
}

@test "an address is gone" {
    host ip -n c2 addr del 10.0.0.3/24 dev eth0
    host ip -n c2 addr add 10.0.0.99/24 dev eth0
    breaks address host c2 "ip -n c2 addr add 10.0.0.3/24 dev eth0"
}

@test "a link is down" {
    host ip link set dev "$(veth c2)" down
    breaks link host c2 "link set dev $(veth c2) up"
    mended host c2
}

@test "a bridge port is pulled out" {
    host ip link set dev "$(veth c2)" nomaster
    breaks "bridge port" c1 c2 "master a"
    mended c1 c2
}

@test "the default route is gone" {
    host ip -n c2 route del default
    breaks route c2 outside "route add default via 10.0.0.1"
    mended c2 outside
}

@test "forwarding is off, for all or for a bridge" {
    host sysctl -q net.ipv4.ip_forward=0
    breaks forwarding c1 outside "net.ipv4.conf.all.forwarding=1"
    host sysctl -q net.ipv4.ip_forward=1
    host sysctl -q net.ipv4.conf.a.forwarding=0 # no step of ours
    breaks forwarding c1 outside "net.ipv4.conf.a.forwarding is 0"
    mended c1 outside
}

@test "a handle is gone" {
    host ip netns del c2
    breaks handle c2 outside "ip netns attach c2"
    mended c2 outside
}

@test "a rule is gone: the way out, the published port" {
    host iptables -t nat -F POSTROUTING
    breaks rule c1 outside "MASQUERADE"
    host iptables -t nat -F OUTPUT
    breaks rule host "c1 by 8080:80/tcp" "OUTPUT"
    breaks rule host "c1 by 8081:81/udp" "OUTPUT"
}

@test "a rule for others than this host is gone: their way to the published port, the replies" {
    host iptables -t nat -D PREROUTING 1
    breaks rule host "c1 by 8080:80/tcp" "PREROUTING"
    mended host "c1 by 8080:80/tcp"
    host iptables -D NETWRAP-a 1
    breaks rule c1 outside "RELATED,ESTABLISHED,DNAT"
    mended c1 outside # in front of the DROP
}

@test "the service does not listen" {
    netwrap publish --quiet c2 8082:82 8083:83/udp 9000-9002:90-92
    serve "$C2" tcp 127.0.0.1 82 c2 # not where the port leads
    serve "$C2" udp 127.0.0.1 83 c2
    serve "$C2" tcp 0.0.0.0 91 c2
    wait_for at "$C2" sh -c 'grep -q ":0052 .* 0A " /proc/net/tcp && grep -q ":0053 " /proc/net/udp && grep -q ":005B .* 0A " /proc/net/tcp'
    breaks service host "c2 by 8082:82/tcp" "port 82/tcp in c2"
    breaks service host "c2 by 8083:83/udp" "port 83/udp in c2"
    jq -e 'any(.[]; .to == "c2 by 9000-9002:90-92/tcp" and .works)' <<<"$OUT" # one of the range is enough
}

@test "the process has ended" {
    end "$C1"
    breaks process c2 c1 "c1 is gone"
}

@test "rules of others: the host's INPUT and FORWARD" {
    host iptables -P INPUT DROP
    breaks rule c1 "gateway of a" "policy DROP"
    host iptables -P INPUT ACCEPT
    host iptables -I FORWARD -j REJECT
    breaks rule c1 outside "-A FORWARD -j REJECT"
}

@test "the outside itself does not answer; FORWARD is not to blame, whatever comes behind our jump" {
    host iptables -P FORWARD DROP
    host ip link set dev lan down
    host ip link set dev lan up
    host ip route replace default via 192.168.50.77 dev lan
    breaks outside c1 outside "192.168.50.77 does not answer"
}

@test "without root it cannot try, and says so" {
    run unprivileged netwrap check
    [ "$status" -eq 1 ]
    [[ $output == *"needs root"*"hint: sudo netwrap check"* ]]
}
