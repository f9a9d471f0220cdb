#!/usr/bin/env bash
# netwrap connect bird2 to testbridge
# netwrap does not know when this script is run, so `netwrap undo` cannot undo
# it. The lines at its end can: sed -n 's/^# undo: //p' SCRIPT | bash
set -e

# Names the network namespace of process 64560: bird2. The tutorial's symlink to
# /proc/64560/ns/net would break when the process ends, and mean another one if
# its pid is reused.
ip netns attach bird2 64560

# A veth pair is a cable: veth5b5fc03 stays here, peer5b5fc03 goes to bird2.
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

# The other end goes into bird2 and is called eth0 there, as programs expect.
ip link set dev peer5b5fc03 netns bird2 name eth0

# bird2 has 127.0.0.1. The kernel would add it with the next step; said by hand
# it can be taken back.
ip -n bird2 addr add 127.0.0.1/8 dev lo

# The loopback link of bird2: it can talk to itself.
ip -n bird2 link set dev lo up

# eth0 is up inside bird2.
ip -n bird2 link set dev eth0 up

# bird2 has the address 10.0.0.2 in 10.0.0.0/24.
ip -n bird2 addr add 10.0.0.2/24 dev eth0

# Whatever is not in 10.0.0.0/24 leaves bird2 by the gateway 10.0.0.1.
ip -n bird2 route add default via 10.0.0.1 dev eth0

# Nothing from outside may be addressed to 127.0.0.0/8; the next setting would
# open that door (CVE-2020-8558).
iptables -w -t raw -I PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP

# Nor may anything from outside claim to come from there.
iptables -w -t raw -I PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment netwrap:testbridge -j DROP

# Lets the host's packets from 127.0.0.1 leave by testbridge: `127.0.0.1:PORT`
# reaches a container.
sysctl net.ipv4.conf.testbridge.route_localnet=1

# A container cannot answer 127.0.0.1: such packets get the bridge's address
# 10.0.0.1.
iptables -w -t nat -A POSTROUTING -s 127.0.0.0/8 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE

# A container of testbridge that calls a port published by another, or by
# itself: the answer must come back through the host, or it is not recognized.
iptables -w -t nat -A POSTROUTING -s 10.0.0.0/24 -o testbridge -m conntrack --ctstate DNAT -m comment --comment netwrap:testbridge -j MASQUERADE

# bird2 may call its own published port: with br_netfilter the frame leaves by
# the port that it came in.
ip link set dev veth5b5fc03 type bridge_slave hairpin on

# 8080:80/tcp leads to bird2, for who comes from outside. Only for addresses of
# this host: without dst-type LOCAL the rule would catch traffic to other
# machines' ports too.
iptables -w -t nat -A PREROUTING -p tcp -m tcp --dport 8080 -m addrtype --dst-type LOCAL -m comment --comment netwrap:bird2/testbridge -j DNAT --to-destination 10.0.0.2:80

# 8080:80/tcp leads to bird2, for the host itself: its own packets never pass
# PREROUTING.
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
