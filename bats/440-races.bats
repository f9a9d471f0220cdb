#!/usr/bin/env bats
# Many netwraps at once: one after the other by the lock, and nothing lost.

load helpers

setup() { host_up; }
teardown() { host_down; }

@test "50 connects at once on one network: 50 addresses, every rule, no failure" {
    on_hosts <<<"races connects 50"
}

@test "several processes connect, publish, disconnect, create and remove at random: consistent at any moment" {
    on_hosts <<<"races random $((NETWRAP_EVERY > 32 ? 6 : NETWRAP_EVERY > 8 ? 12 : 60))"
}

@test "several processes at random, and some of them killed: the next command recovers" {
    on_hosts <<<"races killed $((NETWRAP_EVERY > 32 ? 6 : NETWRAP_EVERY > 8 ? 8 : 30))"
}

@test "a lock holder that was killed does not block" {
    local n=0
    host env NETWRAP_KILL_AT=5 netwrap network create --subnet 10.0.0.1/24 a || n=$?
    [ "$n" -eq 137 ]
    nw network create --subnet 10.0.1.1/24 b
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"network create a, was cut off; it is rolled back first"* ]]
}

@test "an ordinary user is told that root is at work, and of what was cut off once root's netwrap is gone" {
    unprivileged netwrap --version || skip "an ordinary user may not run $NETWRAP"
    local command
    slowly 4 network create --subnet 10.0.0.1/24 a
    for command in "status --json" "network create --dry-run b" "gc --dry-run"; do
        # shellcheck disable=SC2086  # words
        unprivileged netwrap $command >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" || true
        run grep -E "create a,? was cut off" "$BATS_TEST_TMPDIR/out" "$BATS_TEST_TMPDIR/err"
        [ "$status" -eq 1 ] || { echo "$command: $output" >&2 && return 1; }
    done
    [[ $(unprivileged netwrap status 2>&1) == *"netwrap network create a (pid $NETWRAP_PID) is changing"* ]]
    host kill -KILL "$NETWRAP_PID"
    touch "$SLOW/go"
    wait_for gone "$WAITING"
    unprivileged netwrap status --json | grep -q 'network create a was cut off'
    unprivileged netwrap network create --dry-run b 2>&1 | grep -q 'network create a, was cut off'
}
