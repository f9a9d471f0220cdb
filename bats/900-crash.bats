#!/usr/bin/env bats
# SIGKILL at every point of every changing command, and signals in the middle of one.

load helpers

setup() { host_up; }

teardown() { host_down; }

ended_or_waits() { [ -e "$1/code" ] || grep -q "waiting for" "$1/err"; }

@test "killed at any point of network create, and again in the recovery, the next command rolls it back" {
    on_hosts <<'END'
kill-points create points recovery
kill-points create --batch points anytime
kill-points second-create --batch points
END
}

@test "killed at any point of connect with ports, at any time, and again in the recovery, the next command rolls it back" {
    on_hosts <<'END'
kill-points connect points anytime
kill-points connect --batch points recovery
END
}

@test "killed at any point of publish, the next command rolls it back" {
    on_hosts <<'END'
kill-points publish points anytime
kill-points publish --batch points recovery
END
}

@test "killed at any point of run, building up and taking down, nothing is left after the next command" {
    on_hosts <<'END'
kill-points run points anytime
kill-points run --batch points recovery
END
}

@test "killed at any point of unpublish, the next command finishes it" {
    on_hosts <<'END'
kill-points unpublish points
kill-points unpublish --batch points recovery
END
}

@test "killed at any point of disconnect, at any time, and again in the recovery, the next command finishes it" {
    on_hosts <<'END'
kill-points disconnect points recovery anytime
kill-points disconnect --batch points
END
}

@test "killed at any point of network remove --force, the next command finishes it" {
    on_hosts <<'END'
kill-points remove points
kill-points remove --batch points recovery anytime
END
}

@test "killed at any point of undo, the next command finishes it" {
    on_hosts <<'END'
kill-points undo points recovery anytime
kill-points undo --batch points
END
}

@test "killed at any point of undo of a teardown, the next command rolls it back" {
    on_hosts <<'END'
kill-points rebuild points anytime
kill-points rebuild --batch points recovery
END
}

@test "killed at any point of link it is rolled back, and of unlink it is finished" {
    on_hosts <<'END'
kill-points link points recovery
kill-points link --batch points
kill-points unlink points recovery
kill-points unlink --batch points
END
}

@test "killed at any point of repair, the next command rolls it back, and another repair mends all" {
    on_hosts <<'END'
kill-points repair points anytime
kill-points repair --batch points recovery
END
}

@test "any changing command recovers first, says so, and then does its own work" {
    container
    before=$(kernel_state)
    run host env NETWRAP_KILL_AT=30 netwrap network create --subnet 10.0.0.1/24 net1
    [ "$status" -eq 137 ]
    nw network list --json
    [ "$CODE" -eq 0 ] # who only looks recovers nothing, and can look
    nw network create --subnet 10.99.0.0/24 other
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"network create net1"*"rolled back"* ]]
    [ "$(netwrap network list --json | jq -r '.[].name')" = other ]
    run host env NETWRAP_KILL_AT=9 netwrap connect --net other --pid "$PID"
    [ "$status" -eq 137 ]
    nw network remove other # not in use: the half-done endpoint goes first
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"rolled back"* ]]
    same "$before" "$(kernel_state)"
    nw network create --subnet 10.99.0.0/24 other
    [[ $ERR != *"rolled back"* ]]
}

@test "SIGINT, SIGTERM and SIGHUP in the middle of a build-up roll it back: exit 130" {
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    container
    before=$(kernel_state)
    for signal in INT TERM HUP; do
        for n in 1 5 12; do
            slowly "$n" connect --net net1 --pid "$PID" --name web -p 8080:80
            host kill "-$signal" "$NETWRAP_PID"
            wait_for test -e "$SLOW/code"
            [ "$(cat "$SLOW/code")" -eq 130 ] || { cat "$SLOW/err" >&2 && return 1; }
            [ ! -s "$SLOW/out" ]
            grep -q "^netwrap: .*SIG$signal.*rolled back" "$SLOW/err"
            touch "$SLOW/go"
            wait_for gone "$WAITING"
            same "$before" "$(kernel_state)"
            [ "$(netwrap ps --json)" = "[]" ]
        done
    done
}

@test "a signal in the middle of a batch rolls it back" {
    before=$(kernel_state)
    for n in 1 2 3; do
        slowly "$n" network create --subnet 10.0.0.1/24 net1 --batch
        host kill -TERM "$NETWRAP_PID"
        wait_for test -e "$SLOW/code"
        [ "$(cat "$SLOW/code")" -eq 130 ]
        same "$before" "$(kernel_state)"
    done
    [ "$(netwrap network list --json)" = "[]" ]
}

@test "a signal in the middle of a teardown: everything stands again" {
    container
    netwrap network create --subnet 10.0.0.1/24 net1 -q
    netwrap connect --net net1 --pid "$PID" --name web -p 8080:80 -q
    before=$(kernel_state)
    stands=$(netwrap ps --json)
    for n in 1 6 14; do
        slowly "$n" network remove --force net1
        host kill -INT "$NETWRAP_PID"
        wait_for test -e "$SLOW/code"
        [ "$(cat "$SLOW/code")" -eq 130 ] || { cat "$SLOW/err" >&2 && return 1; }
        same "$before" "$(kernel_state)"
        same "$stands" "$(netwrap ps --json)"
    done
}

@test "a second signal while it rolls back does not stop that" {
    before=$(kernel_state)
    slowly 6 network create --subnet 10.0.0.1/24 net1
    for _ in 1 2 3; do
        host kill -INT "$NETWRAP_PID" 2>/dev/null || true
    done
    wait_for test -e "$SLOW/code"
    [ "$(cat "$SLOW/code")" -eq 130 ]
    same "$before" "$(kernel_state)"
}

@test "a command that a killed netwrap has started does not take effect after the recovery" {
    before=$(kernel_state)
    for n in 4 8; do # the bridge; a rule
        slowly "$n" network create --subnet 10.0.0.1/24 net1
        host kill -KILL "$NETWRAP_PID"
        wait_for test -e "$SLOW/code"
        # The recovery either finds the command ended or waits for it: then it is let go.
        background "$SLOW/recovery" undo
        wait_for ended_or_waits "$SLOW/recovery"
        touch "$SLOW/go"
        wait_for gone "$WAITING"
        wait_for test -e "$SLOW/recovery/code"
        same "$before" "$(kernel_state)"
    done
}

@test "while one command changes, another waits and says for whom" {
    slowly 3 network create --subnet 10.0.0.1/24 net1
    background "$SLOW/second" network create --subnet 10.0.1.1/24 net2
    wait_for grep -q "waiting for netwrap network create net1" "$SLOW/second/err"
    [ ! -e "$SLOW/second/code" ]
    touch "$SLOW/go"
    wait_for test -e "$SLOW/second/code"
    [ "$(cat "$SLOW/code")$(cat "$SLOW/second/code")" = 00 ]
    [ "$(netwrap network list --json | jq -r '.[] | "\(.name) \(.state)"')" = "net1 up
net2 up" ]
}
