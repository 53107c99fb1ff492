package main

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/weftnet/weft/pkg/health"
)

// A start makes in a moment what is then kept for months: it goes through the
// leases, the wanted entries and the plan of all peers once. Collecting garbage
// meanwhile costs more time than all else, and the memory of it should not stay.
const (
	gcAtStart  = 400 // per cent, see GOGC
	gcLater    = 25
	startLimit = 256 << 20       // bytes; from there on a start collects as it must
	settled    = 2 * time.Second // ready twice in a row, so far apart
)

// thrift lets a start run free, and gives the memory back when pods are served.
// Whoever sets GOGC himself decides himself.
func thrift(ctx context.Context, state *health.State) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	debug.SetGCPercent(gcAtStart)
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 { // no GOMEMLIMIT
		debug.SetMemoryLimit(startLimit)
	}
	tick := time.NewTicker(settled)
	defer tick.Stop()
	for was, ready := false, false; !was || !ready; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			was, ready = ready, state.Ready() == nil
		}
	}
	debug.SetMemoryLimit(limit)
	debug.SetGCPercent(gcLater)
	runtime.GC() // what pools hold goes with the second time only
	debug.FreeOSMemory()
	unmapProgram()
	return nil
}
