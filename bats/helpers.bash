# Shared by all bats files: a throw-away host for each test, and its kernel state as text.
#
#   setup()    { host_up; }             a host of its own: private network, mount and pid namespaces, own /run
#   teardown() { host_down; }
#   host CMD…                           runs CMD on that host (as its root)
#   netwrap …                           runs netwrap on that host, from its one entry point
#   container                           starts a process in a network namespace of its own; sets PID
#   kernel_state                        prints links, addresses, routes, rules, sysctls, /run/netns of every namespace
#
# As root and as an ordinary user alike: the user's host is in a user namespace.

ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [ -x "$ROOT/.venv/bin/netwrap" ]; then NETWRAP=$ROOT/.venv/bin/netwrap; else NETWRAP=$(command -v netwrap || true); fi

# Long loops (cases, points of failure, random sequences) take each such turn; 1 takes all, in a night.
export NETWRAP_EVERY=${NETWRAP_EVERY:-32}

# Starts the host; skips the test where an ordinary user may not have one.
host_up() {
    [ -n "$NETWRAP" ] || { echo "netwrap is not installed: scripts/setup test" >&2; return 1; }
    if [ -z "${BATS_TEST_TMPDIR:-}" ]; then # bats before 1.4 makes none
        BATS_TEST_TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/netwrap-bats.XXXXXX")
        MADE_TMPDIR=$BATS_TEST_TMPDIR
    fi
    local user=() ready=$BATS_TEST_TMPDIR/host-ready
    if [ "$(id -u)" != 0 ]; then
        user=(--user --map-root-user)
        unshare "${user[@]}" true 2>/dev/null || skip "user namespaces are not allowed here"
    fi
    env -u NETWRAP_KILL_AT PATH="$(dirname "$NETWRAP"):$PATH" NETWRAP_STATE_DIR=/run/netwrap \
        unshare "${user[@]}" --mount --pid --fork --kill-child --mount-proc \
        unshare --net bash "$BATS_TEST_DIRNAME/host-init" "$ready" 3>&- &
    HOST_UNSHARE=$!
    wait_for test -e "$ready"
    HOST_PID=$(cat "/proc/$HOST_UNSHARE/task/$HOST_UNSHARE/children")
    HOST_PID=${HOST_PID%% *} # unshare has one child
}

# Ends the host, and with it every process and kernel object in it.
host_down() {
    [ -n "${HOST_UNSHARE:-}" ] || return 0
    [ -z "${SLOW:-}" ] || touch "$SLOW/go"
    kill -KILL "$HOST_UNSHARE" 2>/dev/null || true
    wait "$HOST_UNSHARE" 2>/dev/null || true
    HOST_UNSHARE=
    [ -z "${MADE_TMPDIR:-}" ] || rm -rf "$MADE_TMPDIR"
}

host() {
    local user=()
    [ "$(id -u)" = 0 ] || user=(--user --preserve-credentials)
    nsenter --target "$HOST_PID" "${user[@]}" --mount --net --pid --wd="$ROOT" -- \
        env PATH="$(dirname "$NETWRAP"):$PATH" NETWRAP_STATE_DIR="${STATE_DIR:-/run/netwrap}" "$@" 3>&-
}

# Without the start-up of the command itself, see warm-server; `host netwrap …` is the command as a user starts it.
netwrap() {
    local code
    [ -p "$BATS_TEST_TMPDIR/warm" ] || warm_up
    ASKED=$(mktemp -d "$BATS_TEST_TMPDIR/asked.XXXXXX")
    printf '%s\0' "$@" >"$ASKED/words"
    PATH="$(dirname "$NETWRAP"):$PATH" NETWRAP_STATE_DIR="${STATE_DIR:-/run/netwrap}" env -0 >"$ASKED/env"
    mkfifo "$ASKED/code"
    echo "$ASKED" >"$BATS_TEST_TMPDIR/warm"
    read -r -t 600 code <>"$ASKED/code"
    cat "$ASKED/out"
    cat "$ASKED/err" >&2
    return "$code"
}

warm_up() {
    host "$(dirname "$NETWRAP")/python" "$BATS_TEST_DIRNAME/warm-server" "$BATS_TEST_TMPDIR/warm" >/dev/null 2>&1 </dev/null &
    wait_for test -p "$BATS_TEST_TMPDIR/warm"
}

