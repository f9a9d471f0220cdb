#!/usr/bin/env bats
# run and exec: a command in namespaces of its own, on a network that stands when it begins and goes when it ends.

load helpers

setup() {
    host_up
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    BEFORE=$(kernel_state)
}

teardown() { host_down; }

# Nothing is left of what ran: no container, no process, no kernel object.
nothing_left() {
    [ "$(netwrap ps --json)" = '[]' ]
    kernel_as_before
}

kernel_as_before() { same "$BEFORE" "$(kernel_state)"; }

# terminal COMMAND…: runs it on a pseudo terminal, with what it prints on stdout; its exit code.
terminal() {
    host python3 -c 'import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' "$@"
}

@test "the exit code of the command is netwrap's, and its output is the only one" {
    nw run --net testbridge -- sh -c 'echo out; echo err >&2'
    [ "$CODE" -eq 0 ]
    [ "$OUT" = out ]
    grep -qx err <<<"$ERR"
    nw run --quiet --net testbridge -- sh -c 'echo err >&2; exit 7'
    [ "$CODE" -eq 7 ]
    [ "$ERR" = err ]
    nw run --quiet --net testbridge -- sh -c 'sh -c "kill -9 \$\$"'
    [ "$CODE" -eq 137 ]
    nw run --quiet --net testbridge -- python3 -c 'import ctypes; ctypes.string_at(0)'
    [ "$CODE" -eq 139 ] # SIGSEGV
    nothing_left
}

@test "the network stands when the command begins" {
    nw run --quiet --net testbridge -- sh -c 'ip -4 -o addr show dev eth0; ip route show default; ping -c 1 -W 20 10.0.0.1'
    [ "$CODE" -eq 0 ]
    grep -q ' 10.0.0.2/24 ' <<<"$OUT"
    grep -q '^default via 10.0.0.1 dev eth0' <<<"$OUT"
    grep -q ' 0% packet loss' <<<"$OUT"
    nothing_left
}

@test "the command has net, pid, mount and uts namespaces of its own" {
    local kind
    # shellcheck disable=SC2016
    nw run --quiet --net testbridge -- sh -c 'for k in net pid mnt uts; do readlink /proc/self/ns/$k; done; echo $$; ls -d /proc/[0-9]* | wc -l; hostname inside'
    [ "$CODE" -eq 0 ]
    for kind in net pid mnt uts; do
        [ "$(grep -c "^$kind:" <<<"$OUT")" -eq 1 ]
        ! grep -qxF "$(host readlink "/proc/self/ns/$kind")" <<<"$OUT"
    done
    [ "$(sed -n 5p <<<"$OUT")" = 1 ]        # it is the first process of its own
    [ "$(sed -n 6p <<<"$OUT")" -le 4 ]      # and sees its own alone: a /proc of its own
    [ "$(host hostname)" != inside ]
    nothing_left
}

@test "run is interactive where there is a terminal" {
    run terminal netwrap run --quiet --net testbridge -- sh -c 'test -t 0 && test -t 1 && test -t 2 && exit 5'
    [ "$status" -eq 5 ]
    # shellcheck disable=SC2016
    run terminal netwrap run --quiet --net testbridge -- sh <<<'echo "sum $((40 + 2))"; exit 6'
    [ "$status" -eq 6 ]
    grep -q 'sum 42' <<<"$output"
    nothing_left
}

@test "-d prints the name and returns, ps shows it, and its end takes all down" {
    local name flag=$BATS_TEST_TMPDIR/flag
    nw run --quiet -d --net testbridge -p 8080:80 -- sh -c "while ! test -e $flag; do sleep 0.1; done"
    [ "$CODE" -eq 0 ]
    name=$OUT
    [[ $name =~ ^c-[0-9a-f]{8}$ ]]
    wait_for sh_ps ".[0].pid != null"
    netwrap ps --json | jq -e --arg name "$name" 'length == 1 and (.[0] | .name == $name and .state == "up" and .ip == "10.0.0.2"
        and .ports == ["8080:80/tcp"])'
    host ping -c 1 -W 20 10.0.0.2
    touch "$flag"
    wait_for sh_ps "length == 0"
    nothing_left
}

sh_ps() { netwrap ps --json | jq -e "$1"; }

