package metrics

import (
	"maps"
	"sync"
	"time"
)

// Timed is what became of the requests of one kind.
type Timed struct {
	Took   Histogram // to the answer, or to its failing
	Failed uint64    // of these
}

// Meter counts requests by what they ask for. The zero value is empty, and safe
// for concurrent use.
type Meter struct {
	mu  sync.Mutex
	ops map[string]Timed
}

// Observe counts one that ended; op is one of a few words.
func (m *Meter) Observe(op string, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ops == nil {
		m.ops = map[string]Timed{}
	}
	t := m.ops[op]
	t.Took.Observe(took)
	if err != nil {
		t.Failed++
	}
	m.ops[op] = t
}

// Read gives what was counted so far.
func (m *Meter) Read() map[string]Timed {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.ops)
}
