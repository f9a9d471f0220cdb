#!/usr/bin/env bats
# Somebody else on the same host: takes away what is ours, renames it, has our names before us.

load helpers

setup() { host_up; }
teardown() { host_down; }

@test "whatever somebody does to what stands, status names it, repair mends it, and remove leaves nothing" {
    on_hosts <<<"meddle remove"
}

@test "the same where it is disconnected one by one, and where it is undone" {
    on_hosts <<'END_OF_LINES'
meddle disconnect
meddle undo
END_OF_LINES
}

not_up() { netwrap status --json | jq -r '.[] | select(.state != "up") | .object' | sort | paste -sd ' '; }

@test "repair of one network or one container mends that one and what it stands on" {
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    netwrap connect --quiet --net a --pid "$PID" --name c1
    host ip link del dev a
    host ip addr del 10.0.1.1/24 dev b
    [ "$(not_up)" = "endpoint:c1/a network:a network:b" ]
    nw repair c1
    [ "$CODE" -eq 0 ]
    [ "$(not_up)" = network:b ]
    refused 2 nowhere repair nowhere
    netwrap repair --quiet b
    netwrap status >/dev/null
}

@test "repair takes nothing of somebody else's away to make room" {
    local before
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap connect --quiet --net a --pid "$PID" --name c1
    host ip link del dev a
    host ip link add name a type bridge
    host ip netns del c1
    host ip netns add c1
    before=$(kernel_state)
    nw repair
    [ "$CODE" -eq 1 ]
    [[ $ERR == *"netwrap: the interface 'a' exists, and it is not netwrap's"*$'\n'"hint: "* ]]
    same "$before" "$(kernel_state)"
    host ip link del dev a
    nw repair
    [ "$CODE" -eq 1 ]
    [[ $ERR == *"netwrap: /run/netns/c1 is the name of a namespace that is not netwrap's"*$'\n'"hint: "* ]]
    netwrap network remove --quiet --force a
    host test -e /run/netns/c1
}

@test "names that somebody has before us: a link, a handle, a veth; what is theirs stays" {
    local before
    container
    host ip link add name net1 type bridge
    host ip netns add web
    host ip link add name veth5b5fc03 type veth peer name peer5b5fc03
    before=$(kernel_state)
    refused 2 "'net1'" network create net1
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    refused 2 "'web'" connect --net testbridge --pid "$PID" --name web
    netwrap connect --quiet --net testbridge --pid "$PID" --name c1
    [ "$(netwrap ps --json | jq -r '.[].veth')" != veth5b5fc03 ]
    netwrap network remove --quiet --force testbridge
    same "$before" "$(kernel_state)"
}

@test "a link that lost our mark is not removed" {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    host ip link set dev a group default
    netwrap network remove --quiet a
    host ip link show dev a >/dev/null
    [ "$(netwrap network list --json)" = "[]" ]
}

@test "status is quiet and 0 where all holds, and says what it could not look at" {
    local before
    nw status --json
    [ "$CODE$OUT" = "0[]" ]
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    before=$(kernel_state)
    nw status
    [ "$CODE" -eq 0 ]
    [ "$(head -n 1 <<<"$OUT" | xargs)" = "OBJECT STATE NO LONGER HOLDS" ]
    [[ $OUT == *"network:a"*"up"* ]]
    same "$before" "$(kernel_state)"
    run unprivileged netwrap status
    [[ $output == *"not looked at: firewall rules cannot be seen without root"* ]]
}
