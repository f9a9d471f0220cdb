#!/usr/bin/env bats
# Random create / connect / publish / unpublish / disconnect / remove sequences. NETWRAP_SEED repeats a run.

load helpers

setup() { host_up; }
teardown() { host_down; }

@test "random sequences leave links, addresses, routes, rules, sysctls and /run/netns as they were" {
    seed=${NETWRAP_SEED:-$((RANDOM * 32768 + RANDOM))}
    echo "NETWRAP_SEED=$seed"
    for n in 0 1 2 3; do # four hosts; with NETWRAP_EVERY=8 or less it is 100 sequences
        echo "random-sequences $((NETWRAP_EVERY > 32 ? 3 : NETWRAP_EVERY > 8 ? 8 : 25)) $((seed + n))"
    done | on_hosts
}
