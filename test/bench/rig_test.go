package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/weftnet/weft/pkg/topology"
)

// contender is a daemon that is measured.
type contender struct {
	name, path, args string
	ours             bool // it says in its log what ours says
}

// rig is a store on node 0 and nodes for the daemons.
type rig struct {
	*topology.Topology
	t    testing.TB
	etcd *clientv3.Client
	url  string

	server *running // the store's process
}

const (
	leasesKey = "/coreos.com/network/subnets/"
	device    = "flannel.1"
	patience  = 2 * time.Minute
)

func newRig(t testing.TB, nodes int) *rig {
	t.Helper()
	//nolint:usetesting // t.TempDir is too long: the path of a socket has 108 bytes (unix(7))
	dir, err := os.MkdirTemp("", "weft-")
	must(t, err)
	name := "bench-" + strings.ToLower(strings.TrimLeft(filepath.Base(dir), "weft-")) + "-t"
	top, err := topology.New(topology.Options{
		Name: name, Dir: dir, Nodes: nodes, Underlay: []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")},
	})
	must(t, err)
	r := &rig{Topology: top, t: t, url: "http://" + netip.AddrPortFrom(top.Nodes[0].Addrs[0], 2379).String()}
	t.Cleanup(func() {
		if err := top.Down(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	r.store(filepath.Join(dir, "store"))
	return r
}

// store runs etcd in a daemon of ours, in a configuration that makes it no peer of
// those that are measured: it keeps a network of its own.
func (r *rig) store(dir string) {
	r.t.Helper()
	must(r.t, os.MkdirAll(dir, 0o700))
	c := contender{path: filepath.Join(bin, "weftd"), args: "--embedded-etcd --embedded-etcd-insecure " +
		"--embedded-etcd-listen={etcd} --embedded-etcd-data=" + dir + "/etcd --etcd-prefix=/store --iface=eth0 " +
		"--network=10.255.0.0/16 --subnet-file=" + dir + "/subnet.env --state-dir=" + dir + "/state --socket=" + dir +
		"/socket --healthz-port=0"}
	r.server = r.start(c, 0, dir)
	r.t.Cleanup(r.server.kill)
	var err error
	r.etcd, err = clientv3.New(clientv3.Config{
		Endpoints: []string{r.url}, Logger: zap.NewNop(), Context: r.t.Context(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(r.inside)},
	})
	must(r.t, err)
	r.t.Cleanup(func() { _ = r.etcd.Close() })
	until(r.t, 20*time.Millisecond, func() error {
		ctx, stop := context.WithTimeout(r.t.Context(), time.Second)
		defer stop()
		_, err := r.etcd.Get(ctx, "/")
		return err
	})
	r.put("/coreos.com/network/config", `{"Network":"10.0.0.0/8","EnableNFTables":true,"Backend":{"Type":"vxlan"}}`)
}

// inside connects to the store from where it is.
func (r *rig) inside(ctx context.Context, _ string) (c net.Conn, err error) {
	err = r.Nodes[0].Do(func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(r.url, "http://"))
		return err
	})
	return c, err
}

func (r *rig) put(key, value string) {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.t.Context(), patience)
	defer stop()
	_, err := r.etcd.Put(ctx, key, value)
	must(r.t, err)
}

// peer i has the subnet 10.100+.x.0/24; turn changes its MAC.
func peerKey(i int) string { return fmt.Sprintf("%s10.%d.%d.0-24", leasesKey, 100+i/256, i%256) }

func peerValue(i, turn int) string {
	return fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:%02x:00:%02x:%02x"}}`, i/256, i%256, turn, i/256, i%256)
}

// batch runs an operation for peers from to to, in transactions of a hundred.
func (r *rig) batch(from, to int, op func(i int) clientv3.Op) {
	r.t.Helper()
	for ; from < to; from += 100 {
		var ops []clientv3.Op
		for i := from; i < min(from+100, to); i++ {
			ops = append(ops, op(i))
		}
		_, err := r.etcd.Txn(r.t.Context()).Then(ops...).Commit()
		must(r.t, err)
	}
}

