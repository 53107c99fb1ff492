package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/calls"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/mac"
)

// inDir runs a command line; DIR in it, and in what is printed, is the
// directory.
func inDir(t *testing.T, dir, line string) (string, error) {
	t.Helper()
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(strings.Fields(strings.ReplaceAll(line, "DIR", dir)))
	err := root.ExecuteContext(t.Context())
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	return strings.ReplaceAll(out.String(), dir, "DIR"), err
}

// cniNode is a directory with a plugin in it, and more files.
func cniNode(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	cniInstallLine = "cni install --bin-dir DIR/bin --conf-dir DIR/net.d --plugin DIR/weft"
	wroteBoth      = "wrote  DIR/bin/weft\nwrote  DIR/net.d/10-weft.conflist\n"
	calico         = `{"cniVersion":"0.3.1","name":"k8s-pod-network","plugins":[{"type":"calico"}]}`
)

func TestCNIInstall(t *testing.T) {
	for name, c := range map[string]struct {
		files     map[string]string
		line      string
		want, err string
	}{
		"an empty node":       {nil, "", wroteBoth, ""},
		"a list of one's own": {map[string]string{"my": `{"name":"n","plugins":[{"type":"weft"}]}`}, " --conf DIR/my", wroteBoth, ""},
		"another goes before": {map[string]string{"net.d/05-x.conf": calico}, "", wroteBoth +
			"note: the CNI configuration DIR/net.d/05-x.conf goes before 10-weft.conflist: container runtimes use it, " +
			"and not ours; remove it unless you want that\n", ""},
		"a chain": {map[string]string{"bin/tuning": ""}, " --chain bandwidth,tuning", wroteBoth +
			"note: the chained plugin bandwidth is not in DIR/bin: no pod starts until it is " +
			"(Debian: containernetworking-plugins)\n", ""},
		"another's list under our name": {
			map[string]string{"net.d/10-weft.conflist": calico}, "", "wrote  DIR/bin/weft\n",
			"DIR/net.d/10-weft.conflist is another network's CNI configuration and is left alone; " +
				"remove it, or choose another name for ours",
		},
		"no plugin": {nil, " --plugin DIR/none", "", "read our CNI plugin: open DIR/none: no such file or directory; " +
			"it belongs beside the program that installs it"},
		"no list": {nil, " --conf DIR/none", "", "read the CNI configuration: open DIR/none: no such file or directory"},
		"a list without weft": {
			map[string]string{"my": calico}, " --conf DIR/my", "",
			"the CNI configuration DIR/my: has no plugin of type weft or flannel",
		},
		"a chain, and a list": {nil, " --conf DIR/my --chain tuning", "", "--chain and --conf don't go together: " +
			"write the chain into the file"},
		"weft behind weft": {nil, " --chain weft", "", `--chain: "weft" is not a plugin that goes behind weft: ` +
			"name programs in --bin-dir, such as bandwidth,tuning"},
		"a path in the chain": {nil, " --chain ../tuning", "", `--chain: "../tuning" is not a plugin that goes behind weft: ` +
			"name programs in --bin-dir, such as bandwidth,tuning"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := cniNode(t, map[string]string{"weft": "the plugin"})
			for name, content := range c.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			have, err := inDir(t, dir, cniInstallLine+c.line)
			if err != nil && err.Error() != c.err || err == nil && c.err != "" {
				t.Errorf("want error %q, have %v", c.err, err)
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Error(d)
			}
			if c.err != "" {
				return
			}
			again, err := inDir(t, dir, cniInstallLine+c.line)
			want := "DIR/bin/weft and DIR/net.d/10-weft.conflist are as they should be\n" +
				strings.TrimPrefix(c.want, wroteBoth)
			if d := cmp.Diff(want, again); d != "" || err != nil {
				t.Error(err, d)
			}
		})
	}
}

func TestCNIInstallJSON(t *testing.T) {
	dir := cniNode(t, map[string]string{"weft": "the plugin"})
	for _, wrote := range []string{`["DIR/bin/weft","DIR/net.d/10-weft.conflist"]`, `[]`} {
		out, err := inDir(t, dir, cniInstallLine+" -o json")
		var have bytes.Buffer
		if errJSON := json.Compact(&have, []byte(out)); err != nil || errJSON != nil {
			t.Fatal(err, errJSON)
		}
		want := `{"plugin":"DIR/bin/weft","conf":"DIR/net.d/10-weft.conflist","wrote":` + wrote + `,"notes":[]}`
		if d := cmp.Diff(want, strings.TrimSpace(have.String())); d != "" {
			t.Error(d)
		}
	}
}

