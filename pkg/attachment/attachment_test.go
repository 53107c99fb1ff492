package attachment_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/mac"
)

var byValue = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func ptp(container string) attachment.Attachment {
	return attachment.Attachment{
		Key:  attachment.Key{Network: "cbr0", Container: container, Interface: "eth0"},
		Boot: "0f3f7a51-6d4a-4f0f-8f43-0d6c2a1b9e55", NetNS: "/run/netns/pod", NetNSInode: 4026532301,
		Mode: attachment.ModePTP, HostLink: "veth89c939436dd", HostMAC: mac.Addr{0x6a, 1, 2, 3, 4, 5}, MTU: 1450,
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.42.1.5/32"), netip.MustParsePrefix("fd00:5:0:1::5/128")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.42.1.1"), netip.MustParseAddr("fd00:5:0:1::1")},
		MAC:      mac.Addr{0x9a, 1, 2, 3, 4, 5},
		Ports: []attachment.Port{
			{Protocol: "tcp", Host: 8080, Container: 80},
			{Protocol: "udp", Host: 53, Container: 5353, HostIP: netip.MustParseAddr("192.0.2.1")},
		},
	}
}

func bridged(container string) attachment.Attachment {
	a := ptp(container)
	a.Mode, a.Ports, a.Guard = attachment.ModeBridge, nil, true
	a.Addrs = []netip.Prefix{netip.MustParsePrefix("10.42.1.5/24")}
	a.Gateways = a.Gateways[:1]
	a.Bridge = &attachment.Bridge{
		Name: "cni0", MAC: mac.Addr{0x0a, 0x58, 10, 42, 1, 1},
		Addr: []netip.Prefix{netip.MustParsePrefix("10.42.1.1/24")}, Hairpin: true, Promisc: true,
	}
	return a
}

// The files are read by programs of other versions, so the form stands here.
func TestGolden(t *testing.T) {
	for name, a := range map[string]attachment.Attachment{"ptp": ptp("pod-1"), "bridge": bridged("pod-1")} {
		t.Run(name, func(t *testing.T) {
			have := attachment.Encode(a)
			want, err := os.ReadFile(filepath.Join("testdata", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(have)); d != "" {
				t.Error(d)
			}
			again, err := attachment.Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(a, again, byValue, sameAddr); d != "" {
				t.Error(d)
			}
		})
	}
}

// Encode says all that the keys of the types say.
func TestEncodeKnowsEveryKey(t *testing.T) {
	full, bare := bridged("pod-1"), ptp("pod-1")
	full.Ports = bare.Ports[1:]
	for _, v := range []any{full, *full.Bridge, full.Ports[0]} {
		for field := range reflect.TypeOf(v).NumField() {
			if reflect.ValueOf(v).Field(field).IsZero() {
				t.Errorf("%T.%s is not tested", v, reflect.TypeOf(v).Field(field).Name)
			}
		}
	}
	bare.NetNSInode, bare.HostMAC, bare.Ports = 0, mac.Addr{}, nil
	for _, a := range []attachment.Attachment{full, bare} {
		want, err := json.Marshal(struct {
			Version int `json:"version"`
			attachment.Attachment
		}{1, a})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want)+"\n", string(attachment.Encode(a))); d != "" {
			t.Error(d)
		}
	}
}

func TestSources(t *testing.T) {
	if s, guarded := ptp("pod-1").Sources(); guarded {
		t.Errorf("nobody asked for it: %v", s)
	}
	linkLocal := netip.MustParseAddr("fe80::9801:2ff:fe03:405")
	want := attachment.Sources{
		Link: "veth89c939436dd", MAC: mac.Addr{0x9a, 1, 2, 3, 4, 5},
		Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.5"), linkLocal},
	}
	have, guarded := bridged("pod-1").Sources()
	if d := cmp.Diff(want, have, sameAddr); d != "" || !guarded {
		t.Error(guarded, d)
	}
	alone := ptp("pod-1")
	alone.Guard = true
	want.MAC = mac.Addr{} // only the host sees it
	want.Addrs = []netip.Addr{want.Addrs[0], netip.MustParseAddr("fd00:5:0:1::5"), linkLocal}
	if have, _ := alone.Sources(); cmp.Diff(want, have, sameAddr) != "" {
		t.Error(cmp.Diff(want, have, sameAddr))
	}
}

