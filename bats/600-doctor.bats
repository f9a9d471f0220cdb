#!/usr/bin/env bats
# netwrap doctor: each finding on a host that is broken in that way, and none on one that is not.

load helpers

setup() { host_up && container; }
teardown() { host_down; }

# Two networks and a container on the first, with a port.
build() {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    netwrap connect --quiet --net a --pid "$PID" --name c1 -p 8080:80
}

# finds NAME TEXT [MEND]: doctor says that it is wrong, with TEXT in it, gives exit code 1 and a command with MEND in it.
finds() {
    nw doctor --json
    jq -e --arg name "$1" --arg text "$2" --arg mend "${3:-}" \
        'any(.[]; .name == $name and .wrong and (.what | contains($text)) and ((.fix // "") | contains($mend)))' <<<"$OUT" >/dev/null || {
        printf 'doctor does not find %s\n%s\n%s\n' "$*" "$OUT" "$ERR" >&2
        return 1
    }
    [ "$CODE" -eq 1 ]
}

# notes NAME TEXT: the same for what is worth knowing and not wrong.
notes() {
    nw doctor --json
    [ "$CODE" -eq 0 ]
    jq -e --arg name "$1" --arg text "$2" 'any(.[]; .name == $name and (.wrong | not) and (.what | contains($text)))' <<<"$OUT" >/dev/null
}

# Runs the command that doctor gives for a finding.
mends() {
    nw doctor --json
    host bash -c "$(jq -r --arg name "$1" '[.[] | select(.name == $name and .wrong)][0].fix' <<<"$OUT")"
}

# Runs every command that doctor gives, in its order.
mends_all() {
    nw doctor --json
    jq -r '.[] | select(.wrong and .fix) | .fix' <<<"$OUT" >"$BATS_TEST_TMPDIR/mends"
    host bash -ec "$(cat "$BATS_TEST_TMPDIR/mends")"
}

well() {
    nw doctor
    [ "$CODE" -eq 0 ] || { printf '%s\n' "$OUT" >&2 && return 1; }
    [ "$(tail -n 1 <<<"$OUT")" = "no problems found" ]
}

@test "a host that is well, before, with and after networks" {
    local before
    before=$(kernel_state)
    well
    build
    well
    netwrap network remove --quiet --force a b
    well
    same "$before" "$(kernel_state)" # looking changes nothing
}

@test "each finding says what, why and the command that mends it; exit code 1" {
    build
    host sysctl -q net.ipv4.conf.all.forwarding=0
    nw doctor
    [ "$CODE" -eq 1 ]
    [[ $OUT == *"wrong: ip_forward: net.ipv4.conf.all.forwarding is 0"*$'\n'"  why: "*$'\n'"  fix: netwrap repair"* ]]
    nw doctor --json
    [ "$(jq -c '.[0] | keys' <<<"$OUT")" = '["fix","name","what","why","wrong"]' ]
}

@test "forwarding is off" {
    notes ip_forward "all.forwarding is 0 (net.ipv4.ip_forward)"
    build
    host sysctl -q net.ipv4.ip_forward=0
    finds ip_forward "all.forwarding is 0"
    mends ip_forward
    well
    host sysctl -q net.ipv4.conf.b.forwarding=0
    finds ip_forward "b.forwarding is 0"
    mends ip_forward
    machine lan.7 192.168.50.1/24 192.168.50.2/24
    host ip route add default via 192.168.50.2
    well
    host sysctl -q net/ipv4/conf/lan.7/forwarding=0
    finds ip_forward "net/ipv4/conf/lan.7/forwarding is 0"
    mends ip_forward
    well
}

@test "the FORWARD policy is DROP, and by whom" {
    host iptables -P FORWARD DROP
    notes FORWARD "policy DROP"
    host iptables -N DOCKER-USER
    host iptables -A FORWARD -j DOCKER-USER
    build
    notes FORWARD "set up by: Docker"
    host iptables -D FORWARD -m comment --comment netwrap:host -j NETWRAP
    finds FORWARD "chain is gone; FORWARD has policy DROP (Docker)"
    mends FORWARD
    notes FORWARD "set up by: Docker"
    host iptables -I FORWARD -j DROP
    finds FORWARD "-A FORWARD -j DROP"
    mends FORWARD
    notes FORWARD "Docker"
    host iptables -A DOCKER-USER -j DROP
    host iptables -I FORWARD -j DOCKER-USER
    finds FORWARD "-A DOCKER-USER -j DROP"
    mends FORWARD
    notes FORWARD "Docker"
}

