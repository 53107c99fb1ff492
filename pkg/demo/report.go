package demo

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// nodeRow is one family of one node.
type nodeRow struct {
	node     string
	underlay netip.Addr
	lease    netip.Prefix
	device   string
	mac      string
	mtu      int
}

func nodesTable(rows []nodeRow) table {
	t := table{head: []string{"NODE", "UNDERLAY", "LEASE", "VTEP", "MAC", "MTU"}}
	for _, r := range rows {
		t.rows = append(t.rows, []cell{
			{text: r.node}, {text: r.underlay.String()}, {text: r.lease.String()},
			{text: r.device}, {text: r.mac}, {text: strconv.Itoa(r.mtu)},
		})
	}
	return t
}

// fault is what of a check did not work.
type fault string

const (
	passed  fault = ""
	noPing  fault = "no ping"
	noMTU   fault = "no MTU"  // a packet of the interface's full size got lost
	noPage  fault = "no page" // the HTTP request got no answer, or another pod's
	addrNAT fault = "NAT"     // the server saw another source address than it should
)

// finding is the outcome of one check.
type finding struct {
	from, to string // names
	rtt      time.Duration
	mtu      int        // bytes of the largest packet that passed both ways
	source   netip.Addr // that the server saw
	note     string     // what that source means; may be empty
	fault    fault
	err      error // what it came from; set with a fault
}

func (f finding) cell() cell {
	if f.fault != passed {
		return cell{text: string(f.fault), colour: red}
	}
	return cell{text: fmt.Sprintf("%s/%d", millis(f.rtt), f.mtu), colour: green}
}

// millis is a duration in milliseconds, without the unit.
func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64)
}

// matrix gives a row per source and a column per target; no pod checks itself.
func matrix(names []string, prefix string, findings []finding) table {
	found := map[[2]string]finding{}
	for _, f := range findings {
		found[[2]string{f.from, f.to}] = f
	}
	t := table{head: []string{"FROM\\TO"}}
	for _, from := range names {
		t.head = append(t.head, strings.TrimPrefix(from, prefix))
		row := []cell{{text: strings.TrimPrefix(from, prefix), colour: bold}}
		for _, to := range names {
			f, ok := found[[2]string{from, to}]
			if !ok {
				row = append(row, cell{text: "·"})
				continue
			}
			row = append(row, f.cell())
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// sentence tells one finding in a line.
func (f finding) sentence() string {
	if f.fault != passed {
		return fmt.Sprintf("%s → %s: %s: %v", f.from, f.to, f.fault, f.err)
	}
	text := fmt.Sprintf("%s → %s: ping %s ms, packets of %d bytes, page fetched; the server saw %s",
		f.from, f.to, millis(f.rtt), f.mtu, f.source)
	if f.note != "" {
		text += ", " + f.note
	}
	return text
}

// hintArgs is what the hints speak of.
type hintArgs struct {
	node, device, log string
	pod, peer         string // a pod, and the address of one elsewhere; "" if there are none
	ctl, socket       string
	down              string // the command that removes everything
}

// hints are the commands to look around with.
func hints(a hintArgs) string {
	inside := "  ip netns exec " + a.node + " "
	lines := []string{
		inside + "ip route",
		inside + "bridge fdb show dev " + a.device,
		inside + "etcdctl --endpoints http://127.0.0.1:2379 get --prefix /coreos.com/network",
		"  " + a.ctl + " --socket " + a.socket + " status",
		"  tail -f " + a.log,
	}
	if a.pod != "" {
		lines = append(lines, "  ip netns exec "+a.pod+" ping "+a.peer)
	}
	return strings.Join(append(lines, "To remove every trace of it:", "  "+a.down), "\n")
}

func joined[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}
