#!/usr/bin/env bats
# Connections that last: which of them end with a port or an address, and which go on. See the driver `connections`.

load helpers

@test "a connection ends with the port or the address that it went by, and no other one does" {
    command -v conntrack >/dev/null || skip "conntrack is not installed"
    on_hosts <<<"connections"
}
