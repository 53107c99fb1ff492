#!/bin/sh
# After the package is gone. The state goes by purge only, as the configuration
# does: this node's lease and, where weftd was the store, the data of the whole
# cluster. rpm has no purge, and leaves it.
set -e

if [ "$1" = purge ]; then
	rm -rf /var/lib/weft /run/weft
	# Records of pods that are there still are theirs, as is what others put there.
	rmdir /var/lib/cni/weft /var/lib/cni 2>/dev/null || true
fi
# dpkg takes it for ours when nothing else is in it.
mkdir -p /opt
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
