#!/usr/bin/env bats
# The main job, from nothing to nothing.

load helpers

setup() { host_up; }
teardown() { host_down; }

@test "create, connect, publish and undo leave the kernel as it was" {
    container
    before=$(kernel_state)
    run host netwrap network create --subnet 10.0.0.1/24 testbridge
    [ "$status" -eq 0 ]
    run host netwrap --state-dir /run/netwrap connect --pid "$PID" --net testbridge -p 8080:80 --quiet
    [ "$status" -eq 0 ]
    [ "$output" = 10.0.0.2 ]
    host ip netns exec "$(host netwrap ps --json | jq -r '.[0].name')" ping -c 1 -W 5 10.0.0.1
    host netwrap undo
    host netwrap undo
    same "$before" "$(kernel_state)"
}
