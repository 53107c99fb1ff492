package fake_test

import (
	"testing"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/fake"
	"github.com/weftnet/weft/pkg/dataplane/kerneltest"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

func TestContract(t *testing.T) {
	open := func(t *testing.T) kerneltest.World {
		first := fake.New()
		w := &world{T: t, Kernel: first}
		reopen := func() dataplane.Kernel {
			w.Kernel = w.Restarted()
			return w.Kernel
		}
		return kerneltest.World{Kernel: first, Reopen: reopen, Admin: w, Firewall: w, Engines: engines()}
	}
	kerneltest.Run(t, open)
	for _, e := range engines() {
		t.Run("chains of "+e.String(), func(t *testing.T) { kerneltest.RunChains(t, e, open) })
	}
}

func engines() []ruleset.Engine {
	return []ruleset.Engine{ruleset.NFTables, ruleset.IPTablesNFT, ruleset.IPTablesLegacy}
}

// world turns errors of the administrator into failures of the test.
type world struct {
	*testing.T
	*fake.Kernel // of the moment
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) Put(s dataplane.State)    { w.Helper(); w.must(w.Kernel.Put(s)) }
func (w *world) Delete(s dataplane.State) { w.Helper(); w.must(w.Kernel.Delete(s)) }
func (w *world) Rename(from, to string)   { w.Helper(); w.must(w.Kernel.Rename(from, to)) }

func (w *world) DropRule(k ruleset.Key, position int) {
	w.Helper()
	w.must(w.Kernel.DropRule(k, position))
}
