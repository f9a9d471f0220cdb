#!/usr/bin/env bats
# Who reaches whom on a real host, in all combinations, and what each rule is for: see the driver `traffic`.

load helpers

legacy() { command -v iptables-legacy >/dev/null || skip "iptables-legacy is not installed"; }

@test "every packet goes where it should and nowhere else: nft, FORWARD ACCEPT and DROP, bridges filtered and not" {
    on_hosts <<<"traffic nft"
}

@test "the same with iptables-legacy" {
    legacy
    on_hosts <<<"traffic legacy"
}

@test "without any one of the rules a case comes out wrong" {
    on_hosts <<<"traffic nft --without"
}
