#!/usr/bin/env bats
# What bad input gets: an exit code, the fact and a hint; and nothing changes.

load helpers

setup() { host_up; }

teardown() {
    [ -z "${TRIED:-}" ] || echo "# bad inputs tried: $TRIED" >&3
    host_down
}

# A network, a container on it that publishes a port, and links of somebody else.
something() {
    host ip link add name other type bridge
    host ip link property add dev other altname other-too
    host ip addr add 192.168.7.1/24 dev other
    host ip link set dev other up
    host ip route add 10.9.0.0/16 via 192.168.7.2
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    container
    WEB=$PID
    netwrap connect --quiet --net testbridge --pid "$WEB" --name web -p 8080:80 -p 8000-8009:8000-8009/udp
    BEFORE=$(kernel_state)
}

@test "a subnet that is none, too small, IPv6 or overlapping is refused" {
    something
    local text
    for text in nonsense 10.1.0.0 10.1.0.0/33 300.1.0.0/24 10.1.0/24 10.1.0.0/31 10.1.0.0/32 fd00::/64 127.0.0.0/24 \
        224.0.0.0/24 0.0.0.0/0; do
        will_refuse 2 "$text" network create --subnet "$text" new
    done
    will_refuse 2 "''" network create --subnet "" new
    for text in 10.0.0.1/24 10.0.0.128/30 10.0.0.0/16; do # of our own network
        will_refuse 2 "${text%.*}" network create --subnet "$text" new
    done
    will_refuse 2 10.9.7.0/24 network create --subnet 10.9.7.0/24 new     # a route
    will_refuse 2 192.168.0.0/16 network create --subnet 192.168.0.0/16 new # an address
    refuse_all
    same "$BEFORE" "$(kernel_state)"
}

@test "a gateway, range, address or MTU that does not fit is refused" {
    something
    local text
    for text in 10.2.0.1 10.1.0.0 10.1.0.255 nonsense fd00::1; do
        will_refuse 2 "$text" network create --subnet 10.1.0.0/24 --gateway "$text" new
    done
    for text in 10.2.0.0/25 10.1.0.0/16 nonsense fd00::/64; do
        will_refuse 2 "$text" network create --subnet 10.1.0.0/24 --ip-range "$text" new
    done
    for text in 67 65536; do
        will_refuse 2 "$text" network create --mtu "$text" new
    done
    host ip addr add 10.0.0.77/32 dev testbridge
    container
    for text in 10.1.0.2 10.0.0.0 10.0.0.255 10.0.0.1 10.0.0.2 10.0.0.77 nonsense fd00::2; do
        will_refuse 2 "$text" connect --net testbridge --pid "$PID" --ip "$text"
    done
    for text in nonsense 01:00:00:00:00:01 02:00:00:00:00; do
        will_refuse 2 "$text" connect --net testbridge --pid "$PID" --mac "$text"
    done
    text=$(netwrap ps --json | jq -r '.[0].mac')
    will_refuse 2 "$text" connect --net testbridge --pid "$PID" --mac "$text"
    for text in "" a/b %d lo abcdefghijklmnop; do
        will_refuse 2 "'$text'" connect --net testbridge --pid "$PID" --ifname "$text"
    done
    refuse_all
    host ip addr del 10.0.0.77/32 dev testbridge
    end "$PID"
    same "$BEFORE" "$(kernel_state)"
}

@test "a name that is empty, odd or taken is refused" {
    something
    local name
    container
    for name in "" a/b .. "a b" %d -x "a;b" ä lo; do
        will_refuse 2 "'$name'" network create -- "$name"
    done
    for name in "" ../x -x; do
        will_refuse 2 "'$name'" connect --net testbridge --pid "$PID" "--name=$name"
    done
    will_refuse 2 'a\nb' network create $'a\nb'
    will_refuse 2 ../x connect --net testbridge --netns ../x
    will_refuse 2 ../x run --net testbridge --name ../x -- true
    will_refuse 2 -x network create -x
    will_refuse 2 testbridge network create testbridge
    will_refuse 2 web connect --net testbridge --pid "$PID" --name web
    host ip netns add theirs
    will_refuse 2 theirs connect --net testbridge --pid "$PID" --name theirs
    will_refuse 2 theirs run --net testbridge --name theirs -- true
    refuse_all
    host ip netns del theirs
    end "$PID"
    same "$BEFORE" "$(kernel_state)"
}

