package linux

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
)

// processName is what a process was called when it was looked at.
type processName struct {
	pid  uint32
	name string
	at   time.Time
}

// nameByPort says who wrote the entries of a scope, by the port that a
// notification of rtnetlink is for. The kernel gives the first netlink socket
// of a process its pid as a port, others a number that tells nothing
// (netlink_autobind: negative), and 0 where no request is behind the change or
// where it does not pass the request on: links, and FDB entries of a device.
func (m *memory) nameByPort(s *dataplane.Scope, port uint32) {
	if port == 0 || port > math.MaxInt32 {
		return
	}
	now := time.Now()
	if m.writer.pid != port || now.Sub(m.writer.at) > time.Second {
		// At once, if at all: `ip` lives for a millisecond.
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", port))
		if err != nil {
			comm = nil // gone, or of another pid namespace
		}
		m.writer = processName{port, strings.TrimSpace(string(comm)), now}
	}
	if m.writer.name == "" {
		s.Name(fmt.Sprintf("probably pid %d, by its netlink port, which is no process now", port))
		return
	}
	s.Name(fmt.Sprintf("probably %s (pid %d, by its netlink port)", m.writer.name, port))
}