# Starts a process in a network namespace of its own and sets PID to its number on the host.
container() {
    PID=$(host bash -c 'unshare --net sleep 100000 >/dev/null 2>&1 3>&- & echo $!')
    wait_for host bash -c "[ \"\$(readlink /proc/$PID/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ] && grep -q sleep /proc/$PID/comm"
}

kernel_state() { host python3 -B "$BATS_TEST_DIRNAME/state.py"; }

# Waits until a command succeeds; a slow (emulated) machine has time.
wait_for() {
    local _
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.05
    done
    echo "waited in vain for: $*" >&2
    return 1
}

# Fails with both texts where they differ.
same() {
    [ "$1" = "$2" ] && return 0
    diff <(printf '%s\n' "$1") <(printf '%s\n' "$2") >&2
    return 1
}

# Runs netwrap and keeps apart what it says: CODE, OUT (stdout), ERR (stderr).
nw() {
    CODE=0
    netwrap "$@" >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" </dev/null || CODE=$?
    OUT=$(cat "$BATS_TEST_TMPDIR/out")
    ERR=$(cat "$BATS_TEST_TMPDIR/err")
}

# refused CODE TEXT ARG…: netwrap ends with CODE and two lines on stderr, the first with TEXT in it; the state file is as before.
refused() {
    local code=$1 text=$2 before after why=
    shift 2
    before=$(state_sum)
    nw "$@"
    after=$(state_sum)
    TRIED=$((${TRIED:-0} + 1))
    [ "$CODE" -eq "$code" ] || why+=" exit code $CODE, not $code;"
    [ -z "$OUT" ] || why+=" stdout is not empty: $OUT;"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/err")" -eq 2 ] || why+=" not two lines on stderr;"
    case $ERR in "netwrap: "*"$text"*$'\n'"hint: "?*) ;; *) why+=" not 'netwrap: …$text…' and 'hint: …';" ;; esac
    case $ERR in *Traceback*) why+=" a traceback;" ;; esac
    [ "$before" = "$after" ] || why+=" the state file changed: '$before' -> '$after';"
    [ -n "$why" ] || return 0
    printf 'netwrap %s:%s\n%s\n' "$(printf '%q ' "$@")" "$why" "$ERR" >&2
    return 1
}

# will_refuse CODE TEXT ARG…: the same, put off until `refuse_all`, which takes a tenth of the time for many.
will_refuse() {
    printf '%s\0' "$1" "$2" "$(($# - 2))" "${@:3}" >>"$BATS_TEST_TMPDIR/refusals"
}

refuse_all() {
    local count code=0
    count=$(host "$(dirname "$NETWRAP")/python" "$ROOT/bats/refuse-all" "$BATS_TEST_TMPDIR/refusals") || code=$?
    TRIED=$((${TRIED:-0} + ${count:-0}))
    rm "$BATS_TEST_TMPDIR/refusals"
    return "$code"
}

state_sum() { host cksum "${STATE_DIR:-/run/netwrap}/netwrap.db" 2>/dev/null || echo none; }

# background DIR ARG…: starts netwrap; DIR gets its pid, out and err, and its exit code in "code" once it has ended.
background() {
    local dir=$1
    shift
    mkdir -p "$dir"
    # shellcheck disable=SC2016
    host bash -c 'cd "$1"; shift
        netwrap "$@" >out 2>err & echo $! >pid; wait $!; echo $? >code.new; mv code.new code' - "$dir" "$@" >/dev/null 2>&1 </dev/null &
    wait_for test -s "$dir/pid"
}

