package main

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const wholeFile = `# a comment
etcd-endpoints:
  - https://a:1
  - https://b:1
etcd-username: "u"
etcd-password: 0123
iface: eth0
iface-regex: [^eth, '^10\.']
ip-masq: true
iptables-forward-rules: false
healthz-port: 8081
healthz-ip: 127.0.0.1
`

func fromFile() map[string]parseCase {
	of := func(file string, args ...string) parseCase {
		return parseCase{args: append(args, "--config=FILE"), file: file}
	}
	want := func(c parseCase, pairs ...string) parseCase {
		c.want = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			c.want[pairs[i]] = pairs[i+1]
		}
		return c
	}
	fails := func(file, err string) parseCase {
		c := of(file)
		c.err = err
		return c
	}
	return map[string]parseCase{
		"all kinds of values": want(of(wholeFile),
			"etcd-endpoints", "https://a:1,https://b:1", "etcd-username", "u", "etcd-password", "0123", "iface", "eth0",
			"iface-regex", `^eth,^10\.`, "ip-masq", "true", "iptables-forward-rules", "false", "healthz-port", "8081",
			"healthz-ip", "127.0.0.1"),
		"an argument goes before it": want(of(wholeFile, "--iface=eth1", "--iface-regex=x", "--ip-masq=false",
			"--etcd-endpoints=http://c:1"),
			"etcd-endpoints", "http://c:1", "etcd-username", "u", "etcd-password", "0123", "iface", "eth1",
			"iface-regex", "x", "iptables-forward-rules", "false", "healthz-port", "8081", "healthz-ip", "127.0.0.1"),
		"named by the environment, which goes before it": {
			env:  []string{"FLANNELD_CONFIG=FILE", "FLANNELD_IFACE=eth1", "WEFTD_HEALTHZ_PORT=7"},
			file: "iface: [eth0, eth2]\nhealthz-port: 8\nsocket: ''\n",
			want: map[string]string{"iface": "eth1", "healthz-port": "7", "socket": ""},
		},
		"not named":     {file: "iface: eth0\n"},
		"nothing in it": want(of("")),
		"comments only": want(of("# iface: eth0\n---\n")),
		"as JSON":       want(of(`{"iface": ["eth0"], "v": 4}`), "iface", "eth0", "v", "4"),
		"its password is not used beside another one's file": want(
			of("etcd-password: sesame\netcd-username: u\n", "--etcd-password-file=/p"),
			"etcd-password-file", "/p", "etcd-username", "u"),

		"an unknown name": fails("iface: eth0\nifcae: eth1\n",
			"FILE:2: ifcae: no such setting; weftd --help lists them, here they are without the dashes"),
		"a name with dashes": fails("--iface: eth0\n",
			"FILE:1: --iface: no such setting; weftd --help lists them, here they are without the dashes"),
		"a name that is a list": fails("? [iface]\n: eth0\n",
			"FILE:1: : no such setting; weftd --help lists them, here they are without the dashes"),
		"a name twice": fails("iface: eth0\n\niface: eth1\n", "FILE:3: iface: is given twice, first in line 1"),
		"several mistakes": fails("v: x\nip-masq: 1\niface: eth0\n",
			"FILE:1: v: want a whole number, have a text\nFILE:2: ip-masq: want true or false, have a whole number"),
		"a quoted boolean":       fails("ip-masq: 'true'\n", "FILE:1: ip-masq: want true or false, have a text"),
		"yes is no boolean":      fails("ip-masq: yes\n", "FILE:1: ip-masq: want true or false, have a text"),
		"a fraction":             fails("healthz-port: 8.5\n", "FILE:1: healthz-port: want a whole number, have a number"),
		"a quoted number":        fails("healthz-port: '1'\n", "FILE:1: healthz-port: want a whole number, have a text"),
		"a number too large":     fails("v: 99999999999999999999\n", "FILE:1: v: want a whole number, have a number"),
		"a boolean as a text":    fails("socket: true\n", "FILE:1: socket: want a text, have true or false"),
		"nothing as a text":      fails("socket:\n", "FILE:1: socket: want a text, have nothing"),
		"a list as a text":       fails("socket: [/a]\n", "FILE:1: socket: want a text, have a list"),
		"a mapping in a list":    fails("iface: [{a: b}]\n", "FILE:1: iface: want a text, have a mapping"),
		"an empty list":          fails("iface: []\n", "FILE:1: iface: the list is empty: leave the line out"),
		"a value is not told":    fails("etcd-password: [sesame]\n", "FILE:1: etcd-password: want a text, have a list"),
		"an anchor":              fails("iface: &a eth0\nsocket: *a\n", "FILE:2: socket: anchors are not understood here"),
		"a tag":                  fails("iface: !secret eth0\n", "FILE:1: iface: want a text, have something with a tag of its own"),
		"the file itself":        fails("config: /other\n", "FILE:1: config: belongs on the command line"),
		"the version":            fails("version: true\n", "FILE:1: version: belongs on the command line"),
		"an address that is not": fails("public-ip: eth0\n", "FILE:1: public-ip: not an IP address"),
		"a bad expression": fails("iface-regex:\n- ok\n- '('\n",
			"FILE:1: iface-regex: error parsing regexp: missing closing ): `(`"),
		"what is wrong is told though an argument goes before it": func() parseCase {
			c := of("public-ip: eth0\n", "--public-ip=192.0.2.1")
			c.err = "FILE:1: public-ip: not an IP address"
			return c
		}(),
		"what does not go together": fails("etcd-keyfile: /k\n",
			"--etcd-certfile and --etcd-keyfile go together: give both or none"),
		"a list of settings": fails("- iface: eth0\n", "FILE:1: want lines of the form NAME: VALUE"),
		"a sentence":         fails("iface eth0\n", "FILE:1: want lines of the form NAME: VALUE"),
		"not YAML":           fails("iface: [\n", "FILE: yaml: line 1: did not find expected node content"),
		"two documents": fails("iface: eth0\n---\nip-masq: true\n",
			"FILE: has more than one document, or something that is not YAML after the first"),
		"no file": {args: []string{"--config=/nowhere/weftd.yaml"},
			err: "read the configuration file: open /nowhere/weftd.yaml: no such file or directory"},
	}
}

func TestTheExampleOnThePageIsRight(t *testing.T) {
	page, err := os.ReadFile("../../Documentation/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(page), "```yaml\n")
	example, _, ok := strings.Cut(after, "```")
	have, _, err := settingsOf(t, parseCase{args: []string{"--config=FILE"}, file: example})
	if !ok || err != nil || len(have) < 7 {
		t.Errorf("%v, %v", have, err)
	}
}

// Whatever the file, decode gives settings that exist, each once and with
// values, or errors with lines.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(wholeFile))
	for _, c := range fromFile() {
		f.Add([]byte(c.file))
	}
	var s settings
	known := s.flagSet()
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := decode(raw)
		seen := map[string]bool{}
		for _, e := range entries {
			if seen[e.name] || known.Lookup(e.name) == nil || len(e.values) == 0 || e.line < 1 {
				t.Errorf("have %+v", e)
			}
			seen[e.name] = true
			var s settings
			_ = e.set(s.flagSet()) // must not panic
		}
		if err == nil {
			return
		}
		if text := inFile("FILE", err).Error(); !strings.HasPrefix(text, "FILE:") {
			t.Errorf("the file is not named: %s", text)
		}
		var at *lineError
		if errors.As(err, &at) && at.line < 1 {
			t.Errorf("line %d", at.line)
		}
	})
}
