package cniplugin_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/cniplugin"
)

func TestVersion(t *testing.T) {
	n := newNode(t, ipv4)
	for stdin, version := range map[string]string{`{"cniVersion":"0.4.0"}`: "0.4.0", "": "1.1.0"} {
		status, out := n.run(map[string]string{"CNI_COMMAND": "VERSION"}, []byte(stdin))
		want := `{"cniVersion":"` + version + `","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`
		if d := cmp.Diff(want, string(out)); status != 0 || d != "" {
			t.Errorf("status %d: %s", status, d)
		}
	}
}

func TestStartedByHand(t *testing.T) {
	var out, errOut strings.Builder
	status := cniplugin.Main(cniplugin.Call{
		Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""),
		Stdout: &out, Stderr: &errOut, Version: func() string { return "v9.9.9" },
	})
	if status != 0 || out.Len() != 0 || !strings.Contains(errOut.String(), "v9.9.9") {
		t.Errorf("status %d, stdout %q, stderr %q", status, &out, &errOut)
	}
}

func TestResultIsOfTheVersionAskedFor(t *testing.T) {
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, ipv4).with("cniVersion", version)
			p, _ := newPod(t, 1)
			status, out := n.call("ADD", p)
			var r struct {
				CNIVersion string `json:"cniVersion"`
				IPs        []struct {
					Version, Address string
				} `json:"ips"`
			}
			if err := json.Unmarshal(out, &r); status != 0 || err != nil {
				t.Fatalf("status %d: %s", status, out)
			}
			family := "4" // said before 1.0.0 only
			if version >= "1.0.0" {
				family = ""
			}
			if r.CNIVersion != version || r.IPs[0].Address != "10.42.1.2/24" || r.IPs[0].Version != family {
				t.Errorf("%s", out)
			}
			n.del(p)
			n.empty()
		})
	}
}

func TestBadConfiguration(t *testing.T) {
	n := newNode(t, ipv4, ipv6)
	p, _ := newPod(t, 1)
	for name, c := range map[string]struct {
		conf  []any
		code  uint
		words []string
	}{
		"no version":      {[]any{"cniVersion", ""}, 1, []string{`cniVersion ""`, "1.0.0"}},
		"a newer version": {[]any{"cniVersion", "2.0.0"}, 1, []string{`"2.0.0"`}},
		"no name":         {[]any{"name", ""}, 7, []string{"name"}},
		"a path as name":  {[]any{"name", "../../etc"}, 7, []string{"../../etc"}},
		"an unknown mode": {[]any{"mode", "macvlan"}, 2, []string{"macvlan", "bridge or ptp"}},
		"a delegate that is not installed": {
			[]any{"delegate", map[string]any{"type": "macvlan"}}, 105, []string{`"macvlan"`, "CNI_PATH", "type macvlan"},
		},
		"a delegate's name": {
			[]any{"delegate", map[string]any{"name": "x"}}, 7, []string{"delegate.name is set", "leave it out"},
		},
		"a delegate's ipam": {
			[]any{"delegate", map[string]any{"ipam": map[string]any{}}}, 7, []string{"delegate.ipam is set", "ipam of the"},
		},
		"a delegate of no string": {
			[]any{"delegate", map[string]any{"type": 5}}, 7, []string{"delegate.type is 5, not a string"},
		},
		"a delegate of null": {
			[]any{"delegate", map[string]any{"type": nil}}, 7, []string{"delegate.type is null, not a string"},
		},
		"a delegate that is a path": {
			[]any{"delegate", map[string]any{"type": "../evil"}}, 7, []string{`"../evil" is no name of a plugin`},
		},
		"a delegate that is us": {
			[]any{"delegate", map[string]any{"type": "flannel"}}, 7, []string{`"flannel"`, "delegates to itself"},
		},
		"a delegate that is a list": {[]any{"delegate", []string{"bridge"}}, 6, []string{"delegate: ", "object"}},
		"a delegate beside our own form": {
			[]any{"delegate", map[string]any{}, "mode", "ptp"}, 7, []string{"mode stands beside delegate"},
		},
		"a delegate's routes that are no list": {
			[]any{"delegate", map[string]any{}, "ipam", map[string]any{"routes": "all"}}, 6, []string{"ipam.routes: "},
		},
		"a delegate's bridge that is no name": {
			[]any{"delegate", map[string]any{"bridge": 5}}, 7, []string{"delegate.bridge is not a string"},
		},
		"a bridge that can't be": {[]any{"bridge", "a/b"}, 7, []string{`"a/b"`, "cni0"}},
		"a negative MTU":         {[]any{"mtu", -1}, 7, []string{"mtu -1"}},
		"a key in other letters": {[]any{"MTU", -2}, 7, []string{"mtu -2"}},
		"flannel's form in other letters": {
			[]any{"Delegate", map[string]any{"type": 6}}, 7, []string{"delegate.type is 6, not a string"},
		},
		"an MTU of the wrong type": {
			[]any{"mtu", "large"}, 6, []string{"decode the network configuration", "mtu", "/etc/cni/net.d"},
		},
		"an MTU below IPv6's": {[]any{"mtu", 1200}, 7, []string{"1200", ipv6, "1280"}},
		"a route that is none": {
			[]any{"ipam", map[string]any{"routes": []any{map[string]any{"dst": "10.0.0.0"}}}},
			7, []string{"10.0.0.0", "192.0.2.0/24"},
		},
		"a gateway of the other family": {
			[]any{"ipam", map[string]any{"routes": []any{map[string]any{"dst": "10.0.0.0/8", "gw": "fd00::1"}}}},
			7, []string{"fd00::1", "10.0.0.0/8"},
		},
		"a subnet.env that is not there yet": {
			[]any{"subnetFile", filepath.Join(n.dir, "later.env")}, 11, []string{"later.env", "systemctl status weftd"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			other := n.with(c.conf...)
			other.t = t
			other.refused("ADD", p, c.code, c.words...)
		})
	}
	n.empty()
}

