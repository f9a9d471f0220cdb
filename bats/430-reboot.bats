#!/usr/bin/env bats
# After a reboot: another boot id, the state file as it was, and nothing of ours in the kernel.

load helpers

setup() {
    host_up
    container
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    netwrap network create --quiet --subnet 10.0.1.1/24 --mtu 1400 b
    netwrap network create --quiet --subnet 10.0.2.1/24 --internal i
    netwrap network link --quiet a b
    standing=$(host_state)
    netwrap connect --quiet --net a --pid "$PID" --name c1 -p 8080:80
    netwrap run --quiet --net b --name job -d -- sleep 100000 >/dev/null
}
teardown() { host_down; }

host_state() { kernel_state | sed -n '/^== host/,/^== [^h]/p'; }

# Everything that the kernel holds is gone, and processes too; netwrap's state is not.
reboot() {
    local job
    job=$(netwrap ps --json | jq '.[] | select(.name == "job") | .pid')
    end "$PID" "$job"
    wait_for job_is_down
    # shellcheck disable=SC2016
    host bash -c 'umount /run/netns/*; rm -f /run/netns/*
        for link in a b i; do ip link del dev $link; done
        for table in filter nat raw mangle; do iptables -t $table -F; iptables -t $table -X; done
        sysctl -q net.ipv4.ip_forward=$1
        cat /proc/sys/kernel/random/uuid >/run/boot_id
        mount --bind /run/boot_id /proc/sys/kernel/random/boot_id' - "${1:-0}"
}

# The supervisor of `run -d` takes its network down: a reboot would end it before.
job_is_down() { [ "$(netwrap ps --json | jq -r '.[].name')" = c1 ]; }

@test "ps and network list say so, and repair brings the networks back; leases of dead containers are released" {
    reboot
    [ "$(netwrap ps --json | jq -r '.[] | "\(.name) \(.state)"')" = "c1 gone" ]
    [ "$(netwrap network list --json | jq -r '.[].state' | paste -sd ' ')" = "down down down" ]
    run netwrap status
    [ "$status" -eq 1 ]
    nw repair
    [ "$CODE" -eq 0 ]
    [[ $ERR == *"netwrap: cleaning up after containers that are gone: c1"* ]]
    same "$standing" "$(host_state)"
    [ "$(netwrap ps --json)" = "[]" ]
    [ "$(netwrap network list --json | jq -r '.[].state' | paste -sd ' ')" = "up up up" ]
    container
    host ip link del dev a
    refused 1 "'a' is down" connect --net a --pid "$PID"
    [[ $ERR == *"hint: netwrap repair a"* ]]
    netwrap repair --quiet a
    [ "$(netwrap connect --quiet --net a --pid "$PID" --name c1)" = 10.0.0.3 ] # released, and not the next one given
}

@test "after it all goes as it came, and settings that the new boot brought stay" {
    reboot 1
    netwrap repair --quiet
    [ "$(host sysctl -n net.ipv4.ip_forward)" = 1 ]
    netwrap network remove --quiet a b i
    [ "$(host sysctl -n net.ipv4.ip_forward)" = 1 ] # on before netwrap's first change in this boot
    [ "$(host iptables-save | grep -c netwrap:)" = 0 ]
    [ "$(host ip -br link | grep -vc '^lo')" = 0 ]
}

@test "without a repair all can be removed, and the new boot's settings stay" {
    reboot 1
    netwrap network remove --quiet --force a b i
    [ "$(host sysctl -n net.ipv4.ip_forward)" = 1 ]
    [ "$(netwrap network list --json)" = "[]" ]
    netwrap network create --quiet --subnet 10.0.0.1/24 a
    [ "$(netwrap network list --json | jq -r '.[].state')" = up ]
}

@test "rules that the boot has restored, ours among them, are not there twice" {
    host iptables-save >"$BATS_TEST_TMPDIR/rules"
    reboot
    host iptables-restore <"$BATS_TEST_TMPDIR/rules" # as netfilter-persistent does
    netwrap repair --quiet
    same "$standing" "$(host_state)"
}

@test "the unit of contrib/ is one that systemd takes, with the two lines that install it" {
    command -v systemd-analyze >/dev/null || skip "systemd is not installed"
    sed "s|/usr/local/bin/netwrap|$NETWRAP|" "$ROOT/contrib/netwrap-repair.service" >"$BATS_TEST_TMPDIR/netwrap-repair.service"
    systemd-analyze verify --man=no "$BATS_TEST_TMPDIR/netwrap-repair.service"
    [ "$(grep -c '^#   sudo ' "$ROOT/contrib/netwrap-repair.service")" -eq 2 ]
}
