# Shared by all bats files: a throw-away host for each test, and its kernel state as text.
#
#   setup()    { host_up; }             a host of its own: private network, mount and pid namespaces, own /run
#   teardown() { host_down; }
#   host CMD…                           runs CMD on that host (as its root)
#   netwrap …                           runs netwrap on that host
#   container                           starts a process in a network namespace of its own; sets PID
#   kernel_state                        prints links, addresses, routes, rules, sysctls, /run/netns of every namespace
#
# As root and as an ordinary user alike: the user's host is in a user namespace.

ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [ -x "$ROOT/.venv/bin/netwrap" ]; then NETWRAP=$ROOT/.venv/bin/netwrap; else NETWRAP=$(command -v netwrap || true); fi

# Starts the host; skips the test where an ordinary user may not have one.
host_up() {
    [ -n "$NETWRAP" ] || { echo "netwrap is not installed: scripts/setup test" >&2; return 1; }
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
    kill -KILL "$HOST_UNSHARE" 2>/dev/null || true
    wait "$HOST_UNSHARE" 2>/dev/null || true
    HOST_UNSHARE=
}

host() {
    local user=()
    [ "$(id -u)" = 0 ] || user=(--user --preserve-credentials)
    nsenter --target "$HOST_PID" "${user[@]}" --mount --net --pid --wd="$ROOT" -- \
        env PATH="$(dirname "$NETWRAP"):$PATH" NETWRAP_STATE_DIR="${STATE_DIR:-/run/netwrap}" "$@" 3>&-
}

netwrap() { host netwrap "$@"; }

# Starts a process in a network namespace of its own and sets PID to its number on the host.
container() {
    PID=$(host bash -c 'unshare --net sleep 100000 >/dev/null 2>&1 3>&- & echo $!')
    wait_for host bash -c "[ \"\$(readlink /proc/$PID/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ] && grep -q sleep /proc/$PID/comm"
}

kernel_state() { host bash "$BATS_TEST_DIRNAME/kernel-state"; }

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
