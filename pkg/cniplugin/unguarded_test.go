package cniplugin

import (
	"bytes"
	"strings"
	"testing"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
)

// A kernel that can't guard is told of once in a boot.
func TestUnguardedIsSaidOnce(t *testing.T) {
	dir := attachment.Dir(t.TempDir())
	for _, c := range []struct {
		boot string
		said bool
	}{{"one", true}, {"one", false}, {"two", true}, {"two", false}} {
		var out bytes.Buffer
		sayUnguarded(guard.ErrUnsupported, c.boot, dir, &out)
		if said := strings.Contains(out.String(), "CONFIG_NF_TABLES_NETDEV"); said != c.said || !saidUnguarded(c.boot, dir) {
			t.Errorf("boot %s: said %v", c.boot, said)
		}
	}
}
