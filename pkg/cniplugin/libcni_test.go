package cniplugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/pkg/netnstest"
)

// binDir is TestMain's, for the real binary.
var binDir string

var buildOnce = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", filepath.Join(binDir, "weft"), "github.com/weftnet/weft/cmd/weft")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// built gives the directory of the real binary, as it is shipped.
func built(t testing.TB) string {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	return binDir
}

// runtime attaches by libcni, as container runtimes do.
type runtime struct {
	node *node
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

func newRuntime(t testing.TB, n *node) runtime {
	t.Helper()
	list, err := json.Marshal(map[string]any{
		"cniVersion": n.conf["cniVersion"], "name": n.conf["name"], "plugins": []any{n.conf},
	})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libcni.NetworkConfFromBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	return runtime{n, libcni.NewCNIConfigWithCacheDir([]string{built(t)}, t.TempDir(), nil), parsed}
}

func (r runtime) conf(p pod) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.id, NetNS: p.netns, IfName: p.ifName}
}

func (r runtime) add(ctx context.Context, p pod) (*types100.Result, error) {
	var have *types100.Result
	var err error
	r.node.host.Do(func() {
		res, errAdd := r.cni.AddNetworkList(ctx, r.list, r.conf(p))
		if err = errAdd; err == nil {
			have, err = types100.NewResultFromResult(res)
		}
	})
	return have, err
}

func (r runtime) del(ctx context.Context, p pod) (err error) {
	r.node.host.Do(func() { err = r.cni.DelNetworkList(ctx, r.list, r.conf(p)) })
	return err
}

// The binary under libcni: what a hundred pods had is free again, and a second
// DEL of each is no error.
func TestHundredPodsLeakNothing(t *testing.T) {
	t.Parallel()
	const rounds = 100
	n := newNode(t, ipv4, ipv6)
	r := newRuntime(t, n)
	ns := netnstest.New(t)
	for i := range rounds {
		p, _ := newPod(t, i)
		p.netns = ns.Path()
		res, err := r.add(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			reachAll(t, n.host, ns, res)
		}
		if err := r.del(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			if err := r.del(t.Context(), p); err != nil {
				t.Fatalf("again: %v", err)
			}
		}
	}
	n.empty()
	if links := veths(t, ns); len(links) > 0 {
		t.Errorf("in the pod: %v", links)
	}
}

func TestLibcniSeesTheErrorWhole(t *testing.T) {
	n := newNode(t, ipv4)
	r := newRuntime(t, n.with("subnetFile", filepath.Join(n.dir, "later.env")))
	p, _ := newPod(t, 1)
	_, err := r.add(t.Context(), p)
	for _, want := range []string{"later.env", "systemctl status weftd"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}

// What a pod start waits for. `go test -bench AddDel` measures the binary under
// libcni, and the work alone, without starting a process.
func BenchmarkAddDel(b *testing.B) {
	b.Run("binary", func(b *testing.B) {
		n := newNode(b, ipv4)
		r := newRuntime(b, n)
		p, _ := newPod(b, 1)
		for b.Loop() {
			if _, err := r.add(b.Context(), p); err != nil {
				b.Fatal(err)
			}
			if err := r.del(b.Context(), p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ADD in process", func(b *testing.B) {
		n := newNode(b, ipv4)
		p, _ := newPod(b, 1)
		for b.Loop() {
			n.add(p)
			b.StopTimer()
			n.del(p)
			b.StartTimer()
		}
	})
}
