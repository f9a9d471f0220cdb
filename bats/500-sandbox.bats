#!/usr/bin/env bats
# The throw-away host and the demo in it: netwrap makes the namespaces itself here.
# shellcheck disable=SC2016  # what is quoted is for the shell inside

load helpers

setup() {
    [ "$(id -u)" = 0 ] || unshare --user --map-root-user --net true 2>/dev/null || skip "user namespaces are not allowed here"
    MARK=$BATS_TEST_TMPDIR/mark
}

sandbox() { "$NETWRAP" sandbox "$@" 3>&-; }

# on_a_terminal KEYS CMD…: runs CMD on a terminal of this machine's and answers its questions; see terminal.py.
on_a_terminal() { timeout 600 python3 -B "$BATS_TEST_DIRNAME/terminal.py" "$@" 3>&-; }

@test "a sandbox has namespaces of its own, root in it, and its own /run, /sys and state" {
    machine=$(readlink /proc/self/ns/{net,mnt,pid} | sort)
    inside=$(sandbox -- readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid | sort)
    [ "$(printf '%s\n' "$machine" "$inside" | sort | uniq -d)" = "" ]
    [ "$(sandbox -- id -u)" = 0 ]
    [ "$(sandbox -- ls /sys/class/net)" = lo ]
    [ "$(sandbox -- sh -c 'ls /run; cat /proc/sys/net/ipv4/ip_forward')" = "$(printf 'netns\n0')" ]
    [ "$(sandbox -- sh -c 'echo $NETWRAP_SANDBOX $NETWRAP_STATE_DIR')" = "1 /run/netwrap" ]
    [ "$(sandbox -- netwrap network create --quiet n1)" = n1 ]
}

@test "a sandbox keeps its own state, whatever the environment says: reset as by sudo, or set as by a login shell" {
    outside=$BATS_TEST_TMPDIR/outside
    [ "$(NETWRAP_STATE_DIR=$outside NETWRAP=$NETWRAP sandbox -- sh -c '
        env -i "$NETWRAP" network create --quiet n1
        NETWRAP_STATE_DIR=/var/lib/netwrap netwrap network list --json | jq -r ".[].state"
        netwrap sandbox -- sh -c "env -i $NETWRAP network create --quiet n2; NETWRAP_STATE_DIR=$0 netwrap ps; env -i $NETWRAP log" | grep -c n2
        NETWRAP_STATE_DIR=$0 netwrap network remove --quiet n1
        NETWRAP_STATE_DIR=/run/mine netwrap network create --quiet n3
        ls /run/mine' "$outside" | paste -sd " ")" = "n1 up 2 n1 n3 lock netwrap.db" ]
    [ ! -e "$outside" ]
}

@test "a sandbox gives its command's exit code, also that of a signal" {
    run sandbox -- sh -c 'exit 7'
    [ "$status" -eq 7 ]
    run sandbox -- sh -c 'kill -TERM $$'
    [ "$status" -eq 143 ]
    run sandbox -- no-such-command
    [ "$status" -eq 2 ]
    [ "${lines[0]}" = "netwrap: no command 'no-such-command'" ]
    [ "${lines[1]%%:*}" = hint ]
}

@test "nothing of a sandbox outlives its command" {
    sandbox -- sh -c "(echo \$\$ >$MARK; exec sleep 100000) & sleep 0.1; cat /proc/self/ns/pid >/dev/null 2>&1; readlink /proc/self/ns/pid >$MARK.ns"
    space=$(cat "$MARK.ns")
    wait_for no_process_in "$space"
}

@test "nothing of a sandbox outlives the SIGKILL of its starter, and SIGTERM ends it" {
    for signal in KILL TERM; do
        rm -f "$MARK.ns"
        "$NETWRAP" sandbox -- sh -c "readlink /proc/self/ns/pid >$MARK.ns; sleep 100000" 3>&- &
        starter=$!
        wait_for test -s "$MARK.ns"
        space=$(cat "$MARK.ns")
        run no_process_in "$space"
        [ "$status" -ne 0 ] # it is there
        kill -"$signal" "$starter"
        wait_for no_process_in "$space"
        wait "$starter" || status=$?
        [ "$signal" = KILL ] || [ "$status" -eq 143 ]
    done
}

no_process_in() {
    local process
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/ns/pid" 2>/dev/null)" != "$1" ] || return 1
    done
}

@test "around a sandbox are a LAN and an internet without a way back to containers" {
    sandbox --lan -- sh -ec '
        ping -c 1 -W 10 192.168.50.1 >/dev/null
        ping -c 1 -W 10 192.168.50.20 >/dev/null
        ping -c 1 -W 10 203.0.113.1 >/dev/null
        ip netns exec neighbour ping -c 1 -W 10 203.0.113.1 >/dev/null
        [ -z "$(ip -n internet route show 10.0.0.0/8)" ]
        [ -z "$(ip -n internet route show default)" ]'
}

@test "a sandbox in a sandbox works" {
    [ "$(sandbox -- netwrap sandbox -- sh -c 'ip -o link show up | grep -c lo; echo $NETWRAP_SANDBOX')" = "$(printf '1\n1')" ]
}

@test "where namespaces are not allowed it says so and how to go on" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/sh\necho "unshare: unshare failed: Operation not permitted" >&2\nexit 1\n' >"$BATS_TEST_TMPDIR/bin/unshare"
    chmod +x "$BATS_TEST_TMPDIR/bin/unshare"
    for command in "sandbox -- true" demo; do
        # shellcheck disable=SC2086  # words
        run env PATH="$BATS_TEST_TMPDIR/bin:$PATH" "$NETWRAP" $command
        [ "$status" -eq 1 ]
        [ "${#lines[@]}" -eq 2 ]
        [[ ${lines[0]} == "netwrap: "*"not allowed"*"Operation not permitted" ]]
        [[ ${lines[1]} == "hint: sudo netwrap sandbox"* ]]
    done
}

