package tunnel

import (
	"strings"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Untrack decides whether conntrack may leave the tunnel's packets alone, and says
// why. A packet that it does not know is no part of an established connection: a
// firewall that lets only such in, would drop what it lets pass today.
func Untrack(wanted bool, f ruleset.Facts) (bool, string) {
	switch {
	case !wanted:
		return false, "--vxlan-notrack is false"
	case f.NoNFTables:
		return false, "this kernel has no nf_tables"
	case len(f.Stateful) > 0:
		return false, "a firewall might drop what is not tracked: " + strings.Join(f.Stateful, "; ")
	}
	return true, "no firewall drops by default or looks at connections on this host's own packets"
}
