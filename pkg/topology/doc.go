// Package topology makes a small cluster out of network namespaces: an
// underlay, nodes on it, an outside host and pods, for the demo and for the
// end-to-end tests.
//
//	<name>-outside ─┐ .254, the default gateway
//	<name>-1 ─ eth0 ┼─ br0 in <name>-underlay
//	<name>-2 ─ eth0 ┘
//	    └─ <name>-2-a   a pod, attached by the CNI plugin
//
// It owns the namespaces (all named under /run/netns, so `ip netns exec` finds
// them), what lives in them, and the probes that look at the network from
// inside. The host's own namespace gets names there and nothing else: no link,
// no address, no sysctl. It refuses to know weftd: a caller starts that.
package topology