func (r *rig) fill(from, to, turn int) {
	r.t.Helper()
	r.batch(from, to, func(i int) clientv3.Op { return clientv3.OpPut(peerKey(i), peerValue(i, turn)) })
}

func (r *rig) empty() {
	r.t.Helper()
	_, err := r.etcd.Delete(r.t.Context(), leasesKey, clientv3.WithPrefix())
	must(r.t, err)
}

// running is a daemon at work on a node.
type running struct {
	t    testing.TB
	node *topology.Node
	proc *topology.Process
	log  string
}

func (r *rig) start(c contender, node int, dir string) *running {
	r.t.Helper()
	must(r.t, os.MkdirAll(dir, 0o700))
	d := &running{t: r.t, node: r.Nodes[node], log: filepath.Join(dir, "log")}
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(r.t, err)
	defer func() { _ = out.Close() }()
	args := strings.NewReplacer("{etcd}", r.url, "{dir}", dir).Replace(c.args)
	cmd := exec.Command(c.path, strings.Fields(args)...)
	cmd.Stdout, cmd.Stderr = out, out
	d.proc, err = d.node.Start(cmd)
	must(r.t, err)
	return d
}

// begin starts a daemon on a node that knows nothing of it, or of any other.
func (r *rig) begin(c contender, node int) *running {
	r.t.Helper()
	r.clear(c, node)
	return r.start(c, node, r.dir(c, node))
}

func (r *rig) dir(c contender, node int) string { return filepath.Join(r.Nodes[node].Dir, c.name) }

// forget deletes the leases of a node: some daemons take the old one for a peer's.
func (r *rig) forget(node int) {
	r.t.Helper()
	all, err := r.etcd.Get(r.t.Context(), leasesKey, clientv3.WithPrefix())
	must(r.t, err)
	own := fmt.Sprintf(`"PublicIP":"%s"`, r.Nodes[node].Addrs[0])
	for _, kv := range all.Kvs {
		if strings.Contains(string(kv.Value), own) {
			_, err := r.etcd.Delete(r.t.Context(), string(kv.Key))
			must(r.t, err)
		}
	}
}

// clear takes away what a daemon left on a node, and in the store.
func (r *rig) clear(c contender, node int) {
	r.t.Helper()
	must(r.t, os.RemoveAll(r.dir(c, node)))
	r.forget(node)
	must(r.t, r.Nodes[node].Do(func() error {
		if l, err := netlink.LinkByName(device); err == nil {
			defer func() { <-time.After(time.Second) }() // the kernel frees 10,000 peers beside what comes next
			return netlink.LinkDel(l)
		}
		return nil
	}))
}

func (d *running) kill() {
	_ = d.proc.Signal(syscall.SIGKILL)
	<-d.proc.Done()
}

// holds counts the entries of one kind on the device.
func (d *running) holds(kind int) (n int) {
	must(d.t, d.node.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return nil //nolint:nilerr // not there yet
		}
		n, err = count(kind, link.Attrs().Index)
		return err
	}))
	return n
}

// await polls until the kernel holds all entries of so many peers, and no more.
func (d *running) await(peers int) {
	d.t.Helper()
	d.awaitKinds(peers, unix.RTM_GETROUTE, unix.AF_INET, unix.AF_BRIDGE)
}

func (d *running) awaitKinds(peers int, kinds ...int) {
	d.t.Helper()
	until(d.t, 10*time.Millisecond, func() error {
		select {
		case <-d.proc.Done():
			text, _ := os.ReadFile(d.log)
			d.t.Fatalf("the daemon ended: %v\n%s", d.proc.Err(), text)
		default:
		}
		for len(kinds) > 0 {
			if n := d.holds(kinds[0]); n != peers {
				return fmt.Errorf("%d of %d entries of kind %d", n, peers, kinds[0])
			}
			kinds = kinds[1:]
		}
		return nil
	})
}

// until polls, with a pause, until f is content.
func until(t testing.TB, pause time.Duration, f func() error) {
	t.Helper()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("still not so after %s: %v", patience, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