func TestIPMasqIsTheDaemons(t *testing.T) {
	n := newNode(t, ipv4).with("ipMasq", true)
	p, _ := newPod(t, 1)
	n.add(p) // subnet.env says that weftd masquerades
	n.del(p)
	b, err := os.ReadFile(n.subnetFile())
	if err != nil {
		t.Fatal(err)
	}
	b = []byte(strings.Replace(string(b), "IPMASQ=true", "IPMASQ=false", 1))
	if err := os.WriteFile(n.subnetFile(), b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.refused("ADD", p, 7, "ipMasq", "--ip-masq")
	n.with("ipMasq", false).add(p)
}

func TestADamagedSubnetFile(t *testing.T) {
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	if err := os.WriteFile(n.subnetFile(), []byte("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUB"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.refused("ADD", p, 104, n.subnetFile(), "line 2", "weftd")
	n.del(p)
	n.empty()
}

func TestExhausted(t *testing.T) {
	n := newNode(t, "10.42.1.0/30")
	first, _ := newPod(t, 1)
	second, _ := newPod(t, 2)
	n.add(first)
	n.refused("ADD", second, 102, "10.42.1.0/30", "1 in use", filepath.Join(n.dir, "networks", "cbr0"), "SubnetLen")
	n.del(second)
	n.del(first)
	n.add(second)
}

func TestBadEnvironment(t *testing.T) {
	n := newNode(t, ipv4)
	conf, err := json.Marshal(n.conf)
	if err != nil {
		t.Fatal(err)
	}
	good, _ := newPod(t, 1)
	for name, c := range map[string]struct {
		env   map[string]string
		words []string
	}{
		"no such command":         {map[string]string{"CNI_COMMAND": "MOVE"}, []string{"MOVE", "ADD, DEL, CHECK, GC, STATUS and VERSION"}},
		"no container":            {map[string]string{"CNI_CONTAINERID": ""}, []string{"CNI_CONTAINERID is missing"}},
		"no interface":            {map[string]string{"CNI_IFNAME": ""}, []string{"CNI_IFNAME is missing"}},
		"no namespace":            {map[string]string{"CNI_NETNS": ""}, []string{"CNI_NETNS is missing"}},
		"a container with a line": {map[string]string{"CNI_CONTAINERID": "a\r\neth0"}, []string{"CNI_CONTAINERID"}},
		"an interface too long":   {map[string]string{"CNI_IFNAME": "eth01234567890123"}, []string{"CNI_IFNAME"}},
		"an interface of a path":  {map[string]string{"CNI_IFNAME": "../eth0"}, []string{"CNI_IFNAME"}},
		"a namespace that is gone": {
			map[string]string{"CNI_NETNS": filepath.Join(n.dir, "gone")}, []string{"gone is not a network namespace"},
		},
		"a file as namespace": {
			map[string]string{"CNI_NETNS": n.subnetFile()}, []string{n.subnetFile(), "is not a network namespace"},
		},
		"another kind of namespace": {
			map[string]string{"CNI_NETNS": "/proc/self/ns/uts"}, []string{"is not a network namespace"},
		},
		"the host's namespace": {map[string]string{"CNI_NETNS": n.host.Path()}, []string{"host's network"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{
				"CNI_COMMAND": "ADD", "CNI_CONTAINERID": good.id, "CNI_IFNAME": good.ifName, "CNI_NETNS": good.netns,
			}
			for k, v := range c.env {
				env[k] = v
			}
			status, out := n.run(env, conf)
			checkRefused(t, status, out, 4, c.words...)
		})
	}
	n.empty()
}

func TestStdinThatIsNoConfiguration(t *testing.T) {
	n := newNode(t, ipv4)
	env := map[string]string{"CNI_COMMAND": "ADD"}
	status, out := n.run(env, []byte("{"))
	checkRefused(t, status, out, 6, "decode the network configuration")

	var stdout, stderr strings.Builder
	status = cniplugin.Main(cniplugin.Call{
		Getenv: func(k string) string { return env[k] }, Stdin: iotest.ErrReader(errors.New("torn")),
		Stdout: &stdout, Stderr: &stderr, Version: func() string { return "" },
	})
	checkRefused(t, status, []byte(stdout.String()), 5, "torn")
}
