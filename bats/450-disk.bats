#!/usr/bin/env bats
# A state directory that cannot be written: full, read-only, or full in the middle of a command.

load helpers

setup() {
    host_up
    STATE_DIR=$BATS_TEST_TMPDIR/small # the netwrap of this file keeps its state there
    mkdir "$STATE_DIR"
    host mount -t tmpfs -o size=2m,mode=755 none "$STATE_DIR"
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    container
    netwrap connect --quiet --net a --pid "$PID" --name c1 -p 8080:80
    container
    standing=$(kernel_state)
}
teardown() { host_down; }

fill() { host dd if=/dev/zero of="$STATE_DIR/filler" bs=64k count=64 2>/dev/null || true; }
make_room() { host rm "$STATE_DIR/filler"; }

# Every changing command is refused with exit code 1 and TEXT, and nothing has changed.
all_refused() {
    refused 1 "$1" network create --subnet 10.0.1.1/24 b
    refused 1 "$1" network create --batch --subnet 10.0.1.1/24 b
    refused 1 "$1" connect --net a --pid "$PID" --name c2
    refused 1 "$1" publish c1 8081:81
    refused 1 "$1" run --net a -- true
    refused 1 "$1" unpublish c1 8080:80
    refused 1 "$1" disconnect c1
    refused 1 "$1" network remove --force a
    nw undo # it says first which one, where it comes so far
    [ "$CODE" -eq 1 ]
    [[ $ERR == *"netwrap: "*"$1"*$'\n'"hint: "* ]]
    same "$standing" "$(kernel_state)"
    echo "# commands refused: $TRIED" >&3
}

@test "on a full disk every changing command is refused before its first change; who only looks can look" {
    fill
    all_refused "No space left on device"
    [ "$(netwrap ps --json | jq -r '.[].state')" = up ]
    netwrap status >/dev/null
    netwrap network create --dry-run --subnet 10.0.1.1/24 b | grep -q "ip link add"
    make_room
    netwrap network remove --quiet --force a
}

@test "where the state directory is read-only every changing command is refused before its first change" {
    host mount -o remount,bind,ro "$STATE_DIR"
    all_refused "Read-only file system"
    [ "$(netwrap ps --json | jq -r '.[].state')" = up ]
    netwrap status >/dev/null
}

@test "a disk that is full in the middle: a build-up is taken back, and the journal set right by the next command" {
    for n in 2 9; do
        slowly "$n" network create --subnet 10.0.1.1/24 b
        fill
        touch "$SLOW/go"
        wait_for test -e "$SLOW/code"
        [ "$(cat "$SLOW/code")" -eq 1 ] || { cat "$SLOW/err" >&2 && return 1; }
        [ "$(grep -A 1 '^netwrap: ' "$SLOW/err" | grep -c 'disk is full\|No space left\|^hint: ')" -eq 2 ] || { cat "$SLOW/err" >&2 && return 1; }
        same "$standing" "$(kernel_state)"
        make_room
        nw gc
        [ "$CODE" -eq 0 ]
        [[ $ERR == *"network create b, was cut off; it is rolled back first"* ]]
        same "$standing" "$(kernel_state)"
        [ "$(netwrap network list --json | jq -r '.[].name')" = a ]
    done
}

@test "a disk that is full in the middle: a teardown is done in the kernel, and in the state by the next command" {
    slowly 5 network remove --force a
    fill
    touch "$SLOW/go"
    wait_for test -e "$SLOW/code"
    [ "$(cat "$SLOW/code")" -eq 1 ] || { cat "$SLOW/err" >&2 && return 1; }
    [ "$(host ip -br link | grep -vc '^lo')" -eq 0 ]
    [ "$(host iptables-save | grep -c 'netwrap:\|NETWRAP')" -eq 0 ]
    make_room
    nw gc
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"network remove a, was cut off; it is finished first"* ]]
    [ "$(netwrap network list --json)" = "[]" ]
}
