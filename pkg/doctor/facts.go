package doctor

import (
	"net/netip"
	"time"

	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/tables"
)

// Facts is all that is known of a node. What could not be learned is zero, and
// then nothing is said about it.
type Facts struct {
	Tables  tables.Space
	Overlay Overlay
	Peers   []Member
	Daemon  Daemon
	Store   Store
	Host    Host
	Probes  []Probe
}

// Overlay is this node's part of the network, as its files say.
type Overlay struct {
	Networks   []netip.Prefix
	Subnets    []netip.Prefix // in subnet.env
	MTU        int            // of pods
	Masquerade bool
	Backend    string // "vxlan"; empty: not known
	VNI, Port  int
	Self       []Member // our lease, per family
}

// Member is one family's part of a node's lease.
type Member struct {
	Node   string
	Subnet netip.Prefix
	Public netip.Addr
	MAC    mac.Addr // of its VXLAN device
	// Machine is its machine id (machine-id(5)), where the store knows it.
	Machine string
}

// Daemon is what weftd says of itself.
type Daemon struct {
	Asked     bool
	Err       string // why it does not answer
	Hangs     bool   // it is there, and does not answer
	Ready     bool
	Reasons   []string // why not ready
	Conflicts []string // entries that something foreign holds
	// Away is why the store can't be followed; empty: it can.
	Away string
}

// Store is how the store answered, where it was asked.
type Store struct {
	Asked bool
	Err   string
	Took  time.Duration
	// Skew is how far its clock is ahead of ours; Clocked tells that it said.
	Skew    time.Duration
	Clocked bool
	// Denied are requests of weftd's that it would refuse. Spared are those
	// among what it would refuse that weftd can do without.
	Denied, Spared []string
	// Machines are the machine ids of nodes, by name.
	Machines map[string]string
}

// Host is what files and counters say.
type Host struct {
	Kernel   string   // "6.18.1"
	Lacks    []string // what this kernel can't do, each with the reason
	Sockets  []uint16 // UDP ports that are bound, on any address
	CNI      []CNI    // in the order in which container runtimes read them
	Zones    []string // interfaces that firewalld's zones name
	Manager  NetworkManager
	Networkd Networkd
	Policies []string // files of systemd-udevd that give links a MAC of their own
	Disks    []Disk
	// Conntrack and Neighbours are how full the tables are; Max 0 is not known.
	Conntrack, Neighbours Fill
	// Claimed are addresses of ours for which somebody else answered, and who.
	Claimed map[netip.Addr]mac.Addr
}

// CNI is a configuration of a container runtime, and its plugins' types.
type CNI struct {
	File  string
	Types []string
}

// NetworkManager is whether it runs, and which interfaces it leaves alone.
type NetworkManager struct {
	Runs      bool
	Unmanaged []string // patterns of interfaces' names
}

// Networkd is whether systemd-networkd runs, and what it manages.
type Networkd struct {
	Runs bool
	// Files are those that match interfaces by name, in their order.
	Files []NetworkdFile
	// KeepsForeign: it was told to leave others' routes and nexthops alone.
	KeepsForeign bool
}

// NetworkdFile is a .network file.
type NetworkdFile struct {
	Path      string
	Names     []string // patterns
	Unmanaged bool
}

// Disk is a file system that weft writes to.
type Disk struct {
	Path              string
	Free, Size        uint64 // bytes
	FreeNodes, Inodes uint64
}

// Fill is how full a table is. Dropped counts what found no place.
type Fill struct{ Have, Max, Dropped int }

// Probe is what came of packets to one peer.
type Probe struct {
	Peer     Member
	Underlay bool // its own address answered
	Small    bool // the other end of the tunnel answered
	Large    bool // and a packet of Size bytes came through
	Size     int
	TCP      bool // a connection was answered, as the kernel sends it
	RawTCP   bool // and when its checksum was computed before it left us
	// Heard are VXLAN packets of the peer that reached this node meanwhile,
	// before any rule could drop them.
	Heard uint64
}
