#!/usr/bin/env bats
# dry run | bash = run = step = batch: the same kernel state, for every case file of bats/cases.

load helpers

setup() { host_up; }
teardown() { host_down; }

# The driver "equality" runs a case in all ways, and takes back what builds something up; then its scripts are read.
cases() {
    local scripts=$BATS_TEST_TMPDIR/scripts file n=0 step=$(((NETWRAP_EVERY + 7) / 8))
    mkdir "$scripts"
    for file in "$BATS_TEST_DIRNAME"/cases/"$1"*; do
        ((n++ % step)) || printf 'equality %s %s\n' "$file" "$scripts"
    done | on_hosts
    for file in "$scripts"/*.script; do
        bash -n "$file"
    done
    shellcheck -s bash "$scripts"/*.script
}

@test "every way to create a network gives the same kernel state, and undo the state before" { cases create; }

@test "every way to connect a container gives the same kernel state, and undo the state before" { cases connect; }

@test "every way to publish a port gives the same kernel state, and undo the state before" { cases publish; }

@test "every way to disconnect a container gives the same kernel state" { cases disconnect; }

@test "every way to take a published port back gives the same kernel state" { cases unpublish; }

@test "every way to link two networks gives the same kernel state, and undo the state before" { cases link; }

@test "every way to unlink them gives the same kernel state" { cases unlink; }

@test "every way to remove a network gives the same kernel state" { cases network-remove; }

@test "every way to undo gives the same kernel state" { cases undo; }

@test "stdout of a dry run is the script alone, also for the command as a user starts it" {
    container
    nw network create --subnet 10.0.0.1/24 net1 --dry-run
    [ "$CODE" -eq 0 ]
    [ "${OUT%%$'\n'*}" = "#!/usr/bin/env bash" ]
    before=$(kernel_state)
    host bash -c "$OUT" >/dev/null
    made=$(kernel_state)
    host bash -euc "$(sed -n 's/^# undo: //p' <<<"$OUT")" >/dev/null
    same "$before" "$(kernel_state)"
    nw network create --subnet 10.0.0.1/24 net1
    [ "$OUT" = net1 ]
    same "$made" "$(kernel_state)"
    for command in "connect --net net1 --pid $PID" "network remove net1" undo; do
        # shellcheck disable=SC2086
        nw $command --dry-run
        [ "$CODE" -eq 0 ]
        bash -n <<<"$OUT"
        # shellcheck disable=SC2086
        nw $command --dry-run --json
        [ "$(jq -r 'map(keys_unsorted | join(" ")) | unique | .[]' <<<"$OUT")" = "n do undo ns why" ]
    done
    same "$made" "$(kernel_state)"
}

@test "a network over what such a script has left is refused, and the hint removes all of that" {
    local before left
    nw network create --subnet 10.0.0.1/24 net1 --dry-run
    host bash -c "$OUT" >/dev/null
    refused 2 "interface net1, chain NETWRAP, chain NETWRAP-net1" network create --subnet 10.0.0.1/24 net1
    refused 2 "not in this state" network create --subnet 10.5.0.1/24 net3 # NETWRAP is in its way
    host bash -euc "${ERR##*hint: }"
    netwrap network create --quiet --subnet 10.0.0.1/24 net1

    # Beside a network that stands, which stays.
    before=$(kernel_state)
    for words in "--subnet 10.0.1.1/24 net2" "--subnet 10.0.1.1/24 net2 --internal"; do
        # shellcheck disable=SC2086
        nw network create --dry-run $words
        host bash -c "$OUT" >/dev/null
        left=$(kernel_state)
        # shellcheck disable=SC2086
        refused 2 "not in this state" network create $words
        same "$left" "$(kernel_state)"
        host bash -euc "${ERR##*hint: }"
        same "$before" "$(kernel_state)"
    done
    [ "$(netwrap status --json | jq -r '[.[].state] | unique | .[]')" = up ]

    # A lost state, with containers and ports.
    container
    netwrap connect --quiet --net net1 --pid "$PID" --name web -p 8080:80 -p 53:53/udp
    host rm -r /run/netwrap
    nw network create --subnet 10.0.0.1/24 net1
    [ "$CODE" -eq 2 ]
    host bash -euc "${ERR##*hint: }"
    [ "$(host iptables-save | grep -ic netwrap)" -eq 0 ]
    netwrap network create --quiet --subnet 10.0.0.1/24 net1
    netwrap connect --quiet --net net1 --netns web
}

@test "a dry run makes no state directory" {
    nw --state-dir /run/fresh network create net1 --dry-run
    [ "$CODE" -eq 0 ]
    run host test -e /run/fresh
    [ "$status" -ne 0 ]
    run host test -e /run/netwrap
    [ "$status" -ne 0 ]
}
