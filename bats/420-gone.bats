#!/usr/bin/env bats
# Processes that end: what they leave, whose number or namespace is given again, and who clears it up.

load helpers

setup() {
    host_up
    before=$(kernel_state)
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    standing=$(kernel_state)
}
teardown() { host_down; }

of_host() { sed '/^== process/,$d'; }

left() { netwrap ps --json | jq -r '.[] | "\(.name) \(.state)"' | paste -sd ' '; }

@test "gc releases address, port, link, rules and handle of processes that have ended, and says whose" {
    local other one=$PID
    container
    other=$PID
    netwrap connect --quiet --net a --pid "$one" --name c1 -p 8080:80
    netwrap connect --quiet --net a --pid "$other" --name c2
    end "$one"
    [ "$(left)" = "c1 gone c2 up" ]
    nw gc --dry-run
    [[ $OUT == *"ip netns del c1"* ]]
    [ "$(left)" = "c1 gone c2 up" ]
    nw gc
    [ "$CODE" -eq 0 ]
    [ "$OUT" = c1 ]
    [ "$(left)" = "c2 up" ]
    nw gc
    [ "$CODE$OUT" = 0 ]
    netwrap disconnect --quiet c2
    end "$other"
    same "$(of_host <<<"$standing")" "$(kernel_state | of_host)"
}

@test "connect, run, publish and remove clear away what is in their way" {
    local one=$PID two
    container
    two=$PID
    netwrap connect --quiet --net a --pid "$one" --name web --ip 10.0.0.9 -p 8080:80
    end "$one"
    nw connect --net a --pid "$two" --name web --ip 10.0.0.9 -p 8080:80
    [ "$CODE" -eq 0 ]
    [ "$OUT" = 10.0.0.9 ]
    [[ $ERR == *"netwrap: cleaning up after containers that are gone: web"* ]]
    [ "$(left)" = "web up" ]
    end "$two"
    container
    netwrap connect --quiet --net a --pid "$PID" --name other
    [ "$(left)" = "other up" ]
    end "$PID"
    netwrap run --quiet --net a --name other -- true
    container
    netwrap connect --quiet --net a --pid "$PID" --name other
    end "$PID"
    netwrap network remove --quiet a # not in use
    [ "$(netwrap network list --json)" = "[]" ]
}

@test "the dry run of a command that clears away first gives the same kernel state" {
    local one=$PID two after
    container
    two=$PID
    netwrap connect --quiet --net a --pid "$one" --name web -p 8080:80
    end "$one"
    netwrap connect --net a --pid "$two" --name web -p 8080:80 --dry-run 2>/dev/null >"$BATS_TEST_TMPDIR/script"
    host cp -r /run/netwrap /run/kept
    netwrap connect --quiet --net a --pid "$two" --name web -p 8080:80
    after=$(kernel_state)
    netwrap network remove --quiet --force a
    host sh -c 'rm -r /run/netwrap'
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    container
    netwrap connect --quiet --net a --pid "$PID" --name web -p 8080:80
    end "$PID"
    host bash <"$BATS_TEST_TMPDIR/script" >/dev/null
    same "$after" "$(kernel_state)"
}

# given_again PID WORD…: starts the words as a process with a number that was in use before.
given_again() {
    # shellcheck disable=SC2016
    host bash -c 'pid=$1; shift
        for _ in $(seq 200); do
            echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid || exit 1
            "$@" >/dev/null 2>&1 3>&- &
            [ $! = "$pid" ] && exit
            kill $!
        done; exit 1' - "$@" # proc(5), ns_last_pid
}

@test "a pid that is given again is a stranger, with a namespace of its own or in the host's: nothing is done to it" {
    local stranger state one
    for stranger in "unshare --net" ""; do
        netwrap connect --quiet --net a --pid "$PID" --name c1
        one=$PID
        end "$one"
        # shellcheck disable=SC2086  # no word, or two
        given_again "$one" $stranger sleep 100000 || skip "pids cannot be chosen here"
        wait_for host grep -q sleep "/proc/$one/comm"
        state=$(at "$one" ip -br addr show dev lo)
        [ "$(left)" = "c1 gone" ]
        netwrap gc --quiet
        [ "$(at "$one" ip -br addr show dev lo)" = "$state" ]
        [ "$(left)" = "" ]
        container
    done
    end "$one" # it had the host's namespace
}

