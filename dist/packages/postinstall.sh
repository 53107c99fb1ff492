#!/bin/sh
# After installing or upgrading, by dpkg ("configure" and the version of before)
# and by rpm (how many versions are there now).
set -e

systemd-sysusers weft.conf || true
systemd-tmpfiles --create weft.conf || true
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload

case "$1:$2" in
configure:?* | [2-9]:*)
	# Packets go on while weftd is restarted; where it doesn't run it stays so.
	systemctl try-restart weftd.service
	;;
*)
	echo "weft: say in /etc/weft/weftd.env where the store is, then: systemctl enable --now weftd"
	;;
esac