# slowly N ARG…: starts netwrap, whose N-th changing command waits until $SLOW/go is there; sets NETWRAP_PID, and
# WAITING to the pid of the command that waits.
slowly() {
    SLOW=$BATS_TEST_TMPDIR/slow.$RANDOM
    mkdir -p "$SLOW/bin"
    echo 0 >"$SLOW/count"
    local tool
    for tool in ip iptables iptables-restore sysctl; do
        ln -s "$ROOT/bats/failing-command" "$SLOW/bin/$tool"
    done
    # shellcheck disable=SC2016
    host env SPOIL_DIR="$SLOW" SPOIL_AT="$1" SPOIL_HOW=wait SLOW="$SLOW" bash -c 'PATH=$SLOW/bin:$PATH; shift
        netwrap "$@" >"$SLOW/out" 2>"$SLOW/err" & echo $! >"$SLOW/pid"
        wait $!; echo $? >"$SLOW/code.new"; mv "$SLOW/code.new" "$SLOW/code"' - "$@" >/dev/null 2>&1 </dev/null &
    wait_for test -s "$SLOW/waiting"
    # shellcheck disable=SC2034  # for the test
    NETWRAP_PID=$(cat "$SLOW/pid")
    # shellcheck disable=SC2034
    WAITING=$(cat "$SLOW/waiting")
}

# Ends processes that `container` or `machine` started.
end() {
    local pid
    for pid; do
        host kill -KILL "$pid"
        wait_for host sh -c "! test -e /proc/$pid"
    done
}

# gone PID: the process has ended.
gone() { ! host test -e "/proc/$1/fd"; }

# at PID CMD…: runs CMD in the network namespace of a process of the host.
at() {
    local pid=$1
    shift
    host nsenter --target "$pid" --net -- "$@"
}

# serve PID PROTO IP PORT[-END] NAME: starts a server there (PID 1: on the host itself) that answers "NAME PORT SOURCE".
serve() {
    local pid=$1
    shift
    at "$pid" python3 "$ROOT/bats/peer" serve "$@" >/dev/null 2>&1 </dev/null &
}

# ask PID PROTO IP PORT [SECONDS [FROM]]: prints the answer of the server there, asked from the namespace of PID.
ask() {
    local pid=$1
    shift
    at "$pid" python3 "$ROOT/bats/peer" ask "$@"
}

# answers ANSWER PID PROTO IP PORT: asked from the namespace of PID, the server there answers that.
answers() {
    local want=$1 got
    shift
    got=$(ask "$@") || got="no answer"
    [ "$got" = "$want" ] && return 0
    echo "ask $*: '$got', not '$want'" >&2
    return 1
}

# silent PID PROTO IP PORT: nobody answers there.
silent() {
    local got
    if got=$(ask "$@" 1); then
        echo "ask $*: an answer: $got" >&2
        return 1
    fi
}

# A network testbridge with the containers c1 ($C1) and c2 ($C2).
testbridge() {
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    netwrap connect --quiet --net testbridge --pid "$C1" --name c1
    netwrap connect --quiet --net testbridge --pid "$C2" --name c2
}

# machine LINK CIDR THEIRS: another machine with the address THEIRS, wired to the host's LINK with CIDR; sets PID.
machine() {
    container
    host ip link add name "$1" type veth peer name eth0 netns "$PID"
    host ip addr add "$2" dev "$1"
    host ip link set dev "$1" up
    at "$PID" ip addr add "$3" dev eth0
    at "$PID" ip link set dev eth0 up
    at "$PID" ip link set dev lo up
}

# Runs CMD on the host as a user who may change nothing there.
unprivileged() {
    if [ "$(id -u)" = 0 ]; then
        host setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"
    else
        host unshare --user --map-user=1000 --map-group=1000 "$@"
    fi
}

# Runs each line of stdin (a driver of this directory and its arguments) on a host of its own, as many at a time as
# there are processors; shows the lines with numbers of what was tried, and all of it where one fails.
on_hosts() {
    local told=$BATS_TEST_TMPDIR/told
    xargs -P "$(nproc)" -L 1 "$BATS_TEST_DIRNAME/on-a-host" >"$told" 2>&1 3>&- || { cat "$told" >&2 && return 1; }
    sed -n 's/.*tried/# &/p' "$told" >&3
}

# on_a_terminal KEYS ARG…: runs netwrap on a terminal and answers its questions, one key each, the last one repeated
# (\r is enter). CODE, OUT (stdout) and ERR (what the terminal shows), as nw does.
on_a_terminal() {
    CODE=0
    host python3 -B "$ROOT/bats/terminal.py" "$1" netwrap "${@:2}" >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" </dev/null || CODE=$?
    OUT=$(cat "$BATS_TEST_TMPDIR/out")
    ERR=$(cat "$BATS_TEST_TMPDIR/err")
}
