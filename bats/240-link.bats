#!/usr/bin/env bats
# network link and unlink: what they say, what they refuse, what goes along. Who reaches whom then: 220-traffic.

load helpers

setup() { host_up; }
teardown() { host_down; }

two() {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
}

links() { netwrap network inspect "$1" | jq -c .links; }

@test "link and unlink are a pair, in either order of the names" {
    local before linked
    two
    before=$(kernel_state)
    nw network link b a
    [ "$CODE" -eq 0 ]
    [ -z "$OUT" ]
    [[ $ERR == *"+ iptables -w -I NETWRAP-a -i b "* ]]
    linked=$(kernel_state)
    [ "$(links a) $(links b)" = '["b"] ["a"]' ]
    nw network unlink a b
    [ "$CODE" -eq 0 ]
    [ -z "$OUT" ]
    [ "$(links a) $(links b)" = '[] []' ]
    same "$before" "$(kernel_state)"
    netwrap network link a b --batch --quiet
    same "$linked" "$(kernel_state)"
    netwrap undo --quiet
    same "$before" "$(kernel_state)"
}

@test "the dry run of link gives the same kernel state" {
    local linked
    two
    netwrap network link a b --dry-run 2>/dev/null >"$BATS_TEST_TMPDIR/script"
    host bash <"$BATS_TEST_TMPDIR/script" >/dev/null 2>&1
    linked=$(kernel_state)
    host bash -c "$(netwrap network link a b --dry-run --json 2>/dev/null | jq -r 'reverse | .[].undo')" >/dev/null 2>&1
    netwrap network link a b --quiet
    same "$linked" "$(kernel_state)"
}

@test "what cannot be linked or unlinked is refused" {
    two
    netwrap network create --quiet --internal i
    netwrap network create --quiet gone
    host ip link del dev gone
    refused 2 "itself" network link a a
    refused 2 "nowhere" network link a nowhere
    refused 2 "internal" network link a i
    refused 1 "down" network link a gone
    refused 2 "not linked" network unlink a b
    refused 2 "nowhere" network unlink nowhere b
    netwrap network link a b --quiet
    refused 2 "already linked" network link b a
}

@test "a network that is removed takes its links along, and undo of create says so" {
    local before
    before=$(kernel_state)
    two
    netwrap network link a b --quiet
    nw undo 1
    [ "$CODE" -eq 2 ]
    [[ $ERR == *"the link of a and b"* ]]
    netwrap network remove --quiet a
    [ "$(links b)" = '[]' ]
    netwrap network remove --quiet b
    same "$before" "$(kernel_state)"
}

@test "STATE of both networks tells when a rule of the link is gone" {
    two
    netwrap network link a b --quiet
    host iptables -D NETWRAP-b -i a -m comment --comment netwrap:a+b -j ACCEPT
    [ "$(netwrap network list --json | jq -r '.[].state' | paste -sd ' ')" = "drifted drifted" ]
    netwrap network unlink a b --quiet
    [ "$(netwrap network list --json | jq -r '.[].state' | paste -sd ' ')" = "up up" ]
}
