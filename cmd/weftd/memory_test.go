package main

import (
	"context"
	"errors"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weft/pkg/health"
)

func TestThrift(t *testing.T) {
	tests := map[string]struct {
		gogc         string
		early, later int
	}{
		"by itself":                  {"", gcAtStart, gcLater},
		"somebody decides otherwise": {"70", 70, 70},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", test.gogc)
			before := debug.SetGCPercent(70)
			t.Cleanup(func() { debug.SetGCPercent(before) })
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				state := health.New()
				state.Set("lease", errors.New("not yet"))
				ended := make(chan error, 1)
				go func() { ended <- thrift(ctx, state) }()
				pass := func(d time.Duration, want int) {
					t.Helper()
					<-time.After(d)
					synctest.Wait()
					have := debug.SetGCPercent(want)
					if have != want {
						t.Errorf("after %s more: want %d, have %d", d, want, have)
					}
				}
				pass(10*settled, test.early)
				state.Set("lease", nil)
				pass(settled/2, test.early)
				pass(3*settled, test.later)
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
