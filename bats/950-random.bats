#!/usr/bin/env bats
# 100 random create / connect / publish / unpublish / disconnect / remove sequences. NETWRAP_SEED repeats a run.

load helpers

setup() { host_up; }
teardown() { host_down; }

@test "100 random sequences leave links, addresses, routes, rules, sysctls and /run/netns as they were" {
    seed=${NETWRAP_SEED:-$((RANDOM * 32768 + RANDOM))}
    echo "NETWRAP_SEED=$seed"
    for n in 0 1 2 3; do # four hosts
        echo "random-sequences 25 $((seed + n))"
    done | on_hosts
}
