#!/usr/bin/env bash
# netwrap run web on testbridge
set -e

# Makes a network namespace for web; nothing in it is connected yet.
ip netns add web

# A veth pair is a cable: veth5b5fc03 stays here, peer5b5fc03 goes to web.
ip link add name veth5b5fc03 address 06:6e:0a:00:00:02 group 28279 type veth peer name peer5b5fc03 address 0a:6e:0a:00:00:02

# This end of the cable goes into the bridge testbridge.
ip link set dev veth5b5fc03 master testbridge

# No IPv6 on veth5b5fc03 either, the host's end of the cable.
sysctl net.ipv6.conf.veth5b5fc03.disable_ipv6=1

# Frames to some reserved MACs (LLDP, LACP) come in past testbridge and its
# rules: the kernel hands them to veth5b5fc03 itself. No route leads back by
# veth5b5fc03, so its reverse path filter drops them.
sysctl net.ipv4.conf.veth5b5fc03.rp_filter=1

# veth5b5fc03 is up on the host's side.
ip link set dev veth5b5fc03 up

# The other end goes into web and is called eth0 there, as programs expect.
ip link set dev peer5b5fc03 netns web name eth0

# web has 127.0.0.1. The kernel would add it with the next step; said by hand it
# can be taken back.
ip -n web addr add 127.0.0.1/8 dev lo

# The loopback link of web: it can talk to itself.
ip -n web link set dev lo up

# eth0 is up inside web.
ip -n web link set dev eth0 up

# web has the address 10.0.0.2 in 10.0.0.0/24.
ip -n web addr add 10.0.0.2/24 dev eth0

# Whatever is not in 10.0.0.0/24 leaves web by the gateway 10.0.0.1.
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
