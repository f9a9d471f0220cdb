#!/usr/bin/env bats
# --step: why, the command, a key, what changed.

load helpers

setup() { host_up; }
teardown() { host_down; }

questions() { grep -c 'q = stop' <<<"$ERR" || true; }

@test "step mode shows why and the command before it runs, and what it changed" {
    nw network create --subnet 10.0.0.1/24 net1 --dry-run --json
    steps=$OUT
    on_a_terminal '\r' network create --subnet 10.0.0.1/24 net1 --step
    [ "$CODE" -eq 0 ]
    [ "$OUT" = net1 ]
    [ "$(questions)" -eq "$(jq length <<<"$steps")" ]
    rest=$ERR
    for n in $(seq 0 $(($(jq length <<<"$steps") - 1))); do # in the order of the plan
        for text in "$(jq -r ".[$n].why" <<<"$steps")" "$(jq -r ".[$n].do" <<<"$steps")" "a = all the rest"; do
            [[ $rest == *"$text"* ]] || { echo "step $((n + 1)): not in its place: $text" >&2 && return 1; }
            rest=${rest#*"$text"}
        done
        # What it changed stands between this question and the next why.
        changed=${rest%%$'\n# '*}
        [ "$(grep -c '^  + ' <<<"$changed")" -ge 1 ]
        [ -z "$(grep '^  [+-] ' <<<"$changed" | sort | uniq -d)" ] # each change once
    done
    [[ $ERR == *"+ addr 10.0.0.1/24 dev net1"* ]]
    [[ $ERR == *"+ sysctl net.ipv4.conf.all.forwarding = 1"* ]]
    [[ $ERR != *"no change"* ]]
}

@test "step mode shows tables of routes, and rules that lead to them" {
    container
    netwrap network create --subnet 10.0.0.1/24 net1 --quiet
    netwrap network create --subnet 10.0.1.1/24 net2 --quiet
    netwrap connect --net net1 --pid "$PID" --name web --quiet
    on_a_terminal '\r' connect --net net2 --pid "$PID" --step
    [ "$CODE" -eq 0 ]
    [ "$(grep -c '^  + \[web\] route default via 10.0.1.1 dev eth1 table 102$' <<<"$ERR")" -eq 1 ]
    [ "$(grep -c '^  + \[web\] rule from 10.0.1.2 table 102$' <<<"$ERR")" -eq 1 ]
    [[ $ERR != *"no change"* ]]
}

@test "q stops before the step it is asked for, and rolls back what was done and nothing else" {
    netwrap network create --subnet 10.0.0.1/24 net1 --quiet
    container
    before=$(kernel_state)
    for keys in q '\rq' '\r\r\r\r\r\r\r\rq' "$(printf '\\r%.0s' {1..15})q"; do
        nw connect --net net1 --pid "$PID" --name web -p 8080:80 -p 5300:53/udp --dry-run --json
        steps=$OUT
        on_a_terminal "$keys" connect --net net1 --pid "$PID" --name web -p 8080:80 -p 5300:53/udp --step
        [ "$CODE" -eq 130 ]
        ran=$(($(grep -o '\\r' <<<"$keys" | wc -l)))
        back=$(sed -n '/^# rolling back/,$s/^+ //p' <<<"$ERR" | sed 's/netns [0-9]* name/netns PID name/' | sort)
        same "$(jq -r ".[:$ran][].undo" <<<"$steps" | sed "s/\\$\\$/PID/" | sort)" \
            "$(grep -vE '^conntrack -D|^ip neigh flush' <<<"$back")"
        # Connections are forgotten if there was an address that could have had some.
        addressed=$(jq -r ".[:$ran][].do" <<<"$steps" | grep -c 'addr add 10.' || true)
        [ "$(grep -cE '^conntrack -D|^ip neigh flush' <<<"$back")" -eq $((3 * addressed)) ]
        [ -z "$OUT" ]
        same "$before" "$(kernel_state)"
        [ "$(netwrap ps --json)" = "[]" ]
        [ "$(netwrap log --json | jq -r '.[-1].state')" = "rolled back" ]
    done
    [[ $ERR == *"netwrap: "*$'\n'"hint: "* ]]
}

@test "a runs all the rest without asking" {
    on_a_terminal '\r\ra' network create --subnet 10.0.0.1/24 net1 --step
    [ "$CODE" -eq 0 ]
    [ "$(questions)" -eq 3 ]
    [ "$(netwrap network inspect net1 | jq -r .state)" = up ]
}

@test "a question mark tells more and asks again" {
    on_a_terminal '??a' network create --subnet 10.0.0.1/24 net1 --step
    [ "$CODE" -eq 0 ]
    [ "$(questions)" -eq 3 ]
    on_a_terminal '?q' network create --subnet 10.1.0.1/24 net2 --step
    [ "$CODE" -eq 130 ]
    [ "$(questions)" -eq 2 ]
    [[ $ERR == *"ip link del dev net2"* ]] # how the step is taken back
    [[ $ERR == *"man 8 ip-link"* ]]
}

@test "another key asks again and runs nothing" {
    on_a_terminal 'xyq' network create --subnet 10.0.0.1/24 net1 --step
    [ "$CODE" -eq 130 ]
    [ "$(questions)" -eq 3 ]
    [[ $ERR != *"+ sysctl"* ]]
}

@test "Ctrl-C and Ctrl-D at the question stop and roll back" {
    before=$(kernel_state)
    for key in $'\003' $'\004'; do
        on_a_terminal "\\r\\r$key" network create --subnet 10.0.0.1/24 net1 --step
        [ "$CODE" -eq 130 ]
        same "$before" "$(kernel_state)"
        [ "$(netwrap network list --json)" = "[]" ]
    done
}

@test "step mode without a terminal is a usage error" {
    before=$(kernel_state)
    nw network create net1 --step
    [ "$CODE" -eq 2 ]
    [ -z "$OUT" ]
    [[ $ERR == "netwrap: "*"--step"*$'\n'"hint: "* ]]
    [ "$(wc -l <<<"$ERR")" -eq 2 ]
    same "$before" "$(kernel_state)"
}

@test "step mode asks at a teardown too" {
    container
    before=$(kernel_state)
    netwrap network create --subnet 10.0.0.1/24 net1 --quiet
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 --quiet
    for command in "unpublish web 8080:80" "disconnect web" "network remove net1"; do
        # shellcheck disable=SC2086
        nw $command --dry-run --json
        steps=$OUT
        # shellcheck disable=SC2086
        on_a_terminal '\r' $command --step
        [ "$CODE" -eq 0 ]
        [ "$(questions)" -eq "$(jq length <<<"$steps")" ]
    done
    same "$before" "$(kernel_state)"
}

@test "q in the middle of a teardown: everything stands again" {
    netwrap network create --subnet 10.0.0.1/24 net1 --quiet
    container
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 --quiet
    before=$(kernel_state)
    stands=$(netwrap ps --json && netwrap network list --json)
    for command in "unpublish web 8080:80" "disconnect web" "undo" "network remove --force net1"; do
        for keys in q '\r\rq' '\r\r\r\r\r\r\rq'; do
            # shellcheck disable=SC2086
            on_a_terminal "$keys" $command --step
            [ "$CODE" -eq 130 ] || { echo "$command, $keys: exit $CODE: $ERR" >&2 && return 1; }
            same "$before" "$(kernel_state)"
            same "$stands" "$(netwrap ps --json && netwrap network list --json)"
        done
    done
    netwrap undo --quiet
    netwrap undo --quiet
    [ "$(netwrap network list --json)" = "[]" ]
}
