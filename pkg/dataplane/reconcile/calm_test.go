package reconcile_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/reconcile"
)

// An audit leaves out what is as it was when nothing was to be done. What was right
// then is not right for ever.
func TestAuditOfAKernelAsItWasOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := host(t)
		l := live(t, k, reconcile.Options{}, baseLayer(), fragments(2))
		pass(2 * time.Minute) // an audit has found nothing to do
		l.Set(reconcile.Layer{Name: "peers", Fragments: fragments(2, 3)})
		pass(time.Second)
		k.Mute(true)
		must(t, k.Delete(peer(3)))
		same(t, converged(t, 2), k.Dump())
		pass(2 * time.Minute)
		same(t, converged(t, 2, 3), k.Dump())
	})
}
