// Package linux is dataplane.Kernel on a real kernel: rtnetlink, nftables over
// netlink, iptables by its programs, and files below /proc/sys, in one network
// namespace.
//
//	Observe ── dumps filtered in the kernel, or single gets ──→ canonical values
//	Apply   ── batches of messages, one nftables transaction ──→ kernel
//	Watch   ←─ multicast groups, minus what is foreign or our own writing
//
// It owns the wire formats, what tells an entry of ours from a foreign one, and
// the retries that only the kernel's interface makes necessary. It refuses to
// decide what should be there. Nothing but this package and the tools that
// build topologies speaks netlink.
package linux

import (
	"cmp"
	"fmt"
	"runtime"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// RouteProtocol marks the routes of weft (rtm_protocol, `ip route show proto
// 83`). No program is assigned it in include/uapi/linux/rtnetlink.h, and
// iproute2's rt_protos has no name for it.
const RouteProtocol = 83

// Options say where and how. The zero value is the namespace of the caller.
type Options struct {
	// Namespace is a descriptor of a network namespace, which New duplicates;
	// 0 is the namespace that the calling thread is in.
	Namespace netns.NsHandle
	// Path is a file that stands for a network namespace, instead.
	Path string
	// Protocol is the mark of our routes; 0 is RouteProtocol.
	Protocol int
	// Resync is how often tables of iptables-legacy, which notify nobody, are
	// compared with what they were, while we have chains in them; 0 is 5 s.
	Resync time.Duration
	// SysctlDir is where sysctls are read and written; "" is /proc/sys.
	SysctlDir string
}

// Kernel is the kernel of one network namespace. One goroutine may call Facts,
// Observe and Apply, and one may Watch beside it: what a second one would be told
// of, the first has noted already.
type Kernel struct {
	ns       namespace
	protocol uint8
	rt       *conn // nil until the first request, and after a socket error
	nft      *nftConn
	elems    *conn // for nftables' set elements; likewise
	memory   *memory
	programs programs
	resync   time.Duration

	sysctlDir string

	lenient    bool   // tests: as kernels without NETLINK_GET_STRICT_CHK (before 4.20)
	noGets     bool   // tests: as kernels without RTM_GETNEIGH of one entry (before 5.0)
	watchBytes int    // receive buffer of Watch
	lockFile   string // tests: of iptables; "" is its own

	answerBytes int  // receive buffer of requests
	noNexthops  bool // tests: as kernels without nexthop objects (before 5.3)
	nexthopUse  nexthopUse
	dumped      map[int]int // entries of the last dump, by the type of the request
	elemsSeen   int         // by the last look at all elements
	marking     marking
}

var _ dataplane.Kernel = (*Kernel)(nil)

// New opens a kernel. Close it to release the namespace.
func New(o Options) (*Kernel, error) {
	if o.Protocol == 0 {
		o.Protocol = RouteProtocol
	}
	if o.Protocol <= unix.RTPROT_STATIC || o.Protocol > 0xff {
		return nil, fmt.Errorf("route protocol %d: must be %d to 255", o.Protocol, unix.RTPROT_STATIC+1)
	}
	ns, err := namespaceAt(o)
	if err != nil {
		return nil, err
	}
	k := &Kernel{
		ns: ns, protocol: uint8(o.Protocol), memory: newMemory(uint8(o.Protocol)), watchBytes: watchBuffer,
		answerBytes: answerBuffer, nexthopUse: newNexthopUse(), dumped: map[int]int{},
		marking: newMarking(), programs: newPrograms(), resync: cmp.Or(o.Resync, defaultResync),
		sysctlDir: cmp.Or(o.SysctlDir, procSys),
	}
	if _, err := k.route(); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Close releases sockets and the namespace. End every Watch before.
func (k *Kernel) Close() {
	k.closeRoute()
	k.closeNft()
	k.closeElems()
	_ = k.ns.handle.Close()
}

// namespace is entered by the thread that needs it, for as long as it takes to
// open a socket (which stays in its namespace) or a file below /proc/sys/net
// (which shows that of the opening thread).
type namespace struct{ handle netns.NsHandle }

func namespaceAt(o Options) (namespace, error) {
	if o.Path == "" {
		return namespaceOf(o.Namespace)
	}
	h, err := netns.GetFromPath(o.Path)
	if err != nil {
		return namespace{}, fmt.Errorf("open the network namespace %s: %w", o.Path, err)
	}
	return namespace{h}, nil
}

func namespaceOf(h netns.NsHandle) (namespace, error) {
	if h == 0 || !h.IsOpen() {
		here, err := netns.Get()
		if err != nil {
			return namespace{}, fmt.Errorf("open the own network namespace: %w", err)
		}
		return namespace{here}, nil
	}
	fd, err := unix.FcntlInt(uintptr(h), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("duplicate the descriptor of network namespace %s: %w", h, err)
	}
	return namespace{netns.NsHandle(fd)}, nil
}

// do calls f inside. Where the thread is there already it needs no privilege:
// setns asks for CAP_SYS_ADMIN, which a daemon with CAP_NET_ADMIN has not.
func (n namespace) do(f func() error) (err error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the own network namespace: %w", err)
	}
	defer func() { _ = here.Close() }()
	if here.Equal(n.handle) {
		defer runtime.UnlockOSThread()
		return f()
	}
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", n.handle, err)
	}
	defer func() {
		// A thread that can't come back stays locked: it dies with its
		// goroutine instead of serving others in the wrong namespace.
		if back := netns.Set(here); back != nil {
			err = fmt.Errorf("leave network namespace %s: %w", n.handle, back)
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// openSocket opens a netlink socket inside.
func (n namespace) openSocket(protocol int) (s *nl.NetlinkSocket, err error) {
	err = n.do(func() error {
		s, err = nl.GetNetlinkSocketAt(netns.None(), netns.None(), protocol)
		return err
	})
	return s, err
}

// Within calls f with the thread in the namespace that a file stands for; ""
// is the one where it is. Sockets that f opens stay there.
func Within(path string, f func() error) error {
	ns, err := namespaceAt(Options{Path: path})
	if err != nil {
		return err
	}
	defer func() { _ = ns.handle.Close() }()
	return ns.do(f)
}
