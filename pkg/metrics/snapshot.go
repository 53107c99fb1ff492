package metrics

import (
	"strconv"
	"strings"
	"time"
)

// Snapshot is what there is to tell at one moment. Maps go by the label; their
// keys are few, whatever the size of the cluster.
type Snapshot struct {
	Version, Go             string
	Backend, Engine, Uplink string
	Ready                   bool
	Conditions              map[string]bool

	LeaseRenewed, LeaseExpires time.Time // zero: not known

	Peers   int
	Skipped map[string]int // by field

	StoreUp, InDoubt, ConfigRefused bool
	Outages, WatchRestarts          uint64
	Heard                           time.Time // zero: never
	Revision                        int64
	Leases, Malformed               int
	StoreTook                       map[string]Timed // by what was asked for

	Rounds, ReadErrors uint64
	RoundTook          Histogram
	ApplyDelay         Histogram
	Writes, Refused    map[string]uint64 // by kind
	Repairs            map[string]int    // by kind
	Fights, Conflicts  int

	Devices   map[string]Device // by name
	Checksums map[string]bool   // by device: whether they are computed here because we say so

	Paths                  map[string]int    // by state; nil: nothing is probed
	ProbesSent, ProbesLost map[string]uint64 // through the overlay, the underlay
	ProbeRTT               Histogram
	Sweep                  time.Duration

	Plugin map[string]Calls // the CNI plugin's, by verb
}

// Calls are those of one verb.
type Calls struct {
	Done, Failed uint64
	Took         Counted
}

// Counted is what somebody else has counted: Counts has how many took at most
// each of Bounds, which rise, but longer than the one before; its last is how many
// took longer than all of them.
type Counted struct {
	Bounds []time.Duration
	Counts []uint64
	Sum    time.Duration
}

// Device is what a network device counts: bytes, packets, errors and drops
// received, then the same sent.
type Device [8]uint64

// ParseDevices reads /proc/net/dev (proc_pid_net(5)) for the devices that are
// wanted. Lines that are not understood are left out.
func ParseDevices(text string, wanted func(name string) bool) map[string]Device {
	out := map[string]Device{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		fields := strings.Fields(rest)
		if !ok || len(fields) < 12 || !wanted(name) {
			continue
		}
		var d Device
		for i, at := range []int{0, 1, 2, 3, 8, 9, 10, 11} {
			n, err := strconv.ParseUint(fields[at], 10, 64)
			if err != nil {
				ok = false
			}
			d[i] = n
		}
		if ok {
			out[name] = d
		}
	}
	return out
}
