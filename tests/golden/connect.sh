#!/usr/bin/env bash
# netwrap connect bird2 to testbridge
# netwrap does not know when this script is run, so `netwrap undo` cannot undo
# it. The lines at its end can: sed -n 's/^# undo: //p' SCRIPT | bash
set -e

# Names the network namespace of process 64560: bird2. The tutorial's symlink to
# /proc/64560/ns/net would break when the process ends, and mean another one if
# its pid is reused.
ip netns attach bird2 64560

# A veth pair is a cable: veth5b5fc03 stays on the host, peer5b5fc03 goes into
# bird2.
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

# The other end moves into bird2 and is named eth0 there.
ip link set dev peer5b5fc03 netns bird2 name eth0

# bird2 gets 127.0.0.1. The kernel would add it with the next step; as a step of
# its own it can be undone.
ip -n bird2 addr add 127.0.0.1/8 dev lo

# Brings up the loopback link of bird2: it can talk to itself.
ip -n bird2 link set dev lo up

# Brings up eth0 inside bird2.
ip -n bird2 link set dev eth0 up

# bird2 gets the address 10.0.0.2 in 10.0.0.0/24.
ip -n bird2 addr add 10.0.0.2/24 dev eth0

# bird2 sends everything outside 10.0.0.0/24 to the gateway 10.0.0.1.
ip -n bird2 route add default via 10.0.0.1 dev eth0

# Drops packets from outside to 127.0.0.0/8, which the next setting would let in
# (CVE-2020-8558).
iptables -w -t raw -I PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP

# Drops packets from outside that claim to come from 127.0.0.0/8.
iptables -w -t raw -I PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP

# Lets packets from 127.0.0.1 leave through testbridge, so that 127.0.0.1:PORT
# on the host reaches a container.
sysctl net.ipv4.conf.testbridge.route_localnet=1

# A container cannot reply to 127.0.0.1, so such packets get the bridge's
# address 10.0.0.1.
iptables -w -t nat -A POSTROUTING -s 127.0.0.0/8 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE

# For a container of testbridge that uses a published port of its own network:
# the reply must come back through the host, or the container does not recognize
# it.
iptables -w -t nat -A POSTROUTING -s 10.0.0.0/24 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE

# Lets bird2 reach its own published port: with br_netfilter the bridge sends
# the frame back out of the port where it came in.
ip link set dev veth5b5fc03 type bridge_slave hairpin on

# Forwards host port 8080/tcp to bird2:80 for outside clients. Without dst-type
# LOCAL the rule would also match packets to that port of other machines.
iptables -w -t nat -A PREROUTING -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment --comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80

# Forwards host port 8080/tcp to bird2:80 for the host itself, whose own packets
# do not pass PREROUTING.
iptables -w -t nat -A OUTPUT -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment --comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80

# To undo it, the last step first:
# undo: iptables -w -t nat -D OUTPUT -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment --comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80
# undo: iptables -w -t nat -D PREROUTING -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment --comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80
# undo: ip link set dev veth5b5fc03 type bridge_slave hairpin off
# undo: iptables -w -t nat -D POSTROUTING -s 10.0.0.0/24 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE
# undo: iptables -w -t nat -D POSTROUTING -s 127.0.0.0/8 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE
# undo: sysctl net.ipv4.conf.testbridge.route_localnet=0
# undo: iptables -w -t raw -D PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP
# undo: iptables -w -t raw -D PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP
# undo: ip -n bird2 route del default via 10.0.0.1 dev eth0
# undo: ip -n bird2 addr del 10.0.0.2/24 dev eth0
# undo: ip -n bird2 link set dev eth0 down
# undo: ip -n bird2 link set dev lo down
# undo: ip -n bird2 addr del 127.0.0.1/8 dev lo
# undo: ip -n bird2 link set dev eth0 netns $$ name peer5b5fc03
# undo: ip link set dev veth5b5fc03 down
# undo: sysctl net.ipv4.conf.veth5b5fc03.rp_filter=0
# undo: sysctl net.ipv6.conf.veth5b5fc03.disable_ipv6=0
# undo: ip link set dev veth5b5fc03 nomaster
# undo: ip link del dev veth5b5fc03
# undo: ip netns del bird2
