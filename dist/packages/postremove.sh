#!/bin/sh
# After the package is gone. The state is this node's lease: it goes by purge
# only, as the configuration does. rpm has no purge, and leaves it.
set -e

if [ "$1" = purge ]; then
	rm -rf /var/lib/weft /run/weft
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
