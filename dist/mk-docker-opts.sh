#!/bin/sh
# Turns a node's subnet.env into options of the Docker daemon, as a file that
# systemd reads (EnvironmentFile=) or a shell sources. Options and output are
# those of the script of this name that comes with flannel.

usage() {
	cat >&2 <<USAGE
usage: $0 [-f FILE] [-d FILE] [-i] [-c] [-k NAME] [-m]

Writes options of the Docker daemon that put containers on this node's subnet.

  -f FILE  read the node's subnet from here (/run/flannel/subnet.env)
  -d FILE  write the options here (/run/docker_opts.env)
  -i       write each option to a variable of its own, such as DOCKER_OPT_MTU
  -c       write all options to one variable
  -k NAME  the name of that variable (DOCKER_OPTS)
  -m       leave --ip-masq out

Neither -i nor -c means both.
USAGE
	exit 1
}

fail() {
	echo "$0: $*" >&2
	exit 1
}

# Names sort the same everywhere.
LC_ALL=C
export LC_ALL

from=/run/flannel/subnet.env
to=/run/docker_opts.env
name=DOCKER_OPTS
each= all= masq=yes

while getopts f:d:ick:mh option; do
	case $option in
	f) from=$OPTARG ;;
	d) to=$OPTARG ;;
	i) each=yes ;;
	c) all=yes ;;
	k) name=$OPTARG ;;
	m) masq= ;;
	*) usage ;;
	esac
done
[ -n "$each$all" ] || each=yes all=yes

# It becomes part of a command below.
case $name in
'' | [0-9]* | *[!A-Za-z0-9_]*) fail "-k $name is not the name of a variable" ;;
esac

# The file may be absent: Docker then gets no options, as before.
if [ -f "$from" ]; then
	case $from in
	*/*) ;;
	*) from=./$from ;; # without a slash it would be looked for in PATH
	esac
	. "$from"
fi

[ -z "$FLANNEL_SUBNET" ] || DOCKER_OPT_BIP=--bip=$FLANNEL_SUBNET
[ -z "$FLANNEL_MTU" ] || DOCKER_OPT_MTU=--mtu=$FLANNEL_MTU
if [ -n "$FLANNEL_IPMASQ" ] && [ -n "$masq" ]; then
	# What the daemon masquerades, Docker must not, and the other way round.
	case $FLANNEL_IPMASQ in
	true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
	false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
	*) fail "$from: FLANNEL_IPMASQ=$FLANNEL_IPMASQ is neither true nor false" ;;
	esac
fi

# A variable of that name in the environment comes first, and so does every
# other DOCKER_OPT_ come along.
eval "combined=\$$name"
[ -z "$combined" ] || combined="$combined "
lines=
for variable in $(set | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | sort -u); do
	eval "value=\$$variable"
	[ -z "$each" ] || lines="$lines$variable=\"$value\"
"
	combined="$combined $value"
done
[ -z "$all" ] || lines="$lines$name=\"$combined\"
"
printf %s "$lines" >"$to" || fail "can't write $to"

# Docker would refuse the subnet, or take it from whom it leads to: a node's own
# subnet is never behind another host.
own_subnet() {
	address=${FLANNEL_SUBNET%/*}
	last=${address##*.}
	case $last in
	'' | *[!0-9]*) return 1 ;; # not an IPv4 address
	esac
	echo "${address%.*}.$((last - 1))/${FLANNEL_SUBNET#*/}"
}
if subnet=$(own_subnet); then
	route=$(ip route show 2>/dev/null | while read -r to_prefix rest; do
		case "$to_prefix $rest" in
		"$subnet "*via*) echo "$to_prefix $rest" ;;
		esac
	done)
	[ -z "$route" ] || fail "the node's own subnet leads to another host: $route: remove that route, or the lease of that host"
fi