@test "an interface of that name that is not ours is refused and stays" {
    something
    refused 2 other network create other
    refused 2 other network create --subnet 10.1.0.0/24 other
    refused 2 other-too network create other-too
    nw network create --dry-run --json a-name-longer-than-15
    local bridge
    bridge=$(grep -o 'br-[0-9a-f]\{8\}' <<<"$OUT" | head -n 1)
    host ip link add name "$bridge" type bridge
    refused 2 "$bridge" network create a-name-longer-than-15
    host ip link show dev "$bridge"
    host ip link del dev "$bridge"
    same "$BEFORE" "$(kernel_state)"
}

@test "what is not there is refused by its name" {
    something
    will_refuse 2 nonet network inspect nonet
    will_refuse 2 nonet network remove nonet
    will_refuse 2 nonet network remove --force nonet
    will_refuse 2 nonet network remove --force testbridge nonet # nor is the other one removed
    will_refuse 2 nonet connect --net nonet --pid "$WEB"
    will_refuse 2 nonet run --net nonet -- true
    will_refuse 2 nonet disconnect web --net nonet
    will_refuse 2 nodriver network create --driver nodriver new
    will_refuse 2 nobody disconnect nobody
    will_refuse 2 nobody publish nobody 9000:80
    will_refuse 2 nobody unpublish nobody 9000:80
    will_refuse 2 nobody exec nobody -- true
    will_refuse 2 9000:80 unpublish web 9000:80
    will_refuse 2 4711 log 4711
    will_refuse 2 4711 undo 4711
    will_refuse 2 nohandle connect --net testbridge --netns nohandle
    will_refuse 2 no-such-command run --net testbridge -- no-such-command
    will_refuse 2 no-such-command exec web -- no-such-command
    will_refuse 2 1 disconnect --pid 1
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/sh\necho "Error: No such object: nocontainer" >&2\nexit 1\n' >"$BATS_TEST_TMPDIR/bin/docker"
    chmod +x "$BATS_TEST_TMPDIR/bin/docker"
    PATH="$BATS_TEST_TMPDIR/bin:$PATH" refused 2 nocontainer connect --net testbridge --container nocontainer
    printf '#!/bin/sh\necho 0\n' >"$BATS_TEST_TMPDIR/bin/podman" # it has the container, stopped
    chmod +x "$BATS_TEST_TMPDIR/bin/podman"
    PATH="$BATS_TEST_TMPDIR/bin:$PATH" refused 2 "podman: it is not running" connect --net testbridge --container stopped
    [ "${ERR##*$'\n'}" = "hint: podman ps -a" ]
    refuse_all
    same "$BEFORE" "$(kernel_state)"
}

@test "a network in use, or a container connected already, is refused" {
    something
    refused 2 web network remove testbridge
    refused 2 testbridge connect --net testbridge --pid "$WEB"
    refused 2 testbridge connect --net testbridge --netns web
    netwrap network create --quiet --subnet 10.5.0.0/24 second
    refused 2 anna connect --net second --pid "$WEB" --name anna
    refused 2 second disconnect web --net second
    refused 2 second publish web 9000:80 --net second
    netwrap network remove --quiet second
    same "$BEFORE" "$(kernel_state)"
}