@test "the demo runs the tutorial with real packets and proves that all is taken back" {
    links=$(ip -o link show | cut -d: -f2)
    run "$NETWRAP" demo
    [ "$status" -eq 0 ]
    [[ $output == *"the same as before: "*" objects compared"* ]]
    [[ $output == *"13 of 13 tests came out as they should"* ]]
    [[ $output != *WRONG* ]]
    for shown in "+ ip link add name testbridge" "ok: without MASQUERADE there is no answer" "ok: c1 sees the LAN machine" \
        "ok: the host by 127.0.0.1" "you come from 192.168.50.20"; do
        [[ $output == *"$shown"* ]]
    done
    [ "$links" = "$(ip -o link show | cut -d: -f2)" ]
}

@test "a shell in a sandbox has the terminal, and the sandbox ends with it, also by SIGKILL" {
    run on_a_terminal x "$NETWRAP" sandbox -- bash -ic 'exit 6'
    [ "$status" -eq 6 ]
    [[ $output != *"job control"* && $output != *"process group"* ]]
    run on_a_terminal x "$NETWRAP" sandbox -- sh -c 'ps -o tpgid=,pgid= -p $$ | (read -r a b; test "$a" = "$b")'
    [ "$status" -eq 0 ] # its group is the terminal's
    timeout 60 python3 -c '
import os, pty, signal, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], ["netwrap", "sandbox", "--", "sh", "-c", "readlink /proc/self/ns/pid >%s.new; mv %s.new %s; sleep 100000" % ((sys.argv[2],) * 3)])
while not os.path.exists(sys.argv[2]):
    pass
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)' "$NETWRAP" "$MARK.space" 3>&-
    wait_for no_process_in "$(cat "$MARK.space")"
}

@test "Ctrl-C, Ctrl-\\ and a closed terminal end the demo at once, with 130 and two lines" {
    local keys at first
    for keys in '\x03' '\x1c' HANGUP; do
        for at in 'demo --- Test.3(.*\n)*\$.iptables' 'demo --step --- enter.=.run'; do
            first=()
            [[ $at != *step* ]] || first=(. x)
            # shellcheck disable=SC2086  # words
            run timeout 60 python3 -B "$BATS_TEST_DIRNAME/dialog.py" "$NETWRAP" ${at% --- *} --- \
                "${first[@]}" "${at#* --- }" "$keys"
            echo "$output"
            [ "$status" -eq 130 ]
            [[ $output != *Traceback* ]]
            [[ $keys = HANGUP || $output == *"netwrap: the demo is interrupted by SIG"*"hint: netwrap demo"* ]]
        done
    done
}

@test "Ctrl-Z stops a sandbox as a job of the shell, and Ctrl-C reaches what runs in it" {
    local of="$NETWRAP sandbox -- sh -c 'echo \$READY; sleep 77'\\r"
    run env TERM=dumb READY=ready timeout 100 python3 -B "$BATS_TEST_DIRNAME/dialog.py" bash --norc -i --- \
        '[#$] ' "PS1='prompt''> '\r" 'prompt> ' "$of" 'ready' '~\x1a' 'Stopped(.*\n)*.*prompt> ' 'fg\r' 'sandbox' '~\x03' 'prompt> ' 'exit $?\r' 3>&-
    [ "$status" -eq 130 ]
}

@test "the shell of a sandbox, and that of a container in it, say where they are; --lan says who is around" {
    echo 'PS1="mine> "' >"$BATS_TEST_TMPDIR/.bashrc"
    run env SHELL=/bin/bash HOME="$BATS_TEST_TMPDIR" timeout 100 python3 -c '
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], ["netwrap", "sandbox", "--lan"])
new = b""
for wait, line in (
    ("neighbour\r\n", ""),
    ("(netwrap sandbox) mine> ", "netwrap network create front -q\r"),
    ("(netwrap sandbox) mine> ", "netwrap run --net front --name c1 -q -- bash\r"),
    ("\n(netwrap c1) mine> ", "exit\r"),
    ("(netwrap sandbox) mine> ", "bash -c \"echo PS1 is \\$PS1.\"\r"),
    ("PS1 is .", "exit\r"),
):
    wait = wait.encode()
    while wait not in new.replace(b"\x1b[?2004h", b"").replace(b"\x1b[?2004l\r", b""):
        new += os.read(fd, 4096)
    new = b""
    os.write(fd, line.encode())
try:
    while os.read(fd, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))' "$NETWRAP" 3>&-
    [ "$status" -eq 0 ]
    [ "$(sandbox --lan -- bash -c 'echo "<$PS1$PROMPT_COMMAND>"' 2>&1)" = "<>" ] # neither picture nor prompt
}

@test "demo --step is a lesson: it explains, waits, and can be stopped" {
    run "$NETWRAP" demo --step </dev/null
    [ "$status" -eq 2 ]
    [[ ${lines[1]} == "hint: "* ]]

    run on_a_terminal '\r\r\ra' "$NETWRAP" demo --step
    [ "$status" -eq 0 ]
    [[ $output == *"# A bridge is a switch in the kernel"* ]]
    [[ $output == *"enter = run"* ]]
    [[ $output == *"13 of 13 tests came out as they should"* ]]

    run on_a_terminal q "$NETWRAP" demo --step
    [ "$status" -eq 1 ]
    [[ $output == *"stopped as requested"* ]]
}
