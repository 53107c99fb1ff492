package network

import (
	"sync"

	"github.com/sirupsen/logrus"
)

// maxSaid bounds what is remembered: texts of errors and of leases can be without
// end. Forgetting costs a line of the log that was there already.
const maxSaid = 10_000

// said is what the log was told already. Safe for concurrent use; the zero one is
// empty.
type said struct {
	mu   sync.Mutex
	keys map[string]bool
}

// first tells whether a key was not asked about before.
func (s *said) first(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key] {
		return false
	}
	if s.keys == nil || len(s.keys) >= maxSaid {
		s.keys = map[string]bool{}
	}
	s.keys[key] = true
	return true
}

// once logs something the first time that it is so.
func (n *Node) once(key string, f func(logrus.FieldLogger)) {
	if n.said.first(key) {
		f(n.opts.Log)
	}
}