@test "a pid that is none, a thread's, or in the host's own namespace is refused" {
    something
    local pid thread
    for pid in 0 -1 99999999 99999999999999999999; do
        will_refuse 2 "$pid" connect --net testbridge "--pid=$pid"
    done
    will_refuse 2 abc connect --net testbridge --pid abc
    will_refuse 2 1 connect --net testbridge --pid 1 # the host's own namespace
    host touch /run/netns/own
    host mount --bind /proc/1/ns/net /run/netns/own
    will_refuse 2 own connect --net testbridge --netns own
    refuse_all
    host umount /run/netns/own
    host rm /run/netns/own
    pid=$(host bash -c 'unshare --net python3 -c "
import threading, time
threading.Thread(target=time.sleep, args=(100000,)).start()" >/dev/null 2>&1 & echo $!')
    wait_for host sh -c "[ \$(ls /proc/$pid/task | wc -l) -eq 2 ]"
    thread=$(host sh -c "ls /proc/$pid/task" | grep -vx "$pid")
    refused 2 "$thread" connect --net testbridge --pid "$thread"
    end "$pid"
    same "$BEFORE" "$(kernel_state)"
}

@test "a bad port, protocol or range is refused" {
    something
    local spec
    for spec in "" 0:80 80:65536 x:80 80 80: 9000:80/icmp 9000:80/ 9000-9010:80-85 9000-9010:80 9010-9000:80-90 9000-:80 \
        -1:80 +90:80 9000-70000:80-61080 fd00::1:9000:80 224.0.0.1:9000:80 203.0.113.77:9000:80; do
        will_refuse 2 "$spec" publish web -- "$spec"
    done
    will_refuse 2 "'300.0.0.1:9000:80': '300.0.0.1' is not an IPv4 address" publish web 300.0.0.1:9000:80
    will_refuse 2 "'host:8081:80': 'host' is not an IPv4 address" publish web host:8081:80
    will_refuse 2 "'0.0.0.0:8080:80'" publish web 0.0.0.0:8080:80 # as typed, not as netwrap writes it
    container
    for spec in 65536:80 80:0 8080:80; do
        will_refuse 2 "$spec" connect --net testbridge --pid "$PID" -p "$spec"
    done
    refuse_all
    end "$PID"
    same "$BEFORE" "$(kernel_state)"
}

@test "who may use a port has to be a CIDR, and a port has to be there for it" {
    something
    local text
    for text in nonsense 192.168.1.7/24 300.1.0.0/24 192.168.0.0/33 fd00::/8; do
        will_refuse 2 "$text" publish web 9000:90 --allow-from "$text"
        will_refuse 2 "$text" connect --net testbridge --pid "$WEB" -p 9000:90 --allow-from "$text"
    done
    will_refuse 2 "''" publish web 9000:90 --allow-from ""
    will_refuse 2 127.0.0.1 publish web 9000:90 --allow-from 127.0.0.1
    will_refuse 2 224.0.0.0/4 publish web 9000:90 --allow-from 224.0.0.0/4
    will_refuse 2 127.0.0.1 publish web 127.0.0.1:9000:90 --allow-from 192.168.1.0/24
    will_refuse 2 --allow-from connect --net testbridge --pid "$WEB" --allow-from 192.168.1.0/24
    refuse_all
    same "$BEFORE" "$(kernel_state)"
}

@test "networks that are not two, or not there, are not linked" {
    something
    will_refuse 2 testbridge network link testbridge testbridge
    will_refuse 2 nowhere network link testbridge nowhere
    will_refuse 2 "'nowhere'" network unlink nowhere testbridge
    will_refuse 2 "Missing argument" network link testbridge
    will_refuse 2 "unexpected extra argument" network link testbridge b c
    will_refuse 2 "No such option" doctor --mend
    will_refuse 2 "'nowhere'" check web nowhere
    refuse_all
    same "$BEFORE" "$(kernel_state)"
}

@test "a host port that a publish or a listening socket has is refused" {
    something
    local spec pids=() listener before
    container
    netwrap connect --quiet --net testbridge --pid "$PID" --name second
    before=$(kernel_state)
    for spec in 8080:80 8080:81/tcp 127.0.0.1:8080:80 8075-8085:80-90 8009:1/udp 7999-8000:1-2/udp; do
        will_refuse 2 "${spec%/*}" publish second "$spec"
    done
    will_refuse 2 9100 publish second 9100:80 9100:81
    for listener in "tcp 0.0.0.0 9000" "udp 0.0.0.0 9001" "tcp 127.0.0.1 9002" "tcp :: 9003" "udp :: 9004"; do
        # shellcheck disable=SC2086
        pids+=("$(host bash -c 'python3 bats/peer listen "$@" >/dev/null 2>&1 </dev/null & echo $!' - $listener)")
    done
    # shellcheck disable=SC2016
    wait_for host sh -c '[ $(ss -Hlntu | grep -c ":900[0-4]") -eq 5 ]'
    for spec in 9000:80/tcp 9001:80/udp 9002:80/tcp 9003:80/tcp 9004:80/udp 8990-9000:1-11/tcp; do
        will_refuse 2 "$spec" publish second "$spec"
    done
    refuse_all
    netwrap publish --quiet second 9000:80/udp 9001:80/tcp # of the other protocol both are free
    netwrap unpublish --quiet second 9000:80/udp 9001:80/tcp
    host kill "${pids[@]}"
    same "$before" "$(kernel_state)"
}

@test "usage errors are two lines too" {
    something
    will_refuse 2 frobnicate frobnicate
    will_refuse 2 frobnicate network frobnicate
    will_refuse 2 --frob network create --frob new
    will_refuse 2 --frob connect --net testbridge --pid "$WEB" --frob
    will_refuse 2 "Missing argument" network create
    will_refuse 2 "Missing argument" network remove
    will_refuse 2 --subnet network create new --subnet
    will_refuse 2 extra network create new extra
    will_refuse 2 --net connect --pid "$WEB"
    will_refuse 2 --pid connect --net testbridge
    will_refuse 2 --pid connect --net testbridge --pid "$WEB" --netns web
    will_refuse 2 many network create --mtu many new
    will_refuse 2 many log many
    will_refuse 2 --pid disconnect
    will_refuse 2 --pid disconnect web --pid "$WEB"
    will_refuse 2 "Missing argument" publish web
    will_refuse 2 "Missing argument" run --net testbridge
    will_refuse 2 "Missing argument" exec web
    will_refuse 2 --hold connect --net testbridge --netns web --hold
    will_refuse 2 --step network create --step new # no terminal
    will_refuse 2 --step network create --step --dry-run new
    will_refuse 2 --step network create --step --batch new
    will_refuse 2 --json network remove --json testbridge
    refuse_all
    same "$BEFORE" "$(kernel_state)"
}

@test "bad input on a host without a state makes none" {
    local before
    before=$(kernel_state)
    refused 2 nonsense network create --subnet nonsense new
    refused 2 nodriver network create --driver nodriver new
    refused 2 10.0.0.9 network create --subnet 10.1.0.0/24 --gateway 10.0.0.9 new
    refused 2 nonet connect --net nonet --pid 1
    refused 2 nonet network remove nonet
    refused 2 nobody disconnect nobody
    refused 2 frobnicate frobnicate
    host sh -c '! test -e /run/netwrap/netwrap.db'
    same "$before" "$(kernel_state)"
}

@test "without ip or iptables a change fails before it begins, with a hint" {
    local before tool
    before=$(kernel_state)
    (umask 133 && echo "not to be run" >"$BATS_TEST_TMPDIR/cover")
    for tool in ip iptables; do
        CODE=0
        # A mount namespace of its own, where the tool is covered by a file that cannot be run.
        # shellcheck disable=SC2016
        host unshare --mount bash -c 'for dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
                [ ! -e "$dir/$1" ] || mount --bind "$2" "$dir/$1"
            done
            netwrap network create new' - "$tool" "$BATS_TEST_TMPDIR/cover" \
            >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" || CODE=$?
        cat "$BATS_TEST_TMPDIR/err"
        [ "$CODE" -eq 1 ]
        [ ! -s "$BATS_TEST_TMPDIR/out" ]
        [ "$(wc -l <"$BATS_TEST_TMPDIR/err")" -eq 2 ]
        grep -q "^netwrap: .*'$tool" "$BATS_TEST_TMPDIR/err" # iptables, or one that comes with it
        grep -Eq '^hint: .*(iproute2|iptables)$' "$BATS_TEST_TMPDIR/err"
    done
    same "$before" "$(kernel_state)"
}

@test "what ip says and nobody can read is an error before the first change" {
    local before bin=$BATS_TEST_TMPDIR/bin
    before=$(kernel_state)
    mkdir "$bin"
    printf '#!/bin/sh\ncase " $* " in *" -j "*) echo rubbish && exit 0 ;; esac\nexec %s "$@"\n' "$(command -v ip)" >"$bin/ip"
    chmod +x "$bin/ip"
    PATH=$bin:$PATH refused 1 "its output cannot be read" network create a
    same "$before" "$(kernel_state)"
}

@test "without root a change fails with the way to get it" {
    host unshare --user true || skip "no user namespaces in the host"
    something
    local words
    unprivileged netwrap --version || skip "an ordinary user may not run $NETWRAP"
    for words in "network create new" "network remove testbridge --force" "connect --net testbridge --pid $WEB" \
        "disconnect web" "publish web 9000:80" "unpublish web 8080:80" "undo" "run --net testbridge -- true" "exec web -- true"; do
        CODE=0
        # shellcheck disable=SC2086
        unprivileged netwrap $words >"$BATS_TEST_TMPDIR/out" 2>"$BATS_TEST_TMPDIR/err" </dev/null || CODE=$?
        echo "$words"
        cat "$BATS_TEST_TMPDIR/err"
        [ "$CODE" -eq 1 ]
        [ ! -s "$BATS_TEST_TMPDIR/out" ]
        [ "$(wc -l <"$BATS_TEST_TMPDIR/err")" -eq 2 ]
        grep -q '^netwrap: .*root' "$BATS_TEST_TMPDIR/err"
        grep -qF "hint: sudo netwrap ${words%% *}" "$BATS_TEST_TMPDIR/err"
        grep -q 'netwrap sandbox$' "$BATS_TEST_TMPDIR/err"
    done
    same "$BEFORE" "$(kernel_state)"
}

@test "a state file that is corrupt, newer or writable by others is refused and stays" {
    something
    local file=/run/netwrap/netwrap.db words
    commands=("network list" "network create new" "connect --net testbridge --pid $WEB" "undo")
    host cp -p "$file" /run/good

    host python3 -c "import sqlite3; db = sqlite3.connect('$file'); db.execute('PRAGMA user_version = 4711'); db.commit()"
    # shellcheck disable=SC2086
    for words in "${commands[@]}"; do
        refused 2 "$file" $words
        grep -q 4711 <<<"$ERR"
    done

    host sh -c "head -c 3000 /dev/urandom >$file"
    # shellcheck disable=SC2086
    for words in "${commands[@]}"; do refused 2 "$file" $words; done

    host sh -c "head -c 20000 /run/good >$file" # cut off
    # shellcheck disable=SC2086
    for words in "${commands[@]}"; do refused 2 "$file" $words; done

    host rm "$file"
    host python3 -c "import sqlite3; db = sqlite3.connect('$file'); db.execute('CREATE TABLE theirs (a)'); db.commit()"
    # shellcheck disable=SC2086
    for words in "${commands[@]}"; do refused 2 "$file" $words; done

    host cp -p /run/good "$file"
    host chmod 666 "$file"
    # shellcheck disable=SC2086
    for words in "${commands[@]}"; do refused 2 "$file" $words; done
    host chmod 644 "$file"
    host chmod 777 /run/netwrap
    refused 2 /run/netwrap network create new
    host chmod 755 /run/netwrap

    [ "$(netwrap ps --json | jq length)" -eq 1 ] # and the good one is used
    same "$BEFORE" "$(kernel_state)"
}