# What does not pass, by check.
broken() { host netwrap check --json 2>/dev/null | jq -c '[.[] | select(.works == false) | [.from, .to]]'; }

# Tables of nftables by others, one a line: what is added to them, behind `nft`.
tables() {
    cat <<'END_OF_LINES'
inet|chain inet fw f { type filter hook forward priority 0; policy drop; }
ip|chain ip fw f { type filter hook forward priority 10; policy drop; ct state established accept; }
inet|chain inet fw f { type filter hook forward priority 5; iifname "a" accept; counter reject; }
inet|chain inet fw more { iifname "nobody" accept; }; chain inet fw f { type filter hook forward priority 0; policy drop; jump more; }
ip|chain ip fw f { type filter hook forward priority -5; policy drop; }; chain ip fw g { type filter hook forward priority 7; drop; }
inet|chain inet fw p { type filter hook prerouting priority 0; iifname { "a", "b" } drop; }
inet|chain inet fw o { type filter hook output priority 0; oifname "a" reject; }
END_OF_LINES
}

@test "another table of nftables drops packets of ours: the fix lets them pass, and may be run twice" {
    command -v nft >/dev/null || skip "nft is not installed"
    local family chains rules
    build
    serve "$PID" tcp 0.0.0.0 80 c1
    container
    netwrap connect --quiet --net a --pid "$PID" --name c2
    while IFS='|' read -r family chains; do
        printf 'add table %s fw\nadd %s\n' "$family" "${chains//; chain/$'\n'add chain}" | host nft -f -
        nw doctor --json
        [ "$CODE" -eq 1 ] || { echo "$chains: not found" >&2 && return 1; }
        mends_all
        rules=$(host nft list ruleset)
        host bash -ec "$(cat "$BATS_TEST_TMPDIR/mends")" # once more: nothing piles up
        same "$rules" "$(host nft list ruleset)"
        well || { echo "$chains" >&2 && return 1; }
        [ "$(broken)" = "[]" ] || { echo "$chains: $(broken)" >&2 && return 1; }
        host nft delete table "$family" fw
    done < <(tables)
    host nft add table bridge fw
    host nft add chain bridge fw f '{ type filter hook forward priority 0; policy drop; }'
    finds FORWARD "nftables chain bridge fw f"
}

@test "bridges are filtered" {
    host sysctl -q net.bridge.bridge-nf-call-iptables=1 || skip "br_netfilter is not here"
    notes br_netfilter "bridge-nf-call-iptables is 1"
    host sysctl -q net.bridge.bridge-nf-call-iptables=0
    nw doctor
    [[ $OUT != *br_netfilter* ]]
}

@test "reverse path filtering is strict" {
    machine lan 192.168.50.1/24 192.168.50.2/24
    host ip route add default via 192.168.50.2
    host sysctl -q net.ipv4.conf.lan.rp_filter=1
    notes rp_filter "net.ipv4.conf.lan.rp_filter is 1"
    machine wan 203.0.113.2/24 203.0.113.1/24
    host ip route add default via 203.0.113.1 metric 50
    finds rp_filter "net.ipv4.conf.lan.rp_filter is 1"
    host ip route flush exact default
    host ip route add default nexthop via 192.168.50.2 nexthop via 203.0.113.1
    finds rp_filter "net.ipv4.conf.lan.rp_filter is 1"
    mends rp_filter
    nw doctor
    [[ $OUT != *rp_filter* ]]
    host ip link set dev wan down
    host ip link set dev wan name wan.7
    host sysctl -q net/ipv4/conf/wan.7/rp_filter=1
    host ip link set dev wan.7 up
    host ip route replace default nexthop via 192.168.50.2 nexthop via 203.0.113.1
    finds rp_filter "net/ipv4/conf/wan.7/rp_filter is 1"
    mends rp_filter
    nw doctor
    [[ $OUT != *rp_filter* ]]
}

