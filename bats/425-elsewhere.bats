#!/usr/bin/env bats
# The same state directory in another network, pid or time namespace: what stands elsewhere is not touched, nor judged.

load helpers

setup() {
    host_up
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap connect --quiet --net a --pid "$PID" --name c1 -p 8080:80
    before=$(kernel_state)
}
teardown() { host_down; }

# elsewhere WHERE… -- ARG…: netwrap behind the words that lead elsewhere; CODE, OUT, ERR as nw.
elsewhere() {
    local way=()
    while [ "$1" != -- ]; do way+=("$1") && shift; done
    shift
    CODE=0
    host "${way[@]}" netwrap "$@" >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" </dev/null || CODE=$?
    OUT=$(cat "$BATS_TEST_TMPDIR/out")
    ERR=$(cat "$BATS_TEST_TMPDIR/err")
}

# all_refused SENTENCE WHERE…: changing commands there, and those that would look, end with 2 and touch nothing.
all_refused() {
    local sentence=$1 command sum
    shift
    sum=$(state_sum)
    for command in "connect --net a --pid 1" "gc" "network create b --dry-run" status check doctor "exec c1 -- true"; do
        # shellcheck disable=SC2086  # words
        elsewhere "$@" -- $command
        [ "$CODE" -eq 2 ] || { echo "$command: $CODE $OUT $ERR" >&2 && return 1; }
        [ -z "$OUT" ]
        [[ $ERR == "netwrap: "*"$sentence"*$'\n'"hint: "?* ]] || { echo "$command: $ERR" >&2 && return 1; }
    done
    [ "$(state_sum)" = "$sum" ]
    same "$before" "$(kernel_state)"
}

# told_of WHERE…: lists show what stands elsewhere, and not how it is.
told_of() {
    elsewhere "$@" -- ps --json
    [ "$CODE $(jq -r '.[] | "\(.name) \(.state)"' <<<"$OUT")" = "0 c1 unknown" ]
    [[ $ERR == "netwrap: the objects in "*" stand in "*$'\n'"hint: "?* ]]
    elsewhere "$@" -- log
    [ "$CODE" -eq 0 ]
    [[ $OUT == *"connect c1 to a"* ]]
}

@test "in another network namespace nothing is changed or judged, and the hint leads back" {
    all_refused "stand in network namespace" unshare --net
    told_of unshare --net
    elsewhere unshare --net -- network list
    [[ $OUT == *unknown* && $OUT != *down* ]]
    elsewhere ip netns exec c1 -- ps
    [[ $ERR == *"hint: "*"nsenter --target "*"netwrap ps" ]]
    host ip netns exec c1 sh -c "${ERR##*hint: }" | grep -q ' up *$'
    elsewhere nsenter --target "$PID" --net -- repair
    [ "$CODE" -eq 2 ]
    same "$before" "$(kernel_state)"
}

@test "in another pid namespace living containers are not taken for gone" {
    all_refused "stand in pid namespace" unshare --pid --fork --mount-proc
    told_of unshare --pid --fork --mount-proc
    all_refused "pid namespace" unshare --pid --fork # with the /proc of another one
    told_of unshare --pid --fork
    elsewhere unshare --pid --fork -- --state-dir /run/none network create b
    [ "$CODE" -eq 2 ]
    [[ $ERR == "netwrap: /proc is not that of this pid namespace"* ]]
    [ "$(netwrap ps --json | jq -r '.[].state')" = up ]
}

@test "in another time namespace living containers are not taken for gone, and the hint leads back" {
    host unshare --time --fork --boottime 500 true 2>/dev/null || skip "there are no time namespaces here"
    all_refused "stand in a time namespace 0 s ahead; this is a time namespace 500 s ahead" unshare --time --fork --boottime 500
    told_of unshare --time --fork --boottime 500
    [[ $(host unshare --time --fork --boottime 500 netwrap ps 2>&1 >/dev/null) == *"hint: "*"unshare --time --fork --boottime 0 netwrap ps" ]]
    [ "$(host unshare --time --fork --boottime 500 unshare --time --fork --boottime 0 netwrap ps --json | jq -r '.[].state')" = up ]
}

# stands_in_gone [WORD…]: a state of its own of which a network and a container stood in a namespace that is gone.
stands_in_gone() {
    STATE_DIR=$1
    # shellcheck disable=SC2016
    host "${@:2}" sh -c 'netwrap --state-dir "$0" network create --quiet --subnet 10.9.0.1/24 there
        unshare --net sleep 100000 & sleep 0.3
        netwrap --state-dir "$0" connect --quiet --net there --pid $! --name gone -p 8090:80; kill $!' "$STATE_DIR" >/dev/null
}

@test "what stood in a network namespace that is gone is dropped by gc, and nothing is touched here" {
    stands_in_gone /run/other unshare --net
    refused 2 "which no longer exists" network create b
    [[ $ERR == *"hint: "*"netwrap gc"* ]]
    refused 2 "which no longer exists" undo --yes
    nw gc --dry-run
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"gone with it, and forgotten: network there, container gone"* ]]
    nw gc
    [ "$CODE $OUT" = "0 gone" ]
    [[ $ERR == *"stood in network namespace "*", which no longer exists"* ]]
    same "$before" "$(kernel_state)"
    [ "$(netwrap status --json)" = "[]" ]
    STATE_DIR=/run/netwrap nw gc
    [ "$CODE$OUT" = 0 ]
    same "$before" "$(kernel_state)"
}

@test "a network namespace that is still there is never dropped, whoever holds it: a handle, a process, a descriptor, a mount" {
    local holder mounted
    host ip netns add away
    stands_in_gone /run/other ip netns exec away
    refused 2 "stand in network namespace" gc
    [[ $ERR == *"hint: "*"nsenter --net=/run/netns/away netwrap gc" ]]
    # shellcheck disable=SC2016
    host bash -c 'ip netns exec away sleep 100000 & echo $! >/run/holder; sleep 0.3; ip netns del away; disown' >/dev/null 2>&1 3>&-
    holder=$(host cat /run/holder)
    refused 2 "stand in network namespace" gc
    [[ $ERR == *"hint: "*"nsenter --target $holder --net"*" netwrap gc" ]]
    host bash -c "exec 9</proc/$holder/ns/net; exec sleep 100000" >/dev/null 2>&1 3>&- &
    wait_for host sh -c "grep -qs 100000 /proc/[0-9]*/cmdline && ls -l /proc/[0-9]*/fd/9 | grep -q 'net:'"
    host kill "$holder"
    refused 2 "stand in network namespace" gc
    # shellcheck disable=SC2016
    host unshare --mount bash -c 'touch /run/mounted; for fd in /proc/[0-9]*/fd/9; do mount --bind "$fd" /run/mounted 2>/dev/null && kill "$(cut -d/ -f3 <<<"$fd")"; done; exec sleep 100001' >/dev/null 2>&1 3>&- &
    wait_for host sh -c "! ls -l /proc/[0-9]*/fd/9 2>/dev/null | grep -q 'net:'"
    refused 2 "stand in network namespace" gc
    mounted=$(host pgrep -fx 'sleep 100001')
    host kill "$mounted"
    wait_for gone "$mounted"
    nw gc
    [ "$CODE" -eq 0 ]
    same "$before" "$(kernel_state)"
}
