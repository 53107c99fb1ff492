package cniplugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// flannels is the node with flannel's form of a configuration.
func (n *node) flannels(delegate map[string]any, more ...any) *node {
	return n.with(append([]any{"type", "flannel", "cniVersion", "0.3.1", "delegate", delegate}, more...)...)
}

// states are the files that are saved for DEL.
func (n *node) states() []string {
	n.t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.dir, "flannel"))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (n *node) wantStates(want ...string) {
	n.t.Helper()
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, n.states()); d != "" {
		n.t.Errorf("saved: %s", d)
	}
}

func (n *node) state(name string) string { return filepath.Join(n.dir, "flannel", name) }

func (n *node) write(path, content string) {
	n.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// A delegate that is not ours is run with the completed configuration, and
// gets the same again for DEL, when nothing else is there any more.
func TestDelegateIsRun(t *testing.T) {
	n := newNode(t, ipv4, ipv6).flannels(map[string]any{"type": "macvlan", "master": "eth7", "mtu": 1400},
		"runtimeConfig", map[string]any{"mac": "02:00:00:00:00:01"}, "ipam", map[string]any{
			"type": "whereabouts", "ranges": "overwritten", "routes": []any{map[string]any{"dst": "192.0.2.0/24", "mtu": 900}},
		})
	n.path, n.args = "/nowhere:"+plugins(t, "macvlan"), "IgnoreUnknown=1;K8S_POD_NAME=p"
	dir := filepath.SplitList(n.path)[1]
	p, _ := newPod(t, 1)
	status, out := n.call("ADD", p)
	if d := cmp.Diff(fakeResult, string(out)); status != 0 || d != "" {
		t.Fatalf("status %d: %s", status, d)
	}
	conf := `{"cniVersion":"0.3.1","ipMasq":false,` +
		`"ipam":{"ranges":[[{"subnet":"10.42.1.0/24"}],[{"subnet":"fd00:5:0:1::/64"}]],` +
		`"routes":[{"dst":"192.0.2.0/24","mtu":900},{"dst":"10.42.0.0/16"},{"dst":"fd00:5::/56"}],"type":"whereabouts"},` +
		`"master":"eth7","mtu":1400,"name":"cbr0","runtimeConfig":{"mac":"02:00:00:00:00:01"},"type":"macvlan"}`
	env := func(command string) map[string]string {
		return map[string]string{
			"CNI_COMMAND": command, "CNI_CONTAINERID": "pod-1", "CNI_IFNAME": "eth0", "CNI_NETNS": p.netns,
			"CNI_PATH": n.path, "CNI_ARGS": n.args,
		}
	}
	if d := cmp.Diff(record{env("ADD"), conf}, recorded(t, dir, "macvlan", "ADD")); d != "" {
		t.Error(d)
	}
	n.wantStates("pod-1", "pod-1:eth0")
	for path, want := range map[string]os.FileMode{n.state(""): 0o700, n.state("pod-1"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, info.Mode(), err, want)
		}
	}
	saved, err := os.ReadFile(n.state("pod-1"))
	if d := cmp.Diff(conf, string(saved)); err != nil || d != "" {
		t.Errorf("%v: %s", err, d)
	}

	if err := os.Remove(n.subnetFile()); err != nil {
		t.Fatal(err)
	}
	n.conf["delegate"] = map[string]any{}
	n.del(p)
	if d := cmp.Diff(record{env("DEL"), conf}, recorded(t, dir, "macvlan", "DEL")); d != "" {
		t.Error(d)
	}
	n.wantStates()
	n.empty()
}

func TestDelegateFails(t *testing.T) {
	n := newNode(t, ipv4).flannels(map[string]any{"type": "macvlan"})
	n.path, n.noisy = plugins(t, "macvlan"), true
	fail := filepath.Join(n.path, "fail")
	p, _ := newPod(t, 1)
	n.write(fail, `{"cniVersion":"0.3.1","code":42,"msg":"no master","details":"eth7"}`)
	n.refused("ADD", p, 42, "delegate macvlan: no master", "eth7")
	if !strings.Contains(n.said, "last words") {
		t.Errorf("the delegate's stderr is lost: %q", n.said)
	}
	n.wantStates("pod-1", "pod-1:eth0") // it may have got somewhere
	n.refused("DEL", p, 42, "no master")
	n.wantStates("pod-1", "pod-1:eth0") // DEL comes again
	n.write(fail, "Segmentation fault")
	n.refused("DEL", p, 105, "delegate macvlan: exit status 1", "last words")
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	n.del(p)
	n.wantStates()

	n.call("ADD", p)
	n.path = plugins(t)
	n.refused("DEL", p, 105, `delegate "macvlan"`, n.path, "install it")
	n.wantStates("pod-1", "pod-1:eth0")

	broken := plugins(t)
	if err := os.WriteFile(filepath.Join(broken, "macvlan"), []byte("#!/bin/sh\necho hello\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.path = broken
	n.refused("ADD", p, 105, "no result", "hello", "a CNI plugin?")
	n.with("dataDir", filepath.Join(n.subnetFile(), "sub")).refused("ADD", p, 101, "save the delegate", "dataDir")
}

// What flannel's bridge does is done in process, and saved all the same: a node
// that goes back finds there what it needs.
func TestBridgeIsNotRun(t *testing.T) {
	for _, name := range []string{"weft", "flannel"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6).flannels(map[string]any{"isDefaultGateway": true, "promiscMode": false}, "type", name,
				"runtimeConfig", map[string]any{"portMappings": []any{}})
			n.path, n.args = plugins(t, "bridge"), "IgnoreUnknown=1;K8S_POD_NAME=p"
			n.conf["ipam"].(map[string]any)["routes"] = []any{map[string]any{"dst": "192.0.2.0/24"}}
			p, ns := newPod(t, 1)
			r := n.add(p)
			reachAll(t, n.host, ns, r)
			if len(r.Routes) != 5 {
				t.Errorf("routes: %v, want one of the user's, two of the networks and two defaults", r.Routes)
			}
			n.wantStates("pod-1", "pod-1:eth0")
			n.del(p)
			n.wantStates()
			n.empty()
			for _, command := range []string{"ADD", "DEL"} {
				if r := recorded(t, n.path, "bridge", command); r.Stdin != "" {
					t.Errorf("bridge was run for %s", command)
				}
			}
		})
	}
	t.Run("undone", func(t *testing.T) {
		n := newNode(t, ipv4).flannels(map[string]any{})
		p, ns := newPod(t, 1)
		ns.Do(func() {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}); err != nil {
				t.Fatal(err)
			}
		})
		n.refused("ADD", p, 103, "the pod has a link eth0 already")
		n.wantStates()
		n.empty()
	})
}