@test "both iptables backends are in use" {
    command -v iptables-legacy >/dev/null || skip "iptables-legacy is not installed"
    host cat /proc/net/ip_tables_names >/dev/null 2>&1 || skip "an ordinary user may not see which legacy tables there are"
    host iptables-legacy -A FORWARD -s 10.66.0.0/16 -j DROP
    finds "iptables backends" "policies of the legacy one too (table filter)"
    host iptables-legacy -F FORWARD
    well
    host iptables-legacy -P FORWARD DROP
    finds "iptables backends" "or policies of the legacy one too (table filter)"
}

@test "a tool is missing" {
    build
    host mount --bind /dev/null "$(readlink -f "$(command -v conntrack)")"
    finds "missing tool" "'conntrack' is not installed" "apt-get install conntrack"
}

@test "a tool without which nothing can be seen is missing, or fails" {
    local bin=$BATS_TEST_TMPDIR/bin
    build
    mkdir "$bin"
    printf '#!/bin/sh\necho "cannot, today" >&2\nexit 4\n' >"$bin/iptables-save"
    chmod +x "$bin/iptables-save"
    PATH=$bin:$PATH nw doctor
    [ "$ERR" = "not looked at: links, routes and firewall rules: iptables-save: exit 4: cannot, today" ]
    host mount --bind /dev/null "$(readlink -f "$(command -v ip)")"
    finds "missing tool" "'ip' is not installed" "apt-get install iproute2"
    [ "$ERR" = "not looked at: links, routes and firewall rules: 'ip' is not installed on this machine" ]
}

@test "the kernel cannot do something that is needed" {
    local bin=$BATS_TEST_TMPDIR/bin
    mkdir "$bin"
    cat >"$bin/iptables" <<EOF
#!/bin/sh
case "\$*" in *MASQUERADE*) echo "No chain/target/match by that name" >&2; exit 1 ;; esac
exec $(command -v iptables) "\$@"
EOF
    chmod +x "$bin/iptables"
    PATH=$bin:$PATH finds "kernel feature" "does not do masquerading" "modprobe"
}

@test "a subnet overlaps the route of a VPN" {
    build
    host ip link add name vpn0 type bridge
    host ip link set dev vpn0 up
    host ip route add 10.0.0.0/8 dev vpn0
    finds overlap "(10.0.0.0/24) overlaps a route of this machine: 10.0.0.0/8 dev vpn0"
    host ip link del dev vpn0
    well
    host ip route add blackhole 10.0.1.0/25
    finds overlap "(10.0.1.0/24) overlaps a route of this machine: 10.0.1.0/25 dev -"
}

# Runs the first part of what mends it, with /run for /etc.
writes_the_file() {
    nw doctor --json
    host sh -c "$(jq -r '.[] | select(.name == "network manager").fix' <<<"$OUT" | sed 's:/etc/:/run/:; s/sudo//; s/ && .*//')"
}

@test "systemd-networkd would take our links" {
    build
    host mkdir -p /run/systemd/netif /run/systemd/network
    well
    host sh -c 'printf "[Match]\nType=ether bridge\n\n[Network]\nDHCP=yes\n" >/run/systemd/network/80-all.network'
    finds "network manager" "systemd-networkd manages a, b, veth" "Unmanaged=yes"
    writes_the_file
    well
}

@test "NetworkManager would take our bridges" {
    build
    host mkdir -p /run/NetworkManager/conf.d
    finds "network manager" "NetworkManager manages a, b" "unmanaged-devices="
    writes_the_file
    well
}

@test "ordinary users may not make user namespaces" {
    local found forbid='echo 0 >/proc/sys/user/max_user_namespaces && exec netwrap doctor --json'
    # In a user namespace of its own: as root this would be the machine's own setting.
    found=$(host unshare --user --map-root-user --mount-proc --pid --fork sh -c "$forbid" 2>/dev/null) || true
    jq -e 'any(.[]; .name == "user namespaces" and (.what | contains("user.max_user_namespaces=0")))' <<<"$found"
}

@test "a container's process has ended" {
    build
    end "$PID"
    finds leftover "container 'c1' is gone" "netwrap disconnect c1"
    mends leftover
    well
}