@test "the command asks a name server that it can reach, and nothing of that is left on the host" {
    local before
    before=$(cat /etc/resolv.conf)
    host sh -c 'echo "nameserver 127.0.0.53" >/run/r; mount --bind /run/r /etc/resolv.conf'
    nw run --quiet --net testbridge -- cat /etc/resolv.conf
    [ "$OUT" = "nameserver 127.0.0.53" ]
    [[ $ERR == "netwrap: "*"127.0.0.53"*$'\n'"hint: netwrap run "*"--dns "* ]]
    nw run --quiet --net testbridge --dns 192.0.2.1 --dns 192.0.2.2 -- cat /etc/resolv.conf
    [ "$OUT" = "$(printf 'nameserver 192.0.2.1\nnameserver 192.0.2.2')" ]
    [ -z "$ERR" ]
    host sh -c 'mkdir -p /run/systemd/resolve; echo "nameserver 192.0.2.3" >/run/systemd/resolve/resolv.conf'
    nw run --net testbridge -- cat /etc/resolv.conf
    [ "$OUT" = "nameserver 192.0.2.3" ]
    [[ $ERR == *"mount --bind /run/systemd/resolve/resolv.conf /etc/resolv.conf"* ]]
    netwrap run --net testbridge --dry-run -- cat /etc/resolv.conf >"$BATS_TEST_TMPDIR/script"
    [ "$(host bash "$BATS_TEST_TMPDIR/script" | grep -v '^net\.ip')" = "nameserver 192.0.2.3" ] # sysctl says what it sets
    netwrap network create --quiet --internal --subnet 10.9.0.0/24 inside
    nw run --quiet --net inside -- cat /etc/resolv.conf
    [ "$OUT$ERR" = "nameserver 127.0.0.53" ]
    netwrap network remove --quiet inside
    refused 2 dns-name run --net testbridge --dns dns-name -- true
    [ "$(host cat /etc/resolv.conf)" = "nameserver 127.0.0.53" ]
    host umount /etc/resolv.conf
    [ "$(host cat /etc/resolv.conf)" = "$before" ]
    [ "$(host sh -c 'ls /tmp/resolv.conf 2>&1 | grep -c cannot')" = 1 ]
    nothing_left
}

@test "-d keeps its output in a file; a pipe it leaves at once" {
    local name
    host bash -c 'netwrap run --quiet --net testbridge -d -- sh -c "readlink /proc/self/fd/0; echo hello; echo err >&2; sleep 1; echo late" >/run/log 2>&1'
    wait_for sh_ps "length == 0"
    [ "$(host grep -cx 'c-[0-9a-f]\{8\}' /run/log)" = 1 ] # its name, beside what the command says at its start
    [ "$(host grep -vx 'c-[0-9a-f]\{8\}' /run/log)" = "$(printf '/dev/null\nhello\nerr\nlate')" ]
    # shellcheck disable=SC2016
    name=$(host timeout 20 bash -c 'echo "$(netwrap run --quiet --net testbridge -d --name job -- sleep 100000 2>&1)"')
    [ "$name" = job ]
    wait_for sh_ps '.[0].pid != null'
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
    nothing_left
}

@test "disconnect of a detached command lets it run on without network, and its end leaves nothing" {
    local flag=$BATS_TEST_TMPDIR/flag
    netwrap run --quiet -d --net testbridge --name job -- sh -c "while ! test -e $flag; do sleep 0.1; done; touch $flag-seen"
    netwrap disconnect --quiet job
    [ "$(netwrap ps --json)" = '[]' ]
    touch "$flag"
    wait_for test -e "$flag-seen"
    nothing_left_at_last() { nothing_left; }
    wait_for nothing_left_at_last
}

@test "the container of run has the name asked for, and publishes" {
    nw run --quiet -d --net testbridge --name web -p 8080:80 -- python3 "$ROOT/bats/peer" serve tcp 0.0.0.0 80 web
    [ "$OUT" = web ]
    [ "$(ask 1 tcp 127.0.0.1 8080)" = "web 80 10.0.0.1" ]
    refused 2 web run --net testbridge --name web -- true
    wait_for sh_ps '.[0].pid != null'
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
    nothing_left
}

@test "a command that is killed gives 128 and the signal's number" {
    local dir=$BATS_TEST_TMPDIR/run
    background "$dir" run --quiet --net testbridge --name job -- sleep 100000
    wait_for sh_ps '.[0].pid != null'
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 137 ]
    nothing_left
}

