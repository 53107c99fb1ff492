package network

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/calls"
	"github.com/weftnet/weft/pkg/metrics"
)

// TestMetricsOfThePlugin: its counters are read when somebody asks, and are absent
// where they can't be.
func TestMetricsOfThePlugin(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(b *bench) {
		b.tune = func(o *Options) { o.Attachments = attachment.Dir(dir) }
		b.start()
		defer b.stop()
		if have := b.node.Metrics().Plugin; len(have) != len(calls.Verbs()) || have["ADD"].Done != 0 {
			t.Errorf("nothing was called yet: %+v", have)
		}
		for _, failed := range []bool{false, false, true} {
			if err := calls.Count(dir, "ADD", failed, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		longest := make([]uint64, len(calls.Bounds())+1)
		longest[len(calls.Bounds())] = 3
		want := metrics.Calls{Done: 2, Failed: 1, Took: metrics.Counted{
			Bounds: calls.Bounds(), Counts: longest, Sum: 3 * time.Minute,
		}}
		if d := cmp.Diff(want, b.node.Metrics().Plugin["ADD"]); d != "" {
			t.Error(d)
		}
		if err := os.WriteFile(filepath.Join(dir, ".calls/counters"), []byte("?"), 0o600); err != nil {
			t.Fatal(err)
		}
		if have := b.node.Metrics().Plugin; have != nil {
			t.Errorf("damaged: %+v", have)
		}
	})
}
