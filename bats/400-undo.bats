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

@test "undo without a number walks back through the log, one operation a call, and says first which one" {
    people
    before=$(kernel_state)
    build
    nw undo
    [ "$CODE" -eq 0 ]
    [ -z "$OUT" ]
    [ "${ERR%%$'\n'*}" = "undoing 6: publish db 9090:90/tcp" ]
    same "net1
net2
web/net1 8080:80/tcp
web/net2 
db/net2 " "$(standing)"
    netwrap disconnect db -q # 8
    nw undo -q
    same "undoing 8: disconnect db from net2" "$ERR"
    [[ $(standing) == *"db/net2 " ]]
    netwrap undo -q
    netwrap undo -q
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
    [[ $ERR == "undoing 2: network create net2"* ]]
    [[ $ERR == *"db's connection to net2"* && $ERR == *"web's connection to net2"* && $ERR == *"hint: netwrap undo 2 --yes" ]]
    same "$kept" "$(kernel_state)"
    on_a_terminal n undo 2
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"nothing done"* ]]
    same "$kept" "$(kernel_state)"
    on_a_terminal y undo 2
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"db's connection to net2"* ]]
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
    # what is forgotten behind it is in no journal
    same "$(tac <<<"$done_")" "$(sed -n 's/^+ //p' <<<"$ERR" | grep -v ^conntrack | sed -E 's/ netns [0-9]+ name / netns $$ name /')"
    same "$before" "$(kernel_state)"
}

@test "undoing a second time is no error and changes nothing" {
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap network create --subnet 10.0.1.1/24 net2 -q
    netwrap undo 1 -q
    kept=$(kernel_state)
    nw undo 1
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"already undone"* ]]
    same "$kept" "$(kernel_state)"
    same "net2" "$(standing)"
}

# What netwrap says that stands, and what of the log is not undone.
documents() {
    netwrap ps --json
    netwrap network list --json
    netwrap log --json | jq -c '.[] | select(.state != "undone" and (.what | startswith("undo ") | not))'
}

@test "undo of a teardown builds it up again as it was, beside rules of others, in every mode" {
    people
    build
    netwrap network link net1 net2 -q
    host iptables -w -A FORWARD -j ACCEPT
    host iptables -w -t nat -I POSTROUTING 3 -d 192.0.2.0/24 -j RETURN
    host iptables -w -t nat -A PREROUTING -p tcp --dport 7 -j RETURN
    before=$(kernel_state)
    stands=$(documents)
    while read -r how command; do
        # shellcheck disable=SC2086
        netwrap $command -q >/dev/null
        id=$(netwrap log --json | jq '.[-1].id')
        if [ "$how" = dry-run ]; then
            back=$(netwrap undo --dry-run --json 2>/dev/null | jq -r 'reverse | .[].undo | select(. != "")')
            nw undo --dry-run
            script=$OUT
            host bash <<<"$script" >/dev/null 2>&1
            same "$before" "$(kernel_state)" || { echo "$command, dry run" >&2 && return 1; }
            host bash -ec "$back" >/dev/null 2>&1
            nw undo
            same "$(grep -v -e '^#' -e '^$' -e '^set -e$' <<<"$script")" "$(sed -n 's/^+ //p' <<<"$ERR")" # what runs is what it prints
        elif [ "$how" = step ]; then
            on_a_terminal '\r' undo --step
        else
            nw undo "$how"
        fi
        [ "$CODE" -eq 0 ] || { echo "$command: $ERR" >&2 && return 1; }
        [[ $ERR == *"undoing $id: "* ]]
        same "$before" "$(kernel_state)" || { echo "$command, $how: $ERR" >&2 && return 1; }
        same "$stands" "$(documents)"
    done <<'END'
-q unpublish web 8080:80
--batch disconnect web --net net1
-q disconnect web --net net2
step disconnect db
dry-run network unlink net1 net2
--batch network remove --force net1
dry-run network remove --force net1 net2
END
    netwrap undo 1 --yes -q
    [ "$(standing | head -n 1)" = net2 ]
    netwrap undo "$(netwrap log --json | jq '.[-1].id')" -q # an undo is taken back by its number
    same "$before" "$(kernel_state)"
    same "$stands" "$(documents)"
    [ "$(netwrap status --json | jq -r '.[].state' | sort -u)" = up ]
}