@test "SIGTERM is passed on to the command, which may handle it" {
    local dir=$BATS_TEST_TMPDIR/run
    background "$dir" run --quiet --net testbridge -- sh -c 'trap "echo handled; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    wait_for grep -qx ready "$dir/out"
    wait_for sh_ps '.[0].pid != null'
    host kill -TERM "$(cat "$dir/pid")"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 9 ]
    grep -qx handled "$dir/out"
    nothing_left
}

@test "SIGTERM ends a command that has no handler for it" {
    local dir=$BATS_TEST_TMPDIR/run
    background "$dir" run --quiet --net testbridge -- sh -c 'echo ready; exec sleep 100000'
    wait_for grep -qx ready "$dir/out"
    host kill -TERM "$(cat "$dir/pid")"
    wait_for test -e "$dir/code"
    [ "$(cat "$dir/code")" = 143 ]
    nothing_left
}

@test "a signal that comes while the network is being taken down leaves nothing either" {
    local dir=$BATS_TEST_TMPDIR/run
    background "$dir" run --net testbridge -- true
    # shellcheck disable=SC2016
    host bash -c 'while kill -0 "$1" 2>/dev/null && ! grep -q "link del" "$2"; do sleep 0.002; done; kill -TERM "$1" || true' \
        - "$(cat "$dir/pid")" "$dir/err"
    wait_for test -e "$dir/code"
    cat "$dir/code" "$dir/err"
    nothing_left
}

# ctrl_c ARG…: runs netwrap on a terminal, types Ctrl-C once the command has said that it is ready; prints the exit code.
ctrl_c() {
    host python3 -c 'import os, pty, sys
pid, terminal = pty.fork()
if not pid:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
while b"ready" not in seen:
    seen += os.read(terminal, 1000)
os.write(terminal, b"\x03")
try:
    while text := os.read(terminal, 1000):
        print(text)
except OSError:  # the other side is closed
    pass
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))' \
        netwrap "$@" -- sh -c 'trap "exit 4" INT; echo ready; while :; do sleep 0.1; done' | tail -n 1
}

@test "Ctrl-C on the terminal ends the command, and nothing is left" {
    [ "$(ctrl_c run --quiet --net testbridge)" = 4 ]
    nothing_left
}

# dialog COMMAND… --- (WAIT TYPE)…: on a terminal of the host's, see dialog.py.
dialog() { host env TERM=dumb PS1='prompt> ' READY=ready python3 -B "$ROOT/bats/dialog.py" "$@"; }
in_a_shell() { dialog bash --norc -i --- 'prompt> ' "$@" 'prompt> ' 'exit $?\r'; }

@test "Ctrl-Z stops run and exec as jobs of the shell, fg, bg and Ctrl-C go on with them" {
    local stopped='Stopped(.*\n)*.*prompt> ' of way
    netwrap run --quiet -d --net testbridge --name job -- sleep 100000
    container
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    for way in "run -q --net testbridge" "exec job" "exec web"; do
        of="netwrap $way -- sh -c 'echo \$READY; sleep 77'\\r"
        run in_a_shell "$of" 'ready' '~\x1a' "$stopped" 'jobs\r' "$stopped" 'fg\r' 'netwrap' '~\x03'
        [ "$status" -eq 130 ]
        of="netwrap $way -- sh -c 'echo \$READY; read x; echo got \$x; exit 4'\\r"
        run in_a_shell "$of" 'ready' '~\x1a' "$stopped" 'bg\r' 'prompt> ' '~fg\r' 'netwrap' '~hello\r' 'got hello' ''
        [ "$status" -eq 4 ]
    done
    # started in the background: it is stopped where it reads from the terminal, and goes on in the foreground
    of="netwrap run -q --net testbridge -- sh -c 'read x; echo got \$x; exit 4' &\\r"
    run in_a_shell "$of" 'prompt> ' '~sleep 2; jobs\r' 'Stopped(.*\n)*.*prompt> ' 'fg\r' 'netwrap' '~hello\r' 'got hello' ''
    [ "$status" -eq 4 ]
    # without the terminal as its input it is a job too
    of="netwrap run -q --net testbridge -- sh -c 'echo \$READY; sleep 77' </dev/null\\r"
    run in_a_shell "$of" 'ready' '~\x1a' "$stopped" 'fg\r' 'netwrap' '~\x03'
    [ "$status" -eq 130 ]
    # a first process that handles Ctrl-Z itself is not stopped by us
    of="netwrap run -q --net testbridge -- bash -c 'trap \"echo caught\" TSTP; echo \$READY; read x; read x; exit 5'\\r"
    run in_a_shell "$of" 'ready' '~\x1a\r' 'caught' '\r'
    [ "$status" -eq 5 ]
}

