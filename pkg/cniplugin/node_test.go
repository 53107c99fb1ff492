package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/cniplugin"
	"github.com/weftnet/weft/pkg/netnstest"
	"github.com/weftnet/weft/pkg/subnetenv"
)

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); slices.Contains(fakes(), name) {
		os.Exit(fake(filepath.Dir(os.Args[0]), name))
	}
	var err error
	if binDir, err = os.MkdirTemp("", "weft-cni-*"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := netnstest.Run(m)
	_ = os.RemoveAll(binDir)
	os.Exit(status)
}

const (
	ipv4 = "10.42.1.0/24"
	ipv6 = "fd00:5:0:1::/64"
)

// node is a host in a namespace, with its files in a directory.
type node struct {
	t    testing.TB
	host *netnstest.NS
	dir  string
	conf map[string]any

	path string // CNI_PATH
	args string // CNI_ARGS
	// noisy: stderr is kept as said, which else has to be empty.
	noisy bool
	said  string

	results map[string]*types100.Result // of ADD, by container
}

// newNode is a node with these subnets and a subnet.env that says so.
func newNode(t testing.TB, subnets ...string) *node {
	t.Helper()
	n := &node{t: t, host: netnstest.New(t), dir: t.TempDir(), results: map[string]*types100.Result{}}
	env := subnetenv.Env{MTU: 1450, IPMasq: true}
	for _, s := range subnets {
		p := netip.MustParsePrefix(s)
		env.Subnets = append(env.Subnets, p)
		env.Networks = append(env.Networks, netip.PrefixFrom(p.Addr(), p.Bits()-8).Masked())
	}
	if err := subnetenv.Write(n.subnetFile(), env); err != nil {
		t.Fatal(err)
	}
	n.conf = map[string]any{
		"cniVersion": "1.0.0", "name": "cbr0", "type": "weft", "subnetFile": n.subnetFile(),
		"dataDir": filepath.Join(n.dir, "flannel"), "stateDir": filepath.Join(n.dir, "weft"),
		"ipam": map[string]any{"dataDir": filepath.Join(n.dir, "networks")},
	}
	return n
}

// subnets are those of subnet.env.
func (n *node) subnets() []netip.Prefix {
	n.t.Helper()
	env, err := subnetenv.Read(n.subnetFile())
	if err != nil {
		n.t.Fatal(err)
	}
	return env.Subnets
}

func (n *node) records() attachment.Dir { return attachment.Dir(filepath.Join(n.dir, "weft")) }

func (n *node) subnetFile() string { return filepath.Join(n.dir, "subnet.env") }

// with is the node with some configuration set otherwise.
func (n *node) with(pairs ...any) *node {
	other := *n
	other.conf = maps.Clone(n.conf)
	for i := 0; i < len(pairs); i += 2 {
		other.conf[pairs[i].(string)] = pairs[i+1]
	}
	return &other
}

// pod is one attachment.
type pod struct{ id, ifName, netns string }

// call runs the plugin in this process, in the host's namespace.
func (n *node) call(command string, p pod) (status int, stdout []byte) {
	n.t.Helper()
	conf, err := json.Marshal(n.conf)
	if err != nil {
		n.t.Fatal(err)
	}
	env := map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": p.id, "CNI_IFNAME": p.ifName, "CNI_NETNS": p.netns,
		"CNI_PATH": n.path, "CNI_ARGS": n.args,
	}
	return n.run(env, conf)
}

func (n *node) run(env map[string]string, stdin []byte) (status int, stdout []byte) {
	n.t.Helper()
	var out, errOut bytes.Buffer
	n.host.Do(func() {
		status = cniplugin.Main(cniplugin.Call{
			Getenv: func(k string) string { return env[k] },
			Stdin:  bytes.NewReader(stdin), Stdout: &out, Stderr: &errOut,
			Version: func() string { return "test" },
		})
	})
	if n.noisy {
		n.said = errOut.String()
	} else if errOut.Len() > 0 && env["CNI_COMMAND"] != "" {
		n.t.Errorf("the plugin wrote to stderr: %s", &errOut)
	}
	return status, out.Bytes()
}

