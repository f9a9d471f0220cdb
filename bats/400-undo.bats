#!/usr/bin/env bats
# The undo log: what it tells, what undo takes back, and what happens when a command fails half-way.
# State after do + undo = state before, for every case file: see 300-equality.bats.

load helpers

setup() { host_up; }
teardown() { host_down; }

# Two processes: WEB and DB.
people() {
    container && WEB=$PID
    container && DB=$PID
}

# Two networks, with both processes on them, and ports.
build() {
    netwrap network create --subnet 10.0.0.1/24 net1 --batch -q >/dev/null                # 1
    netwrap network create --subnet 10.0.1.1/24 net2 --batch -q >/dev/null                # 2
    netwrap connect --net net1 --pid "$WEB" --name web -p 8080:80 --batch -q >/dev/null # 3
    netwrap connect --net net2 --pid "$WEB" --batch -q >/dev/null                       # 4
    netwrap connect --net net2 --pid "$DB" --name db --batch -q >/dev/null              # 5
    netwrap publish db 9090:90 --batch -q                                               # 6
}

# Prints the names that stand: networks, then endpoints with their ports.
standing() {
    netwrap network list --json | jq -r '.[] | .name'
    netwrap ps --json | jq -r '.[] | "\(.name)/\(.net) \(.ports | join(" "))"'
}

states() { netwrap log --json | jq -r '.[].state' | paste -sd ' '; }

@test "log lists the operations, and shows the steps of one" {
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    nw log
    [ "$CODE" -eq 0 ]
    [ "$(head -n 1 <<<"$OUT" | xargs)" = "ID WHEN WHAT STATE" ]
    [[ $OUT == *" network create net1 "*" done"* ]]
    [ "$(netwrap log --json | jq -c '.[0] | keys')" = '["id","kind","state","what","when"]' ]
    nw log 1
    [[ $OUT == *"ip addr add 10.0.0.1/24 dev net1"* ]]
    [[ $OUT == *"ip addr del 10.0.0.1/24 dev net1"* ]]
    netwrap network create --dry-run --json --subnet 10.1.0.0/24 net2 >"$BATS_TEST_TMPDIR/plan"
    nw log 1 --json
    [ "$(jq -r '[.steps[].state] | unique | .[]' <<<"$OUT")" = "done" ]
    [ "$(jq -c '.steps[0] | keys' <<<"$OUT")" = '["do","n","ns","state","undo","why"]' ]
    run host bash -c 'ip -br link show dev net1 && netwrap log 1 --json | jq -r ".steps | reverse | .[].undo" | bash -e'
    [ "$status" -eq 0 ] # the log alone is enough to take it back by hand
    run host ip link show dev net1
    [ "$status" -ne 0 ]
}

@test "an unknown operation is bad input" {
    netwrap network create net1 -q
    refused 2 "7" log 7
    refused 2 "7" undo 7
    refused 2 "x" undo x
}

@test "undo without a number takes back the last that stands, one after the other" {
    people
    before=$(kernel_state)
    build
    nw undo
    [ "$CODE" -eq 0 ]
    [ -z "$OUT" ]
    same "net1
net2
web/net1 8080:80/tcp
web/net2 
db/net2 " "$(standing)"
    netwrap disconnect db -q
    netwrap undo -q # db is gone already: web leaves net2
    same "net1
net2
web/net1 8080:80/tcp" "$(standing)"
    netwrap undo -q
    netwrap undo -q
    same "net1" "$(standing)"
    netwrap undo -q
    same "" "$(standing)"
    same "$before" "$(kernel_state)"
    nw undo
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"nothing to undo"* ]]
}

@test "undo of an operation that others are built upon names them and asks" {
    people
    build
    kept=$(kernel_state)
    nw undo 2 # no terminal: nobody can say yes
    [ "$CODE" -eq 2 ]
    [[ $ERR == *db/net2* && $ERR == *web/net2* && $ERR == *"hint: netwrap undo 2 --yes"* ]]
    same "$kept" "$(kernel_state)"
    on_a_terminal n undo 2
    [ "$CODE" -eq 2 ]
    same "$kept" "$(kernel_state)"
    on_a_terminal y undo 2
    [ "$CODE" -eq 0 ]
    [[ $ERR == *db/net2* ]]
    same "net1
web/net1 8080:80/tcp" "$(standing)"
    [ "$(states)" = "done undone done undone undone undone done" ]
}

@test "undo --yes does not ask, and takes back in the reverse order" {
    container
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web -q
    netwrap publish web 8080:80 -q
    done_=$(for id in 1 2 3; do netwrap log "$id" --json | jq -r '.steps[].undo'; done)
    nw undo 1 --yes
    [ "$CODE" -eq 0 ]
    same "$(tac <<<"$done_")" "$(sed -n 's/^+ //p' <<<"$ERR" | sed -E 's/ netns [0-9]+ name / netns $$ name /')"
    same "$before" "$(kernel_state)"
}

@test "undoing a second time is no error and changes nothing" {
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap network create --subnet 10.0.1.1/24 net2 -q
    netwrap undo 1 -q
    kept=$(kernel_state)
    nw undo 1
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"undone already"* ]]
    same "$kept" "$(kernel_state)"
    same "net2" "$(standing)"
}

