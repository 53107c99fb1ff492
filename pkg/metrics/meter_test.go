package metrics

import (
	"errors"
	"sync"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	var m Meter
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 100 {
				m.Observe("range", time.Millisecond, nil)
				m.Observe("txn", time.Second, errors.New("no leader"))
			}
		})
	}
	before := m.Read()
	g.Wait()
	have := m.Read()
	_, count, sum := func() (map[float64]uint64, uint64, float64) { h := have["range"].Took; return h.cumulated() }()
	if count != 800 || sum < 0.79 || sum > 0.81 || have["range"].Failed != 0 || have["txn"].Failed != 800 {
		t.Errorf("have %+v", have)
	}
	if len(before) > 0 && before["txn"].Failed > 800 {
		t.Errorf("what was read before changed: %+v", before)
	}
}
