#!/bin/sh
# Before the package goes; not before an upgrade. The kernel stays as it is, so
# that pods go on: to take weft off the node, run weftctl cleanup first.
set -e

case "$1" in
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl disable --now weft-docker.service weftd.service || true
	;;
esac