@test "undo of a teardown that cannot be built up again is refused, and says why" {
    people
    host ip netns add lab
    build
    netwrap connect --net net1 --netns lab -q >/dev/null                # 7
    netwrap publish web 9000:90 --net net1 -q                           # 8
    netwrap unpublish web 9000:90 -q                                    # 9
    netwrap disconnect lab -q                                           # 10
    netwrap disconnect db -q                                            # 11
    netwrap network remove net2 --force -q >/dev/null                   # 12: web's second network
    kept=$(kernel_state)
    cannot() { refused 2 "operation $1, $2, cannot be undone: $3" undo ${4:+"$4"}; }
    host ip link add name net2 type bridge
    cannot 12 "network remove net2" "an interface 'net2' is there by now"
    host ip link del dev net2
    host ip addr add 10.0.1.77/24 dev lo
    cannot 12 "network remove net2" "subnet 10.0.1.0/24 overlaps"
    host ip addr del 10.0.1.77/24 dev lo
    host iptables -w -N NETWRAP-net2
    cannot 12 "network remove net2" "a chain NETWRAP-net2 is there by now"
    host iptables -w -X NETWRAP-net2
    at "$WEB" ip link add name eth1 type bridge
    cannot 12 "network remove net2" "an interface 'eth1' is there in web by now"
    at "$WEB" ip link del dev eth1
    cannot 11 "disconnect db from net2" "network net2, which it needs, is gone" 11
    host ip netns del lab
    cannot 10 "disconnect lab from net1" "the namespace that /run/netns/lab led to is gone" 10
    [ "${ERR##*$'\n'}" = "hint: netwrap undo 9" ] # the operation before
    host ip netns add lab # another one
    cannot 10 "disconnect lab from net1" "the namespace that /run/netns/lab led to is gone" 10
    serve 1 tcp 127.0.0.1 9000 somebody
    wait_for host bash -c 'echo >/dev/tcp/127.0.0.1/9000'
    cannot 9 "unpublish web 9000:90/tcp" "port '9000:90/tcp': a socket of this host listens" 9
    same "$kept" "$(kernel_state)"
    netwrap undo -q                                                     # 13
    db=$DB
    container
    netwrap connect --net net2 --pid "$PID" --name new --ip 10.0.1.3 -q >/dev/null # 14
    cannot 11 "disconnect db from net2" "address 10.0.1.3 is in use by new" 11
    netwrap disconnect new -q                                           # 15
    end "$db"
    cannot 11 "disconnect db from net2" "process $db (db) has exited" 11
    netwrap publish web 9001:90 --net net2 -q                           # 16
    netwrap unpublish web 9001:90 -q                                    # 17
    netwrap disconnect web --net net2 -q
    netwrap connect --net net2 --pid "$WEB" --ip 10.0.1.9 -q >/dev/null
    cannot 17 "unpublish web 9001:90/tcp" "web's connection to net2, which it needs, has been made anew since" 17
}

@test "repair, gc and a run that has ended have nothing to take back, and the operation before is named" {
    container
    netwrap network create --subnet 10.0.0.1/24 net1 -q                 # 1
    netwrap run --net net1 --name job -q -- true                        # 2, and its end: 3
    refused 2 "operation 3, disconnect job from net1, has nothing to undo" undo
    [ "${ERR##*$'\n'}" = "hint: netwrap undo 1" ]
    refused 2 "operation 2, run job on net1, has nothing to undo: it has ended" undo 2
    netwrap connect --net net1 --pid "$PID" --name web -q               # 4
    host ip addr flush dev net1
    netwrap repair -q                                                   # 5
    refused 2 "operation 5, repair net1, has nothing to undo" undo
    [ "${ERR##*$'\n'}" = "hint: netwrap undo 4" ]
    end "$PID"
    netwrap gc -q                                                       # 6
    refused 2 "operation 6, gc web, has nothing to undo" undo
    [ "${ERR##*$'\n'}" = "hint: netwrap undo 1" ]
    netwrap undo 1 -q
    [ "$(netwrap network list --json)" = "[]" ]
}

@test "a process that run has started, and that lives, is connected again; its end takes all down" {
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    host netwrap run -d --net net1 --name job -p 8080:80 -q -- sleep 1000 >/dev/null
    ran=$(kernel_state)
    netwrap disconnect job -q
    netwrap undo -q
    same "$ran" "$(kernel_state)"
    pid=$(netwrap ps --json | jq '.[0].pid')
    host kill -KILL "$pid"
    nobody_is_listed() { [ "$(netwrap ps --json)" = "[]" ]; }
    wait_for nobody_is_listed
    netwrap network remove net1 -q
    same "$before" "$(kernel_state)"
}

@test "a port that was taken back comes again in its place, and the matching commands take down the rest" {
    container
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 -p 8081:81 -q
    connected=$(kernel_state)
    netwrap unpublish web 8080:80 -q
    netwrap unpublish web 8081:81 -q
    netwrap undo 3 -q # the first one alone, and what ports need with it
    same "net1
web/net1 8080:80/tcp" "$(standing)"
    netwrap undo -q
    same "$connected" "$(kernel_state)"
    [ "$(states)" = "done done undone undone done done" ]
    netwrap unpublish web 8080:80 -q
    netwrap disconnect web -q
    netwrap undo -q
    netwrap undo -q
    same "$connected" "$(kernel_state)"
    netwrap undo -q
    same "net1" "$(standing)"
    netwrap network remove net1 -q
    same "$before" "$(kernel_state)"
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

@test "each command that fails while what was taken down is built up again takes back those before it" {
    on_hosts <<'END'
fail-points rebuild
fail-points rebuild --batch
END
}

@test "a command that never ends is ended after NETWRAP_TIMEOUT, and those before it are taken back" {
    on_hosts <<'END'
fail-points create --hang
fail-points connect --hang
END
}