// What is installed without --conf is what is shipped, and what comes behind it
// is told what it needs.
func TestDefaultList(t *testing.T) {
	shipped, err := os.ReadFile("../../dist/cni/10-weft.conflist")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain []string
		want  string
	}{
		"nothing behind": {nil, string(shipped)},
		"two behind": {[]string{"bandwidth", "tuning"}, strings.Replace(string(shipped), "}\n  ]",
			`}, {"type": "bandwidth", "capabilities": {"bandwidth": true}}, {"type": "tuning"}]`, 1)},
		"portmap serves the ports": {[]string{"portmap"}, strings.NewReplacer(`"portMappings": true, `, "", "}\n  ]",
			`}, {"type": "portmap", "capabilities": {"portMappings": true}}]`).Replace(string(shipped))},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := defaultList(c.chain)
			if err != nil {
				t.Fatal(err)
			}
			var want, have any
			if err := errors.Join(json.Unmarshal([]byte(c.want), &want), json.Unmarshal(b, &have)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, have); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCNIList(t *testing.T) {
	record := func(container, boot, link string) attachment.Attachment {
		return attachment.Attachment{
			Key:  attachment.Key{Network: "cbr0", Container: container, Interface: "eth0"},
			Boot: boot, Mode: attachment.ModePTP, HostLink: link, MTU: 1450, MAC: mac.Addr{2},
			Addrs:    []netip.Prefix{netip.MustParsePrefix("10.42.1.5/32"), netip.MustParsePrefix("fd00:5:0:1::5/128")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.42.1.1"), netip.MustParseAddr("fd00:5:0:1::1")},
		}
	}
	standing := record("5c1d89c939436dd5c1d89c939436dd", "this", "veth89c939436dd")
	standing.Ports = []attachment.Port{
		{Protocol: "tcp", Host: 8080, Container: 80},
		{Protocol: "udp", Host: 53, Container: 5353, HostIP: netip.MustParseAddr("fd00::1")},
	}
	gone, old := record("b", "this", "veth2"), record("c", "that", "veth3")
	gone.Mode, gone.Bridge = attachment.ModeBridge, &attachment.Bridge{Name: "cni0", Addr: gone.Addrs}
	all := attachedOf([]attachment.Attachment{standing, gone, old}, host{"this", map[string]bool{standing.HostLink: true}})
	var out bytes.Buffer
	if err := printAttachments(&out, all); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "cni-list", out.String())
	for _, a := range attachedOf([]attachment.Attachment{gone, old}, host{}) {
		if a.State != "attached" {
			t.Errorf("nothing is known, and %s is %s", a.Key, a.State)
		}
	}

	dir := t.TempDir()
	have, err := inDir(t, dir, "cni list --attachments-dir DIR")
	if have != "the CNI plugin has attached no pod\n" || err != nil {
		t.Errorf("%q, %v", have, err)
	}
	if err := attachment.Dir(dir).Put(standing); err != nil {
		t.Fatal(err)
	}
	have, err = inDir(t, dir, "cni list -o json --attachments-dir DIR")
	var list []map[string]any
	if err := errors.Join(err, json.Unmarshal([]byte(have), &list)); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0]["state"] != "another boot" || list[0]["container"] != standing.Container {
		t.Error(have)
	}
	if err := os.WriteFile(filepath.Join(dir, "cbr0:b:eth0"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	have, err = inDir(t, dir, "cni list --attachments-dir DIR")
	const damaged = "DIR/cbr0:b:eth0: decode the record"
	if !strings.Contains(have, "10.42.1.5") || err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("%s, %v", have, err)
	}
}

func TestCNICalls(t *testing.T) {
	dir := t.TempDir()
	have, err := inDir(t, dir, "cni calls --attachments-dir DIR")
	if want := "ADD     0     0       -     -    -\n"; err != nil || !strings.Contains(have, want) {
		t.Errorf("%s, %v", have, err)
	}
	for i := range 100 {
		took, failed := 3*time.Millisecond, false
		if i < 2 {
			took, failed = time.Minute, true
		}
		if err := calls.Count(dir, "ADD", failed, took); err != nil {
			t.Fatal(err)
		}
	}
	have, err = inDir(t, dir, "cni calls --attachments-dir DIR -o json")
	var rows []callsRow
	if err := errors.Join(err, json.Unmarshal([]byte(have), &rows)); err != nil {
		t.Fatal(err)
	}
	want := callsRow{Verb: "ADD", Done: 98, Failed: 2, Mean: "1.20294s", P50: "≤5ms", P99: "longer"}
	if len(rows) != len(calls.Verbs()) || rows[0] != want {
		t.Errorf("want %+v, have %+v", want, rows)
	}
	if err := os.WriteFile(filepath.Join(dir, ".calls/counters"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = inDir(t, dir, "cni calls --attachments-dir DIR")
	if err == nil || !strings.Contains(err.Error(), "counters") {
		t.Error(err)
	}
}