@test "a shell inside has job control of its own, and may stop all of its group" {
    run in_a_shell "netwrap run -q --net testbridge -- bash --norc -i\r" \
        'prompt> ' "sh -c 'echo \$READY; sleep 66'\r" 'ready' '~\x1a' 'Stopped(.*\n)*.*prompt> ' \
        'fg\r' 'sleep 66' '~\x03' 'prompt> ' '~\x1a\r' 'prompt> ' 'exit 9\r' 'exit\n' ''
    [ "$status" -eq 9 ]
    run in_a_shell "netwrap run -q --net testbridge -- sh -c 'kill -STOP 0; sleep 2; exit 8'\r" \
        'Stopped(.*\n)*.*prompt> ' 'fg\r' 'netwrap' ''
    [ "$status" -eq 8 ]
    nothing_left
}

@test "without a shell Ctrl-Z stops nothing, and the terminal is as before" {
    # shellcheck disable=SC2016
    run dialog netwrap run -q --net testbridge -- sh -c 'echo $READY; read x; exit 6' --- 'ready' '~\x1a' '\^Z' '~\r'
    [ "$status" -eq 6 ]
    run dialog netwrap run -q --net testbridge -- sleep 77 --- '^' '~~\x1a' '\^Z' '~\x03'
    [ "$status" -eq 130 ]
    nothing_left
}

@test "exec runs a command in the container's network with its exit code" {
    container
    BEFORE=$(kernel_state)
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    nw exec web -- ip -4 -o addr show dev eth0
    [ "$CODE" -eq 0 ]
    grep -q ' 10.0.0.2/24 ' <<<"$OUT"
    nw exec web -- sh -c 'echo out; exit 7'
    [ "$CODE" -eq 7 ]
    [ "$OUT" = out ]
    [ -z "$ERR" ]
    netwrap disconnect --quiet web
    nothing_left
}

@test "exec in a container of run enters all of its namespaces" {
    netwrap run --quiet -d --net testbridge --name job -- sh -c 'hostname inside; exec sleep 100000'
    wait_for sh_ps '.[0].pid != null'
    wait_for says_inside
    nw exec job -- sh -c 'ps -e -o comm= | grep -x sleep; exit 3'
    [ "$CODE" -eq 3 ]
    [ "$OUT" = sleep ]
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
    nothing_left
}

@test "exec starts in the directory of the container and sees its mounts; what is not there is 127 or 126" {
    local tool
    host bash -c 'mkdir /run/wd; cd /run/wd; printf "#!/bin/sh\npwd\n" >s; chmod +x s; echo >plain
        netwrap run -q --net testbridge --name job -d -- sh -c "mkdir -p /run/own; mount -t tmpfs t /run/own; cp s /run/own/tool; touch /run/own/ready; exec sleep 100000"'
    ready() { netwrap exec job -- test -e /run/own/ready; }
    wait_for ready
    for tool in ./s /run/own/tool; do
        nw exec job -- "$tool"
        [ "$CODE $OUT" = "0 /run/wd" ]
    done
    nw exec job -- /run/own/none
    [ "$CODE" -eq 127 ]
    [[ $ERR == "netwrap: '/run/own/none': No such file"*$'\n'"hint: nsenter "* ]]
    nw exec job -- netwrap-no-such
    [ "$CODE" -eq 127 ]
    nw exec job -- ./plain
    [ "$CODE" -eq 126 ]
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
}

