package subnetenv_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/subnetenv"
)

func prefixes(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

func diff(want, have any) string {
	return cmp.Diff(want, have, cmpopts.EquateComparable(netip.Prefix{}))
}

func cases() map[string]subnetenv.Env {
	return map[string]subnetenv.Env{
		"dual": {
			Networks: prefixes("10.42.0.0/16", "2001:cafe:42::/56"),
			Subnets:  prefixes("10.42.0.0/24", "2001:cafe:42::/64"),
			MTU:      1450, IPMasq: true,
		},
		"ipv4": {
			Networks: prefixes("10.244.0.0/16"), Subnets: prefixes("10.244.7.0/24"),
			MTU: 8950,
		},
		"ipv6": {
			Networks: prefixes("fd00:5::/48"), Subnets: prefixes("fd00:5:0:37::/64"),
			MTU: 1430, IPMasq: true,
		},
		"two-networks": {
			Networks: prefixes("10.42.0.0/16", "10.43.0.0/16"), Subnets: prefixes("10.42.3.0/24"),
			MTU: 1450, IPMasq: true,
		},
	}
}

func TestEncodeIsFlannelsForm(t *testing.T) {
	for name, env := range cases() {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata", name+".env"))
			if err != nil {
				t.Fatal(err)
			}
			have := subnetenv.Encode(env)
			if d := cmp.Diff(string(want), string(have)); d != "" {
				t.Error(d)
			}
			back, err := subnetenv.Parse(have)
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(env, back); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseIsTolerant(t *testing.T) {
	want := cases()["dual"]
	whole, err := os.ReadFile("testdata/dual.env")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(string) string{
		"no newline at the end": func(s string) string { return strings.TrimSuffix(s, "\n") },
		"Windows line ends":     func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") },
		"comments and blanks":   func(s string) string { return "# by hand\n\n" + strings.ReplaceAll(s, "\n", "\n \n#x\n") },
		"a comment at the end":  func(s string) string { return strings.Replace(s, "1450", "1450 # bytes", 1) },
		"double quotes":         func(s string) string { return strings.Replace(s, "10.42.0.1/24", `"10.42.0.1/24"`, 1) },
		"single quotes":         func(s string) string { return strings.Replace(s, "true", "'true'", 1) },
		"export":                func(s string) string { return strings.ReplaceAll(s, "FLANNEL_", "export FLANNEL_") },
		"unknown keys":          func(s string) string { return s + "SOMETHING_ELSE=1\n" },
		"network address shown": func(s string) string { return strings.Replace(s, "10.42.0.1/24", "10.42.0.0/24", 1) },
		"the last counts":       func(s string) string { return "FLANNEL_MTU=9000\n" + s },
	} {
		t.Run(name, func(t *testing.T) {
			have, err := subnetenv.Parse([]byte(edit(string(whole))))
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(want, have); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseNamesWhatIsWrong(t *testing.T) {
	whole, err := os.ReadFile("testdata/dual.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"no MTU", "FLANNEL_MTU=1450\n", "", "FLANNEL_MTU is missing"},
		{"no masquerade", "FLANNEL_IPMASQ=true\n", "", "FLANNEL_IPMASQ is missing"},
		{"half a family", "FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\n", "", "FLANNEL_IPV6_SUBNET is missing"},
		{"the other half", "FLANNEL_NETWORK=10.42.0.0/16\n", "", "FLANNEL_NETWORK is missing"},
		{"not a number", "1450", "many", `FLANNEL_MTU="many"`},
		{"too small", "1450", "12", `FLANNEL_MTU="12"`},
		{"not a prefix", "10.42.0.1/24", "10.42.0.1", `FLANNEL_SUBNET="10.42.0.1"`},
		{"a list of subnets", "10.42.0.1/24", "10.42.0.1/24,10.42.1.1/24", "FLANNEL_SUBNET="},
		{"the wrong family", "10.42.0.1/24", "fd00::1/64", "an IPv4 prefix such as"},
		{"mapped", "2001:cafe:42::1/64", "::ffff:10.0.0.1/120", "an IPv6 prefix such as"},
		{"a hole in a list", "10.42.0.0/16", "10.42.0.0/16,,10.43.0.0/16", "FLANNEL_NETWORK="},
		{"not true", "true", "perhaps", `FLANNEL_IPMASQ="perhaps"`},
		{"an open quote", "true", `"true`, "FLANNEL_IPMASQ="},
		{"cut in a key", "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "FLANNEL_M", `line 5: "FLANNEL_M"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(string(whole), c.from, c.to, 1)
			_, err := subnetenv.Parse([]byte(text))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "restart weftd") {
				t.Errorf("want %q and the next step, have %v", c.want, err)
			}
		})
	}
	if _, err := subnetenv.Parse(nil); err == nil || !strings.Contains(err.Error(), "FLANNEL_SUBNET is missing") {
		t.Errorf("empty file: %v", err)
	}
}

func TestWriteThenRead(t *testing.T) {
	env := cases()["dual"]
	path := filepath.Join(t.TempDir(), "run", "flannel", "subnet.env")
	if _, err := subnetenv.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not there yet: %v", err)
	}
	if err := subnetenv.Write(path, env); err != nil {
		t.Fatal(err)
	}
	have, err := subnetenv.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(env, have); d != "" {
		t.Error(d)
	}
	before := stat(t, path)
	if want := fs.FileMode(0o644); before.Mode() != want {
		t.Errorf("mode %v, want %v", before.Mode(), want)
	}

	if err := subnetenv.Write(path, env); err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, stat(t, path)) {
		t.Error("equal content was written again")
	}

	env.MTU = 1400
	if err := subnetenv.Write(path, env); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, stat(t, path)) {
		t.Error("the file was changed in place: a reader may see half of it")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("temporary files stay behind: %v, %v", left, err)
	}
}

func TestWriteThatCannot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")
	// A directory in the file's place stops the last step, for root too.
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := subnetenv.Write(path, cases()["ipv4"])
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--subnet-file") {
		t.Errorf("want the path and the next step, have %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("temporary files stay behind: %v, %v", left, err)
	}
}

func TestReadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(path, []byte("FLANNEL_MTU=1450\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := subnetenv.Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("want the path, have %v", err)
	}
}

func TestFirstHost(t *testing.T) {
	for subnet, want := range map[string]string{
		"10.42.3.0/24": "10.42.3.1", "10.42.3.9/24": "10.42.3.1",
		"fd00:5::/64": "fd00:5::1", "10.0.0.7/32": "10.0.0.7",
	} {
		if have := subnetenv.FirstHost(netip.MustParsePrefix(subnet)); have.String() != want {
			t.Errorf("%s: want %s, have %s", subnet, want, have)
		}
	}
}

func stat(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// FuzzParse: no input panics, and what is taken survives a round trip.
func FuzzParse(f *testing.F) {
	for _, env := range cases() {
		f.Add(subnetenv.Encode(env))
	}
	f.Add([]byte("export FLANNEL_NETWORK='10.0.0.0/8' # c\nFLANNEL_SUBNET=10.0.0.1/32\nFLANNEL_MTU=68\nFLANNEL_IPMASQ=0"))
	f.Add([]byte("=\n\"\n'\nFLANNEL_MTU"))
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := subnetenv.Parse(b)
		if err != nil {
			return
		}
		encoded := subnetenv.Encode(env)
		again, err := subnetenv.Parse(encoded)
		if err != nil {
			t.Fatalf("our own text is refused: %v\n%s", err, encoded)
		}
		if d := diff(env, again); d != "" {
			t.Error(d)
		}
		if !bytes.Equal(encoded, subnetenv.Encode(again)) {
			t.Error("encoding is not stable")
		}
	})
}