@test "steps of netwrap's that somebody has undone" {
    local before
    build
    before=$(kernel_state)
    host iptables -D NETWRAP-a -m comment --comment netwrap:a -j DROP
    finds drifted "missing: iptables -w -A NETWRAP-a -m comment --comment netwrap:a -j DROP" "netwrap repair"
    host ip link set dev a down
    host iptables -D NETWRAP-b 1
    host iptables -t nat -F
    nw doctor --json
    [ "$(jq -c '[.[] | select(.wrong).fix]' <<<"$OUT")" = '["netwrap repair"]' ] # once, however much is gone
    mends_all
    well
    same "$before" "$(kernel_state)"
}

# What somebody does to the host of the next test, one a line.
breaks() {
    cat <<'END_OF_LINES'
ip link set dev a down; ip link set dev a name aa; ip link set dev aa up
ip link set dev $VETH down; ip link set dev $VETH name x0 address 02:00:00:00:00:09
ip -n c1 link set dev eth0 down; ip -n c1 link set dev eth0 name x0; ip -n c1 link set dev x0 up
ip -n c1 link set dev eth0 address 02:00:00:00:00:09
ip -n c1 route replace default via 10.0.0.99
ip route del 10.0.0.0/24 dev a; ip link set dev $VETH master b
ip link set dev $VETH mtu 900; ip link set dev b group default
iptables -E NETWRAP-a THEIRS; sysctl -q net.ipv4.ip_forward=0
iptables -I FORWARD -j ACCEPT; iptables -t raw -I PREROUTING -j ACCEPT
iptables -I FORWARD -j DROP
iptables -D NETWRAP-a -m comment --comment netwrap:a -j DROP; iptables -I NETWRAP-a -m comment --comment netwrap:a -j DROP
for t in filter nat raw mangle; do iptables -t $t -F; iptables -t $t -X; done
END_OF_LINES
}

@test "after all fixes of doctor, run as printed, doctor, status and check are content" {
    local line
    build
    serve "$PID" tcp 0.0.0.0 80 c1
    VETH=$(netwrap ps --json | jq -r '.[0].veth')
    while read -r line; do
        host env VETH="$VETH" bash -ec "$line"
        nw doctor --json
        [ "$CODE" -eq 1 ] || { echo "not found: $line" >&2 && return 1; }
        [ "$(jq '[.[].fix | select(. == "netwrap repair")] | length' <<<"$OUT")" -le 1 ]
        jq -r '.[] | select(.wrong and .fix) | .fix' <<<"$OUT" >"$BATS_TEST_TMPDIR/fixes"
        host bash -ec "$(cat "$BATS_TEST_TMPDIR/fixes")" >/dev/null 2>&1 || { echo "fix fails: $line" >&2 && return 1; }
        well || { echo "$line" >&2 && return 1; }
        netwrap status >/dev/null || { echo "status: $line" >&2 && return 1; }
        [ "$(broken)" = "[]" ] || { echo "check: $line: $(broken)" >&2 && return 1; }
    done < <(breaks)
    [ "$(netwrap ps --json | jq -c '.[] | [.name, .state]')" = '["c1","up"]' ]
}

@test "links and rules with our mark that no state knows" {
    build
    host cp -r /run/netwrap /run/kept
    netwrap network create --quiet --subnet 10.0.2.1/24 lost
    host sh -c 'rm -r /run/netwrap && mv /run/kept /run/netwrap'
    finds leftover "link lost is a leftover" "ip link del dev lost"
    finds leftover "a rule in NETWRAP-lost (filter) is a leftover" "iptables -w -t filter -D NETWRAP-lost"
    mends_all
    well
    netwrap network create --quiet --subnet 10.0.2.1/24 lost
    host rm -r /run/netwrap
    mends_all
    [ "$(host iptables-save | grep -c NETWRAP)" -eq 0 ]
    netwrap network create --quiet --subnet 10.0.0.1/24 a
}

@test "a listener behind a published port" {
    build
    host python3 "$ROOT/bats/peer" listen tcp 0.0.0.0 8080 >/dev/null 2>&1 </dev/null &
    wait_for shadowed
    finds "shadowed port" "8080:80/tcp of c1: a socket of this host listens on *:8080/tcp"
}

shadowed() { netwrap doctor | grep -q 'shadowed port'; }

@test "without root it says what it could not look at" {
    nw network list
    run unprivileged netwrap doctor
    [[ $output == *"not looked at: firewall rules cannot be seen without root"* ]]
}