func TestHostRoutes(t *testing.T) {
	want := []netip.Prefix{netip.MustParsePrefix("10.42.1.5/32"), netip.MustParsePrefix("fd00:5:0:1::5/128")}
	if d := cmp.Diff(want, ptp("pod-1").HostRoutes(), byValue); d != "" {
		t.Error(d)
	}
	if have := bridged("pod-1").HostRoutes(); have != nil {
		t.Errorf("a bridge needs no route to a pod, have %v", have)
	}
}

func TestRefused(t *testing.T) {
	golden := func(name string) string {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct{ from, old, new, want string }{
		"a later form":              {"ptp", `"version":1`, `"version":2`, "version 2"},
		"no form at all":            {"ptp", `"version":1,`, ``, "version 0"},
		"cut short":                 {"ptp", `}`, ``, "decode"},
		"a container up the tree":   {"ptp", `"pod-1"`, `"../pod-1"`, "container"},
		"a container with a colon":  {"ptp", `"pod-1"`, `"pod:1"`, "container"},
		"an interface with a slash": {"ptp", `"eth0"`, `"a/b"`, "interface"},
		"no network":                {"ptp", `"cbr0"`, `""`, "network"},
		"a link too long":           {"ptp", `"veth89c939436dd"`, `"veth89c939436dd0"`, "hostLink"},
		"a link with a space":       {"ptp", `"veth89c939436dd"`, `"veth 9"`, "hostLink"},
		"an unknown mode":           {"ptp", `"mode":"ptp"`, `"mode":"vlan"`, "mode"},
		"a bridge without one":      {"ptp", `"mode":"ptp"`, `"mode":"bridge"`, "don't go together"},
		"point to point on a bridge": {
			"bridge", `"mode":"bridge"`, `"mode":"ptp"`, "don't go together",
		},
		"a negative MTU":            {"ptp", `"mtu":1450`, `"mtu":-1`, "mtu"},
		"an address too many":       {"ptp", `"gateways":["10.42.1.1",`, `"gateways":[`, "2 addresses have 1"},
		"families mixed up":         {"ptp", `"gateways":["10.42.1.1"`, `"gateways":["fd00::1"`, "family"},
		"an address of nothing":     {"ptp", `"10.42.1.5/32"`, `""`, "family"},
		"a protocol of its own":     {"ptp", `"protocol":"tcp"`, `"protocol":"icmp"`, "port 8080"},
		"port 0":                    {"ptp", `"hostPort":8080`, `"hostPort":0`, "port 0"},
		"a bridge without a name":   {"bridge", `"name":"cni0"`, `"name":""`, "bridge"},
		"a bridge without address":  {"bridge", `["10.42.1.1/24"]`, `[]`, "no addresses"},
		"a MAC of six bytes and up": {"ptp", `"9a:01:02:03:04:05"`, `"9a:01:02:03:04:05:06:07"`, "MAC"},
	} {
		t.Run(name, func(t *testing.T) {
			text := golden(c.from)
			if !strings.Contains(text, c.old) {
				t.Fatalf("%q is not in %s", c.old, text)
			}
			_, err := attachment.Parse([]byte(strings.Replace(text, c.old, c.new, 1)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, have %v", c.want, err)
			}
		})
	}
	later := strings.Replace(golden("ptp"), `"version":1`, `"version":1,"later":{"key":[1]}`, 1)
	if _, err := attachment.Parse([]byte(later)); err != nil {
		t.Errorf("a key of a later version: %v", err)
	}
}

func TestDir(t *testing.T) {
	dir := attachment.Dir(filepath.Join(t.TempDir(), "not", "yet"))
	if have, err := dir.Load(); have != nil || err != nil {
		t.Errorf("nothing there: %v, %v", have, err)
	}
	one, two := ptp("pod-1"), bridged("pod-2")
	for _, a := range []attachment.Attachment{two, one, one} {
		if err := dir.Put(a); err != nil {
			t.Fatal(err)
		}
	}
	want := []attachment.Attachment{one, two}
	have, err := dir.Load()
	if d := cmp.Diff(want, have, byValue, sameAddr); d != "" || err != nil {
		t.Error(err, d)
	}
	got, err := dir.Get(two.Key)
	if d := cmp.Diff(two, got, byValue, sameAddr); d != "" || err != nil {
		t.Error(err, d)
	}
	info, err := os.Stat(filepath.Join(string(dir), "cbr0:pod-1:eth0"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for range 2 { // the second time nothing is there
		if err := dir.Remove(one.Key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dir.Get(one.Key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want not exist, have %v", err)
	}
	bad := one
	bad.Container = "../../etc/passwd"
	if err := dir.Put(bad); err == nil {
		t.Error("a record outside of the directory was written")
	}
}

func TestBusy(t *testing.T) {
	dir := attachment.Dir(t.TempDir())
	a := ptp("pod-1")
	if dir.Busy(a.Key) {
		t.Error("what is not there is busy")
	}
	done, err := dir.Begin(a)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking takes nothing away
		if !dir.Busy(a.Key) {
			t.Error("begun, and not busy")
		}
	}
	if have, err := dir.Get(a.Key); err != nil || have.Key != a.Key {
		t.Errorf("%v, %v", have, err)
	}
	done()
	if dir.Busy(a.Key) {
		t.Error("done, and busy")
	}
}

// One bad file harms no other, and what a crash left is passed over and goes.
func TestDamagedFiles(t *testing.T) {
	path := t.TempDir()
	dir := attachment.Dir(path)
	one := ptp("pod-1")
	if err := dir.Put(one); err != nil {
		t.Fatal(err)
	}
	b := attachment.Encode(one)
	for name, content := range map[string]string{
		"cbr0:pod-2:eth0": "{", "cbr0:pod-3:eth0": string(b), ".cbr0:pod-1:eth0": "{",
	} {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := dir.Load()
	if d := cmp.Diff([]attachment.Attachment{one}, have, byValue, sameAddr); d != "" {
		t.Error(d)
	}
	for _, want := range []string{"cbr0:pod-2:eth0: decode", "cbr0:pod-3:eth0: the record is of cbr0:pod-1:eth0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
	keys, errKeys := dir.Keys()
	if d := cmp.Diff([]attachment.Key{
		one.Key,
		{Network: "cbr0", Container: "pod-2", Interface: "eth0"},
		{Network: "cbr0", Container: "pod-3", Interface: "eth0"},
	}, keys); d != "" || errKeys != nil {
		t.Error(errKeys, d)
	}
	if !errors.As(err, new(*attachment.DamagedError)) {
		t.Errorf("have %T", err)
	}
	if err := dir.Remove(one.Key); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(path)
	if err != nil || len(left) != 2 {
		t.Errorf("want the two damaged ones, have %v, %v", left, err)
	}
}

func TestPutFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := attachment.Dir(path)
	if err := dir.Put(ptp("pod-1")); err == nil || !strings.Contains(err.Error(), "record cbr0:pod-1:eth0") {
		t.Errorf("have %v", err)
	}
	if _, err := dir.Load(); err == nil {
		t.Error("a file was read as a directory")
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"ptp", "bridge"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := attachment.Parse(b)
		if err != nil {
			return
		}
		again := attachment.Encode(a)
		back, err := attachment.Parse(again)
		if err != nil {
			t.Fatalf("%v in %s", err, again)
		}
		if d := cmp.Diff(a.HostRoutes(), back.HostRoutes(), byValue); d != "" || back.Key != a.Key {
			t.Error(d, back.Key, a.Key)
		}
		if filepath.Base(a.Key.String()) != a.Key.String() {
			t.Errorf("the key %q is no file's name", a.Key)
		}
	})
}
