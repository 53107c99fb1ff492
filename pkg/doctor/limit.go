package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

func limitChecks() []Check {
	return []Check{
		{
			"conntrack-full", "nf_conntrack_count beside nf_conntrack_max",
			"the connection table is full: new connections are dropped",
			"sysctl -w net.netfilter.nf_conntrack_max= twice as much; conntrack -S shows the drops", conntrackFull,
		},
		{
			"neighbour-overflow", "learned neighbours beside gc_thresh3",
			"the neighbour table is full: new neighbours are not learned",
			"sysctl -w net.ipv4.neigh.default.gc_thresh3= twice as much (gc_thresh1 and 2 in proportion)", neighboursFull,
		},
		{
			"disk-full", "room where weft and the CNI plugin write",
			"a file system is full: state, subnet.env or pods' addresses can't be written",
			"df -h; df -i; make room", diskFull,
		},
	}
}

// nearly full is above nine tenths.
func (x Fill) nearly() bool { return x.Max > 0 && x.Have*10 >= x.Max*9 }

func conntrackFull(f Facts) []Finding {
	c := f.Host.Conntrack
	if !c.nearly() {
		return nil
	}
	return []Finding{{
		Evidence: fmt.Sprintf("%d of %d connections", c.Have, c.Max),
		Mend:     fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d; conntrack -S shows the drops", 2*c.Max),
	}}
}

func neighboursFull(f Facts) []Finding {
	n := f.Host.Neighbours
	mend := fmt.Sprintf("sysctl -w net.ipv4.neigh.default.gc_thresh3=%d", 2*n.Max)
	switch {
	case n.nearly():
		return []Finding{{Evidence: fmt.Sprintf("%d of %d neighbours", n.Have, n.Max), Mend: mend}}
	case n.Max > 0 && n.Dropped > 0:
		return []Finding{{
			Level: Warn, Evidence: fmt.Sprintf("it was full %d times since the boot", n.Dropped), Mend: mend,
			Cause: "the neighbour table has been full",
		}}
	}
	return nil
}

// least is what a directory needs to have free.
const least = 1 << 20

func diskFull(f Facts) (out []Finding) {
	for _, d := range f.Host.Disks {
		switch {
		case d.Size > 0 && d.Free < least:
			out = append(out, Finding{Evidence: fmt.Sprintf("%s has %d KiB free of %d", d.Path, d.Free>>10, d.Size>>10)})
		case d.Inodes > 0 && d.FreeNodes < 16:
			out = append(out, Finding{Evidence: fmt.Sprintf("%s has %d inodes free of %d", d.Path, d.FreeNodes, d.Inodes)})
		}
	}
	return out
}

func kernelChecks() []Check {
	return []Check{{
		"kernel", "the kernel's version, and a try of what weft needs", "this kernel lacks something that weft needs",
		"modprobe vxlan nf_tables nft_masq, or a kernel of 4.18 or later with these modules", kernelLacks,
	}}
}

func kernelLacks(f Facts) (out []Finding) {
	if f.Host.Kernel != "" && older(f.Host.Kernel, 4, 18) {
		out = append(out, Finding{Evidence: "it is " + f.Host.Kernel + ", weft needs 4.18"})
	}
	for _, l := range f.Host.Lacks {
		out = append(out, Finding{Evidence: l})
	}
	return out
}

// older compares "6.18.44-fc" with a version; what can't be read is not older.
func older(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	if errA != nil || errB != nil {
		return false
	}
	return a < major || a == major && b < minor
}