// add attaches and gives the result, as the newest version.
func (n *node) add(p pod) *types100.Result {
	n.t.Helper()
	status, out := n.call("ADD", p)
	if status != 0 {
		n.t.Fatalf("ADD %s: %s", p.id, out)
	}
	r, err := create.CreateFromBytes(out)
	if err != nil {
		n.t.Fatalf("ADD %s: %v\n%s", p.id, err, out)
	}
	newest, err := types100.NewResultFromResult(r)
	if err != nil {
		n.t.Fatalf("ADD %s: %v\n%s", p.id, err, out)
	}
	n.results[p.id] = newest
	return newest
}

func (n *node) del(p pod) {
	n.t.Helper()
	if status, out := n.call("DEL", p); status != 0 || len(out) != 0 {
		n.t.Fatalf("DEL %s: status %d, %s", p.id, status, out)
	}
}

// refused wants an error with this code and these words.
func (n *node) refused(command string, p pod, code uint, words ...string) {
	n.t.Helper()
	status, out := n.call(command, p)
	checkRefused(n.t, status, out, code, words...)
}

func checkRefused(t testing.TB, status int, out []byte, code uint, words ...string) {
	t.Helper()
	var e struct {
		CNIVersion string `json:"cniVersion"`
		types.Error
	}
	if err := json.Unmarshal(out, &e); status == 0 || err != nil || e.Code != code || e.CNIVersion == "" {
		t.Errorf("want code %d and status 1, have status %d and %s", code, status, out)
	}
	for _, w := range words {
		if !strings.Contains(e.Error.Error(), w) {
			t.Errorf("want %q in %q", w, e.Error.Error())
		}
	}
}

// addresses are the files of addresses in use.
func (n *node) addresses() []string {
	n.t.Helper()
	found, err := filepath.Glob(filepath.Join(n.dir, "networks", "cbr0", "*[.:]*"))
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, f := range found {
		if _, err := netip.ParseAddr(filepath.Base(f)); err == nil {
			out = append(out, filepath.Base(f))
		}
	}
	return out
}

// veths are the ends of pairs that are in a namespace.
func veths(t testing.TB, ns *netnstest.NS) (out []string) {
	t.Helper()
	ns.Do(func() {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "veth" {
				out = append(out, l.Attrs().Name)
			}
		}
	})
	return out
}

// guards are the links that are held to their pods' addresses, or were.
func (n *node) guards() (links []string) {
	n.t.Helper()
	n.host.Do(func() {
		have, err := guard.Read()
		if err != nil {
			n.t.Error(err)
		}
		links = have.Links()
	})
	return links
}

// empty wants neither addresses nor links of pods, nor what these were held to.
func (n *node) empty() {
	n.t.Helper()
	if left := n.guards(); len(left) > 0 {
		n.t.Errorf("guards left behind: %v", left)
	}
	records, err := n.records().Load()
	if a, v := n.addresses(), veths(n.t, n.host); len(a)+len(v)+len(records) > 0 || err != nil {
		n.t.Errorf("left behind: addresses %v, links %v, records %v, %v", a, v, records, err)
	}
}

func newPod(t testing.TB, id int) (pod, *netnstest.NS) {
	t.Helper()
	ns := netnstest.New(t)
	return pod{fmt.Sprintf("pod-%d", id), "eth0", ns.Path()}, ns
}

// eventually polls until something is so.
func eventually(t testing.TB, so func() bool, otherwise string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal(otherwise)
		}
	}
}

// neighbour is the MAC of the first line of `ip neigh`.
func neighbour(line string) string {
	_, rest, _ := strings.Cut(line, "lladdr ")
	mac, _, _ := strings.Cut(rest, " ")
	return mac
}
