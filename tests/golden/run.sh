#!/usr/bin/env bash
# netwrap run web on testbridge
set -e

# Makes a network namespace for web; nothing in it is connected yet.
ip netns add web

# A veth pair is a cable: veth5b5fc03 stays on the host, peer5b5fc03 goes into
# web.
ip link add name veth5b5fc03 address 06:6e:0a:00:00:02 group 28279 type veth peer name peer5b5fc03 address 0a:6e:0a:00:00:02

# The host's end of the cable becomes a port of the bridge testbridge.
ip link set dev veth5b5fc03 master testbridge

# The host's end of the cable, veth5b5fc03, has no IPv6 either.
sysctl net.ipv6.conf.veth5b5fc03.disable_ipv6=1

# Frames to some reserved MACs (LLDP, LACP) bypass testbridge and its rules: the
# kernel receives them on veth5b5fc03 itself. No route goes through veth5b5fc03,
# so its reverse path filter drops them.
sysctl net.ipv4.conf.veth5b5fc03.rp_filter=1

# Brings up the host's end, veth5b5fc03.
ip link set dev veth5b5fc03 up

# The other end moves into web and is named eth0 there.
ip link set dev peer5b5fc03 netns web name eth0

# web gets 127.0.0.1. The kernel would add it with the next step; as a step of
# its own it can be undone.
ip -n web addr add 127.0.0.1/8 dev lo

# Brings up the loopback link of web: it can talk to itself.
ip -n web link set dev lo up

# Brings up eth0 inside web.
ip -n web link set dev eth0 up

# web gets the address 10.0.0.2 in 10.0.0.0/24.
ip -n web addr add 10.0.0.2/24 dev eth0

# web sends everything outside 10.0.0.0/24 to the gateway 10.0.0.1.
ip -n web route add default via 10.0.0.1 dev eth0

# The command; afterwards every step is undone.
code=0
ip netns exec web unshare --uts --pid /usr/bin/python3 -P -m netwrap.init setpriv --pdeathsig KILL unshare --mount --mount-proc sh -c 'exit 3' || code=$?
set +e
ip -n web route del default via 10.0.0.1 dev eth0
ip -n web addr del 10.0.0.2/24 dev eth0
ip -n web link set dev eth0 down
ip -n web link set dev lo down
ip -n web addr del 127.0.0.1/8 dev lo
ip -n web link set dev eth0 netns $$ name peer5b5fc03
ip link set dev veth5b5fc03 down
sysctl net.ipv4.conf.veth5b5fc03.rp_filter=0
sysctl net.ipv6.conf.veth5b5fc03.disable_ipv6=0
ip link set dev veth5b5fc03 nomaster
ip link del dev veth5b5fc03
ip netns del web
exit $code
