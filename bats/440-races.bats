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
