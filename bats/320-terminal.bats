#!/usr/bin/env bats
# What is shown fits the terminal that it is shown on.

load helpers

setup() { host_up; }
teardown() { host_down; }

# on_screen COLUMNS ARG…: runs netwrap on a terminal of that width; OUT is what it shows there.
on_screen() {
    local line
    line="stty cols $1; netwrap $(printf '%q ' "${@:2}")"
    OUT=$(host env -u COLUMNS script -qec "$line" /dev/null </dev/null | tr -d '\r')
}

# fits COLUMNS: no line is wider, but for commands.
fits() { ! grep -v '^+ ' <<<"$OUT" | grep -E "^.{$(($1 + 1)),}"; }

@test "tables are cut to the terminal and say so, and are whole where there is none" {
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 testbridge
    netwrap network create --quiet --subnet 10.0.1.1/24 a-network-with-a-long-name
    netwrap network link --quiet testbridge a-network-with-a-long-name
    netwrap connect --quiet --net testbridge --pid "$PID" --name a-container-with-a-long-name -p 8080:80 -p 8081:81/udp --allow-from 10.1.0.0/24
    host iptables -w -t nat -F POSTROUTING
    export LC_ALL=C.UTF-8
    for command in ps "network list" status log; do
        # shellcheck disable=SC2086
        nw $command
        whole=$OUT
        for width in 40 80; do
            # shellcheck disable=SC2086
            on_screen "$width" $command
            echo "$OUT"
            fits "$width"
            if [ "$(wc -L <<<"$whole")" -gt "$width" ]; then
                same "# cut to $width columns; the whole table:"$'\n'"  netwrap $command | cat" "$(tail -n 2 <<<"$OUT")"
            fi
            [ "$(grep -vc '^#\|^  netwrap' <<<"$OUT")" -eq "$(wc -l <<<"$whole")" ] # no line of it is broken
        done
        # shellcheck disable=SC2086
        on_screen 300 $command
        same "$whole" "$OUT"
    done
    nw ps
    [ "$(head -n 1 <<<"$OUT" | xargs)" = "NAME PID NETWORK IP IFNAME VETH PORTS STATE" ]
    grep -qF '8081:81/udp from 10.1.0.0/24' <<<"$OUT"
    nw network list
    grep -q 'linked to a-network-with-a-long-name' <<<"$OUT"
    on_screen 80 check # what is broken is longer than a cell: it follows in full, wrapped
    [[ $(xargs <<<"$OUT") == *"FROM TO HOW WORKS BROKEN"*" service "*"service: nothing listens on port 80/tcp in a-container-with-a-long-name (10.0.0.2)"* ]]
    OUT=$(grep -v '^  fix: ' <<<"$OUT") && fits 80
    on_screen 80 doctor
    grep -qx '  fix: netwrap repair' <<<"$OUT"
    OUT=$(grep -v '^  fix: ' <<<"$OUT") && fits 80
    on_screen 80 network create --internal --subnet 10.0.2.1/24 inner
    grep -q '^+ ip link add name inner' <<<"$OUT"
    fits 80
}
