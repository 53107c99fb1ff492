package network

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// steer, the probes and the watchdog all log through it, each from a goroutine of its own.
func TestOnceFromManyGoroutines(t *testing.T) {
	var s said
	var firsts atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 2_000 {
				if s.first(fmt.Sprint(i)) {
					firsts.Add(1)
				}
			}
		})
	}
	all.Wait()
	if firsts.Load() != 2_000 {
		t.Errorf("%d were the first of 2000", firsts.Load())
	}
	for i := range 3 * maxSaid {
		s.first(fmt.Sprint("more ", i))
	}
	if len(s.keys) > maxSaid {
		t.Errorf("%d keys are kept", len(s.keys))
	}
}