@test "undo of a teardown is not offered; its hint is the command that makes it again" {
    container
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web --ip 10.0.0.2 -q
    netwrap publish web 8080:80 -q
    before=$(kernel_state)
    for command in "unpublish web 8080:80" "disconnect web" "network remove --force net1"; do
        # shellcheck disable=SC2086
        netwrap $command -q
        refused 2 "not offered" undo "$(netwrap log --json | jq '.[-1].id')"
        again=$(sed -n 's/^hint: //p' <<<"$ERR")
        [[ $again == "netwrap "* ]]
        host bash -c "$again" || { echo "$command: the hint does not work: $again" >&2 && return 1; }
        # What it stood with comes back too.
        netwrap connect --net net1 --pid "$PID" --name web --ip 10.0.0.2 -q || [ $? -eq 2 ]
        netwrap publish web 8080:80 -q || [ $? -eq 2 ]
        same "$before" "$(kernel_state)"
    done
}

@test "what undo left of an operation is undone by the matching command, and the other way round" {
    container
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 -p 8081:81 -q
    netwrap unpublish web 8080:80 -q
    netwrap undo -q
    same "net1" "$(standing)"
    netwrap network remove net1 -q
    same "$before" "$(kernel_state)"
    [ "$(states)" = "undone undone done done done" ]
}

@test "the host's part stays while a second network stands, and goes with the last" {
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap network create --subnet 10.0.1.1/24 net2 -q
    netwrap undo 1 -q # the operation that made the host's part
    [ "$(host cat /proc/sys/net/ipv4/ip_forward)" = 1 ]
    host iptables -w -C FORWARD -m comment --comment netwrap:host -j NETWRAP
    [ "$(netwrap network inspect net2 | jq -r .state)" = up ]
    netwrap undo -q
    same "$before" "$(kernel_state)"
}

@test "a host that forwarded before forwards afterwards" {
    host bash -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    before=$(kernel_state)
    netwrap network create net1 -q
    netwrap undo -q
    same "$before" "$(kernel_state)"
    [ "$(host cat /proc/sys/net/ipv4/ip_forward)" = 1 ]
}

@test "strangers' rules, chains and policies stay as they are, also a rule like ours without our mark" {
    container
    host iptables -w -P FORWARD DROP
    host iptables -w -N THEIRS
    host iptables -w -A FORWARD -p icmp -j THEIRS
    host iptables -w -t nat -A POSTROUTING -s 10.0.0.0/24 ! -o net1 -m conntrack ! --ctstate DNAT -j MASQUERADE
    host iptables -w -t nat -A PREROUTING -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.0.0.2:80
    before=$(kernel_state)
    for mode in --quiet --batch; do
        netwrap network create --subnet 10.0.0.1/24 net1 "$mode"
        netwrap connect --net net1 --pid "$PID" --name web --ip 10.0.0.2 -p 8080:80 "$mode"
        [ "$(host iptables-save -t filter | grep '^:FORWARD' | cut -d' ' -f2)" = DROP ]
        netwrap undo "$mode"
        netwrap undo "$mode"
        same "$before" "$(kernel_state)"
        [ "$(host iptables-save -t filter | grep '^:FORWARD' | cut -d' ' -f2)" = DROP ]
    done
}

@test "strangers' rules that come while a network stands are there after it" {
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    host iptables -w -I FORWARD -i net1 -p tcp --dport 25 -j DROP
    host iptables -w -A FORWARD -j ACCEPT
    host iptables -w -t nat -I POSTROUTING -d 10.0.0.0/24 -j RETURN
    netwrap undo -q
    same "-A FORWARD -i net1 -p tcp -m tcp --dport 25 -j DROP
-A FORWARD -j ACCEPT
-A POSTROUTING -d 10.0.0.0/24 -j RETURN" "$(host iptables-save | grep '^-A')"
}

@test "a stranger's rule inside a chain of ours goes with it, and is shown as the command that adds it again" {
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    host iptables -w -I NETWRAP-net1 -s 192.0.2.0/24 -j DROP
    nw undo
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"iptables -w -I NETWRAP-net1"*"-s 192.0.2.0/24"*"-j DROP"* || $ERR == *"iptables -w -A NETWRAP-net1"*"-s 192.0.2.0/24"*"-j DROP"* ]]
    same "$before" "$(kernel_state)"
}

@test "what somebody took away by hand is no error at undo" {
    container
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 -q
    host ip link del dev net1
    host iptables -w -t nat -F
    nw undo 1 --yes
    [ "$CODE" -eq 0 ]
    same "$before" "$(kernel_state)"
}

@test "each command that fails while a network is made takes back those before it" {
    on_hosts <<'END'
fail-points create
fail-points create --batch
END
}

@test "each command that fails while a container is connected and published takes back those before it" {
    on_hosts <<'END'
fail-points connect
fail-points connect --batch
END
}

@test "each command that fails while a port is published or networks are linked takes back those before it" {
    on_hosts <<'END'
fail-points publish
fail-points publish --batch
fail-points link
fail-points link --batch
END
}

@test "a command that never ends is ended after NETWRAP_TIMEOUT, and those before it are taken back" {
    on_hosts <<'END'
fail-points create --hang
fail-points connect --hang
END
}