@test "exec has the terminal and passes signals on, into all namespaces of run and into the network's alone" {
    local dir name
    container
    BEFORE=$(kernel_state)
    netwrap connect --quiet --net testbridge --pid "$PID" --name web
    netwrap run --quiet -d --net testbridge --name job -- sleep 100000
    wait_for sh_ps 'length == 2 and all(.pid != null)'
    for name in web job; do
        [ "$(ctrl_c exec "$name")" = 4 ]
        run terminal netwrap exec "$name" -- sh -c 'test -t 0 && test -t 1 && test -t 2 && exit 5'
        [ "$status" -eq 5 ]
        dir=$BATS_TEST_TMPDIR/exec.$name
        background "$dir" exec "$name" -- sh -c 'trap "echo handled; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
        wait_for grep -qx ready "$dir/out"
        host kill -TERM "$(cat "$dir/pid")"
        wait_for test -e "$dir/code"
        [ "$(cat "$dir/code")" = 9 ]
        grep -qx handled "$dir/out"
        background "$dir.killed" exec "$name" -- sh -c 'kill -KILL $$'
        wait_for test -e "$dir.killed/code"
        [ "$(cat "$dir.killed/code")" = 137 ]
    done
    host kill -KILL "$(netwrap ps --json | jq '.[] | select(.name == "job") | .pid')"
    wait_for sh_ps "length == 1"
    netwrap disconnect --quiet web
    nothing_left
}

says_inside() { [ "$(netwrap exec job -- hostname)" = inside ]; }

@test "the words of a command are in no file of the state directory, wherever they are typed" {
    nw run --quiet --net testbridge echo my-token
    [ "$OUT" = my-token ]
    nw run sleep my-token --net=testbridge
    nw run --net testbridge --name job -d -- sh -c 'exec sleep 100000' my-token
    wait_for sh_ps '.[0].pid != null'
    nw exec job echo my-token
    [ "$OUT" = my-token ]
    [ "$(host grep -rlc my-token /run/netwrap)" = "" ]
    nw log --json
    [[ $OUT != *my-token* ]]
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
    nothing_left
}

@test "a command that is not there, or no network for it, leaves nothing" {
    refused 2 no-such-command run --net testbridge -- no-such-command
    refused 2 /no/such run --net testbridge -- /no/such
    refused 2 nonet run --net nonet -- true
    netwrap network create --quiet --subnet 10.7.0.0/30 small
    BEFORE=$(kernel_state)
    netwrap run --quiet -d --net small --name job -- sleep 100000
    refused_run
    host kill -KILL "$(netwrap ps --json | jq '.[0].pid')"
    wait_for sh_ps "length == 0"
    nothing_left
}

# The network has no address any more: exit 1, and nothing of the second command's is left.
refused_run() {
    wait_for sh_ps '.[0].pid != null'
    nw run --quiet --net small -- true
    [ "$CODE" -eq 1 ]
    grep -q '^netwrap: .*10.7.0.0/30' <<<"$ERR"
    [ "$(host ls /run/netns)" = job ]
}

@test "the dry run of run goes the way of run: what a crash or a dead container left first, and the same refusals" {
    local how
    for how in crash dead; do
        if [ "$how" = crash ]; then
            host env NETWRAP_KILL_AT=20 netwrap run --net testbridge --name job -p 8080:80 -- true || true
        else
            container
            netwrap connect --quiet --net testbridge --pid "$PID" --name job -p 8080:80
            end "$PID"
        fi
        netwrap run --net testbridge --name job -p 8080:80 --dry-run -- sh -c 'ip -4 -o addr show dev eth0; exit 7' \
            >"$BATS_TEST_TMPDIR/script"
        run host bash "$BATS_TEST_TMPDIR/script"
        [ "$status" -eq 7 ]
        kernel_as_before
        nw gc --quiet
        nothing_left
    done
    host iptables -w -P INPUT DROP
    nw run --net testbridge -p 8080:80 --dry-run -- true
    grep -q '^# .*INPUT' <<<"$OUT" # what is worth knowing is in the script too
    nw run --net testbridge -p 8080:80 --quiet -- true
    grep -q 'INPUT' <<<"$ERR"
    host iptables -w -P INPUT ACCEPT
    for how in "" --dry-run; do
        # shellcheck disable=SC2086
        run host unshare --net netwrap run --net testbridge $how -- true
        [ "$status" -eq 2 ]
        [[ $output == *"network namespace"* ]]
    done
}

@test "the dry run of run is a script with the command's exit code, and leaves nothing" {
    nw run --net testbridge -p 8080:80 --dry-run -- sh -c 'ip -4 -o addr show dev eth0; exit 7'
    [ "$CODE" -eq 0 ]
    nothing_left
    cp "$BATS_TEST_TMPDIR/out" "$BATS_TEST_TMPDIR/script"
    run host bash "$BATS_TEST_TMPDIR/script"
    [ "$status" -eq 7 ]
    grep -q ' 10.0.0.2/24 ' <<<"$output"
    nothing_left
}
