#!/usr/bin/env bats
# connect and disconnect: by pid, handle or engine; addresses, several networks, --hold.

load helpers

setup() { host_up; }
teardown() { host_down; }

network() { netwrap network create --quiet --subnet "${2:-10.0.0.1/24}" "${1:-testbridge}"; }
reaches() { at "$1" ping -c 1 -W 20 "$2"; }

@test "connect by --pid prints the address; the container reaches its neighbour and the gateway" {
    local c1 c2 before
    container
    c1=$PID
    container
    c2=$PID
    before=$(kernel_state)
    network
    nw connect --net testbridge --pid "$c1"
    [ "$CODE" -eq 0 ]
    [ "$OUT" = 10.0.0.2 ]
    grep -q '^+ ip link add ' <<<"$ERR"
    nw connect --net testbridge --pid "$c2" --quiet
    [ "$OUT" = 10.0.0.3 ]
    [ -z "$ERR" ]
    reaches "$c1" 10.0.0.3
    reaches "$c2" 10.0.0.2
    reaches "$c1" 10.0.0.1
    host ping -c 1 -W 20 10.0.0.2
    at "$c1" ping -c 1 -W 20 127.0.0.1 # lo is up inside
    at "$c1" ip route show default | grep -q '^default via 10.0.0.1 dev eth0'
    nw ps
    [ "$(awk 'NR == 1 {$1 = $1; print}' <<<"$OUT")" = "NAME PID NETWORK IP IFNAME VETH PORTS STATE" ]
    [[ "$(awk -v pid="$c1" '$2 == pid {$1 = $1; print}' <<<"$OUT")" =~ ^c-[0-9a-f]{8}\ $c1\ testbridge\ 10.0.0.2\ eth0\ [^\ ]+\ -\ up$ ]]
    netwrap disconnect --quiet --pid "$c1"
    run reaches_in_time "$c2" 10.0.0.2
    [ "$status" -ne 0 ]
    netwrap disconnect --quiet "$(netwrap ps --json | jq -r '.[0].name')"
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

reaches_in_time() { at "$1" ping -c 1 -W 1 "$2"; }

@test "--name, --ip, --mac and --ifname are as asked, and in the JSON of the endpoint" {
    local before
    container
    before=$(kernel_state)
    network
    [ "$(netwrap connect --quiet --net testbridge --pid "$PID" --name web --ip 10.0.0.77 --mac 02:00:00:00:00:07 --ifname net7 -p 8080:80 -p 127.0.0.1:53:53/udp)" = 10.0.0.77 ]
    at "$PID" ip -o link show dev net7 | grep -q ' 02:00:00:00:00:07 '
    at "$PID" ip -4 -o addr show dev net7 | grep -q ' 10.0.0.77/24 '
    host test -e /run/netns/web
    netwrap ps --json | jq -e --argjson pid "$PID" 'length == 1 and (.[0] | .name == "web" and .pid == $pid and .net == "testbridge"
        and .ip == "10.0.0.77" and .mac == "02:00:00:00:00:07" and .ifname == "net7" and .state == "up"
        and .ports == ["8080:80/tcp", "127.0.0.1:53:53/udp"])'
    host ip link show dev "$(netwrap ps --json | jq -r '.[0].veth')"
    netwrap disconnect --quiet web
    host sh -c '! test -e /run/netns/web'
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

@test "by --netns the handle that is not ours stays, also when the network goes by force" {
    local before
    host ip netns add theirs
    before=$(kernel_state)
    network
    nw connect --net testbridge --netns theirs
    [ "$OUT" = 10.0.0.2 ]
    [ "$(netwrap ps --json | jq -r '.[0].name')" = theirs ]
    host ip netns exec theirs ping -c 1 -W 20 10.0.0.1
    netwrap disconnect --quiet theirs
    netwrap connect --quiet --net testbridge --netns theirs
    netwrap network remove --quiet --force testbridge
    host ip netns exec theirs true
    same "$before" "$(kernel_state)"
}

@test "by --container the engine is asked for the pid" {
    local before
    container
    before=$(kernel_state)
    network
    mkdir "$BATS_TEST_TMPDIR/bin"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\n[ "$1" = inspect ] || exit 1\nfor last; do :; done\n[ "$last" = my_web ] && echo %s\n' "$PID" >"$BATS_TEST_TMPDIR/bin/docker"
    chmod +x "$BATS_TEST_TMPDIR/bin/docker"
    PATH="$BATS_TEST_TMPDIR/bin:$PATH" nw connect --net testbridge --container my_web
    [ "$OUT" = 10.0.0.2 ]
    [ "$(netwrap ps --json | jq '.[0].pid')" = "$PID" ]
    reaches "$PID" 10.0.0.1
    netwrap disconnect --quiet --pid "$PID"
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

@test "a container's name can be neither an option of the engine nor a command" {
    local name
    container
    network
    mkdir "$BATS_TEST_TMPDIR/bin"
    # shellcheck disable=SC2016
    printf '#!/bin/sh\nprintf "%%s\\n" "$@" >%s/args\nexit 1\n' "$BATS_TEST_TMPDIR" >"$BATS_TEST_TMPDIR/bin/docker"
    chmod +x "$BATS_TEST_TMPDIR/bin/docker"
    # shellcheck disable=SC2016
    for name in --help 'a;b' '$(touch /run/x)' '-f {{.}}'; do
        PATH="$BATS_TEST_TMPDIR/bin:$PATH" refused 2 "$name" connect --net testbridge --container "$name"
        [ "$(tail -n 2 "$BATS_TEST_TMPDIR/args")" = "--"$'\n'"$name" ]
    done
    host test ! -e /run/x
}

@test "of two networks the first gives the default route, and either may go first" {
    local before first
    container
    before=$(kernel_state)
    network a 10.0.0.1/24
    network b 10.0.1.1/24
    for first in a b; do
        netwrap connect --quiet --net a --pid "$PID" --name web
        nw connect --net b --pid "$PID" --ip 10.0.1.2
        [ "$OUT" = 10.0.1.2 ]
        [ "$(at "$PID" ip route show default | wc -l)" -eq 1 ]
        at "$PID" ip route show default | grep -q '^default via 10.0.0.1 dev eth0'
        at "$PID" ip -4 -o addr show dev eth1 | grep -q ' 10.0.1.2/24 '
        [ "$(netwrap ps --json | jq -c '[.[] | [.name, .net, .ifname]]')" = '[["web","a","eth0"],["web","b","eth1"]]' ]
        reaches "$PID" 10.0.0.1
        reaches "$PID" 10.0.1.1
        nw publish web 8080:80 # without --net: the first
        [ "$(netwrap ps --json | jq -c '[.[].ports]')" = '[["8080:80/tcp"],[]]' ]
        netwrap disconnect --quiet web --net "$first"
        if [ "$first" = a ]; then reaches "$PID" 10.0.1.1; else reaches "$PID" 10.0.0.1; fi
        at "$PID" ping -c 1 -W 20 127.0.0.1
        host test -e /run/netns/web
        netwrap disconnect --quiet web
        netwrap network remove --quiet "$first"
        network "$first" "$([ "$first" = a ] && echo 10.0.0.1/24 || echo 10.0.1.1/24)"
    done
    netwrap network remove --quiet a b
    same "$before" "$(kernel_state)"
}

@test "a released address is not the next one given, and an exhausted network says so" {
    local pids=() before
    container
    pids+=("$PID")
    container
    pids+=("$PID")
    before=$(kernel_state)
    network
    [ "$(netwrap connect --quiet --net testbridge --pid "${pids[0]}")" = 10.0.0.2 ]
    netwrap disconnect --quiet --pid "${pids[0]}"
    [ "$(netwrap connect --quiet --net testbridge --pid "${pids[0]}")" = 10.0.0.3 ]
    [ "$(netwrap connect --quiet --net testbridge --pid "${pids[1]}" --ip 10.0.0.254)" = 10.0.0.254 ]
    netwrap disconnect --quiet --pid "${pids[0]}"
    [ "$(netwrap connect --quiet --net testbridge --pid "${pids[0]}")" = 10.0.0.2 ] # round again
    netwrap network remove --quiet --force testbridge
    network small 10.7.0.0/30
    [ "$(netwrap connect --quiet --net small --pid "${pids[0]}")" = 10.7.0.2 ]
    refused 1 10.7.0.0/30 connect --net small --pid "${pids[1]}"
    netwrap disconnect --quiet --pid "${pids[0]}"
    [ "$(netwrap connect --quiet --net small --pid "${pids[1]}")" = 10.7.0.2 ]
    netwrap network remove --quiet --force small
    same "$before" "$(kernel_state)"
}

@test "networks from /30 to /8 hand out addresses" {
    local before prefix
    container
    before=$(kernel_state)
    for prefix in 8 12 29; do
        network wide "10.0.0.0/$prefix"
        [ "$(netwrap connect --quiet --net wide --pid "$PID")" = 10.0.0.2 ]
        at "$PID" ip -4 -o addr show dev eth0 | grep -q " 10.0.0.2/$prefix "
        reaches "$PID" 10.0.0.1
        netwrap network remove --quiet --force wide
    done
    same "$before" "$(kernel_state)"
}

@test "what the container had before stays: lo, links, addresses, a default route" {
    local before
    container
    at "$PID" ip link set dev lo up
    at "$PID" ip link add name eth0 type veth peer name eth0peer
    at "$PID" ip addr add 192.168.9.2/24 dev eth0
    at "$PID" ip link set dev eth0 up
    at "$PID" ip link set dev eth0peer up
    at "$PID" ip route add default via 192.168.9.1
    before=$(kernel_state)
    network
    netwrap connect --quiet --net testbridge --pid "$PID"
    [ "$(netwrap ps --json | jq -r '.[0].ifname')" = eth1 ]
    [ "$(at "$PID" ip route show default | wc -l)" -eq 1 ]
    reaches "$PID" 10.0.0.1
    netwrap disconnect --quiet --pid "$PID"
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

@test "a container whose process has ended is gone, and disconnect still clears all" {
    local before
    before=$(kernel_state)
    network
    container
    netwrap connect --quiet --net testbridge --pid "$PID" --name web -p 8080:80
    end "$PID"
    [ "$(netwrap ps --json | jq -r '.[0].state')" = gone ]
    netwrap disconnect --quiet web
    [ "$(netwrap ps --json)" = '[]' ]
    container
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    end "$PID"
    netwrap disconnect --quiet --pid "$PID"
    netwrap network remove --quiet testbridge
    same "$before" "$(kernel_state)"
}

@test "--hold stays until the process ends, then disconnects it" {
    local before dir=$BATS_TEST_TMPDIR/hold
    network
    before=$(kernel_state)
    container
    background "$dir" connect --quiet --hold --net testbridge --pid "$PID" --name web
    wait_for grep -qx 10.0.0.2 "$dir/out"
    reaches "$PID" 10.0.0.1
    [ ! -e "$dir/code" ]
    end "$PID"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 0 ]
    [ "$(netwrap ps --json)" = '[]' ]
    same "$before" "$(kernel_state)"
}

@test "--hold disconnects what it has connected, whoever the namespace is known as" {
    local before dir=$BATS_TEST_TMPDIR/hold first second number
    network
    network other 10.0.1.1/24
    container
    first=$PID
    second=$(host bash -c "nsenter -t $first -n sleep 100000 >/dev/null 2>&1 3>&- & echo \$!")
    wait_for host grep -qx sleep "/proc/$second/comm"
    netwrap connect --quiet --net testbridge --pid "$first" --name web
    before=$(kernel_state)
    # known under another pid, on a network of its own; once by the end of the process, once by a signal
    background "$dir" connect --quiet --hold --net other --pid "$second"
    wait_for grep -qx 10.0.1.2 "$dir/out"
    end "$second"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 0 ]
    [ "$(netwrap ps --json | jq -r '.[].net')" = testbridge ]
    same "$before" "$(kernel_state)"
    # known by a handle, which is not ours
    netwrap disconnect --quiet web
    host ip netns attach theirs "$first"
    netwrap connect --quiet --net testbridge --netns theirs
    before=$(kernel_state)
    background "$dir.2" connect --quiet --hold --net other --pid "$first"
    wait_for test -s "$dir.2/out"
    host kill -INT "$(cat "$dir.2/pid")"
    wait_for test -e "$dir.2/code"
    [ "$(cat "$dir.2/code")" = 130 ]
    grep -q '^netwrap: interrupted by SIGINT; theirs is disconnected from other$' "$dir.2/err"
    same "$before" "$(kernel_state)"
    # somebody was faster, and another one has the name by now: that one stays
    background "$dir.3" connect --quiet --hold --net other --pid "$first"
    wait_for test -s "$dir.3/out"
    netwrap disconnect --quiet theirs --net other
    number=$(netwrap connect --net other --netns theirs --quiet)
    host kill -TERM "$(cat "$dir.3/pid")"
    wait_for test -e "$dir.3/code"
    [ "$(cat "$dir.3/code")" = 130 ]
    grep -q '^netwrap: interrupted by SIGTERM; theirs had been disconnected already from other$' "$dir.3/err"
    [ "$(netwrap ps --json | jq -r '.[] | select(.net == "other").ip')" = "$number" ]
}

@test "where --hold cannot disconnect it says so, and gives 3" {
    local dir=$BATS_TEST_TMPDIR/hold
    network
    container
    background "$dir" connect --quiet --hold --net testbridge --pid "$PID" --name web
    wait_for test -s "$dir/out"
    host chmod 0666 /run/netwrap/netwrap.db
    end "$PID"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 3 ]
    grep -q '^netwrap: web could not be disconnected from testbridge: state .* may be written by other users' "$dir/err"
    host chmod 0644 /run/netwrap/netwrap.db
    netwrap gc --quiet
    [ "$(netwrap ps --json)" = '[]' ]
}

@test "the dry run of --hold is a script that stays as long, and takes back what it made" {
    local before
    network
    container
    before=$(kernel_state)
    netwrap connect --dry-run --hold --net testbridge --pid "$PID" >"$BATS_TEST_TMPDIR/script"
    host bash "$BATS_TEST_TMPDIR/script" >/dev/null 2>&1 &
    wait_for reaches "$PID" 10.0.0.1
    host kill -TERM "$(host pgrep -f -- "tail --pid=$PID")"
    wait "$!" || true
    same "$before" "$(kernel_state)"
}

@test "SIGTERM to --hold disconnects and gives 130, and the process lives on" {
    local before dir=$BATS_TEST_TMPDIR/hold
    network
    container
    before=$(kernel_state)
    background "$dir" connect --quiet --hold --net testbridge --pid "$PID" -p 8080:80
    wait_for grep -qx 10.0.0.2 "$dir/out"
    host kill -TERM "$(cat "$dir/pid")"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 130 ]
    grep -q '^netwrap: interrupted' "$dir/err"
    host test -e "/proc/$PID"
    [ "$(netwrap ps --json)" = '[]' ]
    same "$before" "$(kernel_state)"
}