// weftd without --ip-masq leaves masquerading to the bridge plugin, per pod:
// that is run, and for DEL, too.
func TestMasqueradeByTheDelegate(t *testing.T) {
	n := newNode(t, ipv4).flannels(map[string]any{})
	n.notMasquerading()
	n.path = plugins(t, "bridge")
	p, _ := newPod(t, 1)
	if status, out := n.call("ADD", p); status != 0 || string(out) != fakeResult {
		t.Fatalf("status %d: %s", status, out)
	}
	if r := recorded(t, n.path, "bridge", "ADD"); !strings.Contains(r.Stdin, `"ipMasq":true`) {
		t.Errorf("bridge was given %q", r.Stdin)
	}
	n.del(p)
	if r := recorded(t, n.path, "bridge", "DEL"); !strings.Contains(r.Stdin, `"ipMasq":true`) {
		t.Errorf("bridge was given %q", r.Stdin)
	}
	n.path = plugins(t)
	n.refused("ADD", p, 105, `delegate "bridge"`, "ipMasq", "--ip-masq")
	n.conf["delegate"] = map[string]any{"ipMasq": false}
	n.add(p)
}

func (n *node) notMasquerading() {
	n.t.Helper()
	b, err := os.ReadFile(n.subnetFile())
	if err != nil {
		n.t.Fatal(err)
	}
	n.write(n.subnetFile(), strings.Replace(string(b), "IPMASQ=true", "IPMASQ=false", 1))
}

func TestFlannelsFileIsOfOneInterface(t *testing.T) {
	n := newNode(t, ipv4).flannels(map[string]any{})
	first, ns := newPod(t, 1)
	n.attachAsFlannel(first, ns, "10.42.1.2")
	second := first
	second.ifName = "net1"
	n.add(second)
	n.wantStates("pod-1", "pod-1:net1")
	n.del(second)
	n.wantStates("pod-1")

	// Two interfaces by us: the first has flannel's name besides, and both go alone.
	n.del(first)
	n = n.flannels(map[string]any{"type": "macvlan"})
	n.path = plugins(t, "macvlan")
	for _, p := range []pod{first, second} {
		if status, out := n.call("ADD", p); status != 0 {
			t.Fatalf("%s", out)
		}
	}
	n.wantStates("pod-1", "pod-1:eth0", "pod-1:net1")
	n.del(first)
	n.wantStates("pod-1:net1")
	n.del(first)
	n.wantStates("pod-1:net1")
	n.del(second)
	n.wantStates()

	// flannel's file of the same container on another network is not ours.
	n.write(n.state("pod-1"), strings.Replace(flannelsConf, `"cbr0"`, `"other"`, 1))
	n.del(first)
	n.wantStates("pod-1")
}

// A file that says nothing must not hold a pod's end up for ever.
func TestDamagedStateFile(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "cut short": flannelsConf[:60], "of something else": `{"hello":"world"}`, "no object": "[]",
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4).flannels(map[string]any{})
			n.noisy = true
			p, _ := newPod(t, 1)
			n.add(p)
			n.write(n.state("pod-1:eth0"), content)
			n.del(p)
			if !strings.Contains(n.said, "pod-1:eth0") {
				t.Errorf("stderr: %q", n.said)
			}
			n.wantStates()
			n.empty()
		})
	}
}

// The plugin that masqueraded for a pod of flannel's is gone: the pod's address
// and link are freed without it, and that is said.
func TestDelWithoutFlannelsBridge(t *testing.T) {
	n := newNode(t, ipv4).flannels(map[string]any{})
	n.noisy, n.path = true, plugins(t)
	p, ns := newPod(t, 1)
	n.attachAsFlannel(p, ns, "10.42.1.2")
	n.write(n.state("pod-1"), strings.NewReplacer(`"ipMasq":false`, `"ipMasq":true`,
		"NETWORKS", filepath.Join(n.dir, "networks")).Replace(flannelsConf))
	n.del(p)
	if !strings.Contains(n.said, `"bridge"`) || !strings.Contains(n.said, "ipMasq") {
		t.Errorf("stderr: %q", n.said)
	}
	n.wantStates()
	n.empty()
}