@test "a process that ends during connect: nothing is configured elsewhere, and the next command leaves nothing" {
    local n
    host_before=$(of_host <<<"$standing")
    for n in 1 2 5 8 12; do
        slowly "$n" connect --net a --pid "$PID" --name c1 -p 8080:80
        end "$PID"
        touch "$SLOW/go"
        wait_for test -e "$SLOW/code"
        case $(cat "$SLOW/code") in
        0) [ "$(left)" = "c1 gone" ] ;; # its namespace was held by then
        1) grep -q '^netwrap: .*; changes rolled back$' "$SLOW/err" && [ "$(left)" = "" ] ;;
        *) cat "$SLOW/err" >&2 && return 1 ;;
        esac
        netwrap gc --quiet
        same "$host_before" "$(kernel_state | of_host)"
        container
    done
}

# inode_again INODE: makes the handle c1 for a new namespace with an inode that was in use before: the lowest that is
# free is given, once what had it is cleared away.
inode_again() {
    # shellcheck disable=SC2016
    host bash -c 'for n in $(seq 100); do
            ip netns add "again$n"
            [ "$(stat -Lc %i "/run/netns/again$n")" = "$1" ] || continue
            touch /run/netns/c1
            mount --bind "/run/netns/again$n" /run/netns/c1
            break
        done
        for name in /run/netns/again*; do ip netns del "${name##*/}"; done
        test -e /run/netns/c1' - "$1"
}

@test "an inode that is given again is a stranger's namespace: nothing is done in it" {
    local inode given=no
    for _ in 1 2 3 4 5; do # other tests may have taken it
        netwrap connect --quiet --net a --pid "$PID" --name c1
        inode=$(host stat -Lc %i /run/netns/c1)
        host ip netns del c1
        end "$PID"
        inode_again "$inode" && given=yes && break
        netwrap gc --quiet
        container
    done
    [ "$given" = yes ] || skip "the kernel did not give the inode again"
    host ip -n c1 link add name eth0 address 0a:6e:0a:00:00:02 type bridge
    host ip -n c1 addr add 10.0.0.2/24 dev eth0
    [ "$(left)" = "c1 gone" ]
    netwrap disconnect --quiet c1
    host ip -n c1 -o addr show dev eth0 | grep -q 10.0.0.2
    [ "$(left)" = "" ]
}

@test "a supervisor of run or --hold that is killed: the next command finds what is left" {
    background "$BATS_TEST_TMPDIR/run" run --net a --name job -- sleep 1000
    wait_for bash -c "[ \"\$(cat $BATS_TEST_TMPDIR/run/pid)\" ]"
    wait_for started job
    background "$BATS_TEST_TMPDIR/hold" connect --net a --pid "$PID" --name held --hold
    wait_for started held
    host kill -KILL "$(cat "$BATS_TEST_TMPDIR/run/pid")" "$(cat "$BATS_TEST_TMPDIR/hold/pid")"
    end "$PID" "$(netwrap ps --json | jq '.[] | select(.name == "job") | .pid')" # who was killed looks after neither
    [ "$(left)" = "job gone held gone" ]
    nw gc
    [ "$(sort <<<"$OUT" | paste -sd ' ')" = "held job" ]
    netwrap network remove --quiet a
    same "$(of_host <<<"$before")" "$(kernel_state | of_host)"
}

runs_init() { host sh -c 'grep -qs "netwrap[.]init" /proc/[0-9]*/cmdline'; }

@test "a run that is killed before it has written down its command's pid: the command never begins" {
    slowly 3 run --net a --name job -- sh -c 'touch /run/began; sleep 1000'
    host flock -o /run/netwrap/lock sleep 60 3>&- & # gets the lock once the network stands
    wait_for host sh -c 'grep -q -- "->.*FLOCK" /proc/locks'
    touch "$SLOW/go"
    wait_for runs_init
    sleep 0.5 # it would have begun
    host kill -KILL "$NETWRAP_PID"
    for _ in $(seq 100); do runs_init || break; sleep 0.05; done
    run runs_init
    [ "$status" -ne 0 ]
    run host test -e /run/began
    [ "$status" -ne 0 ]
    host pkill flock
    [ "$(left)" = "job gone" ]
    nw gc
    [ "$OUT" = job ]
    same "$(of_host <<<"$standing")" "$(kernel_state | of_host)"
}

# The container stands as a whole: it has a pid, and the operation that made it is through.
started() {
    [ "$(netwrap ps --json | jq --arg name "$1" '[.[] | select(.name == $name and .state == "up" and .pid != null)] | length')" = 1 ] &&
        [ "$(netwrap log --json | jq 'all(.state != "running")')" = true ]
}
