#!/usr/bin/env bats
# What others may write, name or hold: none of it is trusted, and none of it stops netwrap.

load helpers

setup() {
    host_up
    before=$(kernel_state)
}
teardown() { host_down; }

@test "no module of the current directory is run, by run, sandbox or demo" {
    local planted=$BATS_TEST_TMPDIR/planted
    mkdir -p "$planted/netwrap"
    echo "open('$planted/was-run', 'w')" | tee "$planted/netwrap/__init__.py" "$planted/netwrap/init.py" >"$planted/os.py"
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    [ "$(host env -C "$planted" netwrap run --quiet --net a -- echo works)" = works ]
    [ "$(host env -C "$planted" netwrap sandbox -- echo works)" = works ]
    [ ! -e "$planted/was-run" ]
}

@test "the lock is for those who may write; a directory that others may write is not even read" {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    [ "$(host stat -c %a /run/netwrap/lock /run/netwrap/netwrap.db | paste -sd ' ')" = "600 644" ]
    host chmod 644 /run/netwrap/lock # as an older netwrap left it
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    [ "$(host stat -c %a /run/netwrap/lock)" = 600 ]
    if [ "$(id -u)" = 0 ]; then # elsewhere the other one is the owner, too
        run unprivileged flock -n /run/netwrap/lock true
        [ "$status" -ne 0 ]
    fi
    host chmod 777 /run/netwrap
    refused 2 "/run/netwrap may be written by other users" network list
    refused 2 "/run/netwrap may be written by other users" network remove a
}

@test "rules of others with quotes, line ends and a dollar in their comments stay, and stop nothing" {
    local rules
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    host iptables -A INPUT -s 10.9.9.9 -m comment --comment $'it\'s "one"\nof two lines' -j ACCEPT
    rules=$(host iptables-save -t filter | grep -A 1 10.9.9.9)
    host iptables -A NETWRAP-a -s 10.9.9.8 -m comment --comment "it's \$\$" -j ACCEPT
    netwrap status >/dev/null
    nw network remove a
    [ "$CODE" -eq 0 ]
    [ "$(host iptables-save -t filter | grep -A 1 10.9.9.9)" = "$rules" ]
    [ "$(host iptables-save | grep -c NETWRAP)" -eq 0 ]
}

@test "links of a container with control characters in their names are looked at like others" {
    container
    at "$PID" ip link add name $'\e[31m' type bridge
    at "$PID" ip link add name eth0 type veth peer name theirs
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap connect --quiet --net a --pid "$PID" --name c1
    [ "$(netwrap ps --json | jq -r '.[].ifname')" = eth1 ]
    netwrap network remove --quiet --force a
    at "$PID" ip link show dev eth0 >/dev/null
}

@test "names that /etc/iproute2 gives to groups and tables do not matter" {
    local kind start
    container
    for kind in group rt_tables; do
        host sh -c "cat /etc/iproute2/$kind >/run/$kind; mount --bind /run/$kind /etc/iproute2/$kind"
    done
    host sh -c 'echo "28279 ours" >>/run/group; echo "101 isp1" >>/run/rt_tables; echo "102 isp2" >>/run/rt_tables'
    start=$(kernel_state)
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 b
    netwrap connect --quiet --net a --pid "$PID" --name c1
    netwrap connect --quiet --net b --pid "$PID"
    netwrap status >/dev/null
    netwrap network remove --quiet --force a b
    same "$start" "$(kernel_state)"
}

@test "words that are no text, and a stdout or stdin that is closed or full, lose nothing" {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    [ "$(host netwrap run --quiet --net a -- printf $'\xff' | od -An -tx1 | tr -d ' ')" = ff ]
    host netwrap network create --quiet --subnet 10.0.1.1/24 b >&- <&-
    [ "$(netwrap network list --json | jq -r '.[].state' | paste -sd ' ')" = "up up" ]
    run host sh -c 'netwrap network create --quiet --subnet 10.0.2.1/24 c >/dev/full'
    [ "$status" -eq 1 ]
    [[ $output == "netwrap: the command is done, but its output could not be written: stdout is full"* ]]
    netwrap network remove --quiet a b c
    same "$before" "$(kernel_state)"
}

@test "what run is given is not kept where everybody may read it" {
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap run --quiet --net a -- true --password=hunter2
    run host grep -q hunter2 /run/netwrap/netwrap.db
    [ "$status" -eq 1 ]
}
